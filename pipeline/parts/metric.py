"""Base class of metrics: a number that says how good the predictions of many batches are."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from pipeline.data.scores import Predictions


class Metric(ABC):
    """Accumulates batches of predictions, and computes one number from all of them.

    The order of the batches and the rows must not matter, nor the padding. Rows and steps without a target do not
    count. A metric of part of the data can be merged with that of the rest, for example of other ranks. It can be
    pickled, since ranks exchange their metrics.

    Attributes:
        higher_is_better: the direction in which predictions are better, for early stopping and the best checkpoint;
            None if the metric does not say.

    Example:
        >>> import torch
        >>> from pipeline.data.metadata import BatchMetadata
        >>> from pipeline.data.scores import Scores
        >>> from pipeline.registry import registry
        >>> accuracy = registry().metrics.make("accuracy")
        >>> metadata = BatchMetadata(torch.tensor([0, 1]), targets=torch.tensor([1, 1]))
        >>> accuracy.update(Scores(torch.eye(2), ["no", "yes"], metadata=metadata))
        >>> accuracy.compute(), accuracy.higher_is_better
        (0.5, True)
    """

    higher_is_better: bool | None = True

    @abstractmethod
    def update(self, predictions: Predictions[object, object], /) -> None:
        """Add a batch of predictions with its targets.

        Raises:
            TargetError: if the metric is not for such predictions, or they have no targets.
        """

    @abstractmethod
    def compute(self) -> float:
        """Return the metric of everything that was added. It may be called repeatedly.

        Raises:
            TargetError: if no target was added.
        """

    @abstractmethod
    def merge(self, other: "Metric", /) -> None:
        """Add everything that was added to another metric of the same class and options.

        Raises:
            OptionError: if it is of another class.
        """

    def results(self) -> Mapping[str, float]:
        """Return every number of the metric by its name; by default only `compute()`, under the empty name.

        A metric of several numbers, such as one per class, returns each under a name of its own. An evaluation reports
        them as `metric.name`.

        Raises:
            TargetError: if no target was added.
        """
        return {"": self.compute()}
