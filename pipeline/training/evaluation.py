"""The result of an evaluation: loss, metrics, and precision and recall of each class."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

import attrs
from typing_extensions import override

from pipeline.errors import OptionError
from pipeline.tables import Column, ShownAsTable, Table
from pipeline.text import suggest_name
from pipeline.training.confusion import ClassResult, Confusion, make_class_table
from pipeline.training.metrics import LOSS


@final
@attrs.frozen(eq=False)
class Evaluation(ShownAsTable):
    """How good the predictions of a pipe are. `print` shows it as a table.

    Attributes:
        loss: the mean of the loss over all targets; of several heads, the weighted sum of their means.
        metrics: the metrics by name; of several heads, `head.metric`.
        rows: the number of rows.
        steps: the number of steps in them.
        without_target: the number of rows that do not count, because they have no target, or no steps.
        confusions: the confusion matrix of each head that predicts one class per row or step, under the name of the
            head, which is empty if there is only one; none for language models and for more than 1,000 classes.
        spans: the results of each type of spans, in the same way, where `span_f1` is among the metrics.
        losses: the loss of each of several heads by name.

    Example:
        >>> import torch
        >>> confusion = Confusion(torch.tensor([[8, 2], [1, 9]]), ["ham", "spam"])
        >>> counts = {"rows": 21, "steps": 90, "without_target": 1}
        >>> evaluation = Evaluation(0.4, {"accuracy": 0.85}, **counts, confusions={"": confusion})
        >>> evaluation["accuracy"], evaluation.confusion.counts.tolist()
        (0.85, [[8, 2], [1, 9]])
        >>> print(evaluation)
        loss 0.4000, accuracy 0.8500
        class  precision  recall     F1  targets
        ham        0.889   0.800  0.842       10
        spam       0.818   0.900  0.857       10
        21 rows, 90 steps
        1 row without a target or without steps does not count
    """

    loss: float
    metrics: Mapping[str, float]
    rows: int = attrs.field(kw_only=True)
    steps: int = attrs.field(kw_only=True)
    without_target: int = attrs.field(default=0, kw_only=True)
    confusions: Mapping[str, Confusion] = attrs.field(factory=dict[str, Confusion], kw_only=True)
    spans: Mapping[str, Sequence[ClassResult]] = attrs.field(factory=dict[str, Sequence[ClassResult]], kw_only=True)
    losses: Mapping[str, float] = attrs.field(factory=dict[str, float], kw_only=True)

    def __getitem__(self, name: str) -> float:
        """Return the loss or a metric.

        Raises:
            OptionError: if there is no such metric.
        """
        known = {LOSS: self.loss, **self.metrics}
        if name not in known:
            msg = f"the evaluation has {', '.join(known)}, got {name!r}.{suggest_name(name, known)}"
            raise OptionError(msg, metric=name)
        return known[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the loss and the metrics."""
        yield from (LOSS, *self.metrics)

    @property
    def confusion(self) -> Confusion:
        """The confusion matrix of a pipe with one; see `confusions` for several heads.

        Raises:
            OptionError: if there is no matrix, or there are several.
        """
        return self._get_confusion(None)

    @property
    def classes(self) -> Mapping[str, Sequence[ClassResult]]:
        """The results of each class, by the name of the head; where there are spans, those of their types."""
        return {name: confusion.classes() for name, confusion in self.confusions.items()} | dict(self.spans)

    @override
    def table(self) -> Table:
        """Return the loss, the metrics, and precision, recall and F1 of each class."""
        steps = "1 step" if self.steps == 1 else f"{self.steps:,} steps"
        notes = [f"{_count_rows(self.rows)}, {steps}"]
        if self.without_target:
            verb = "does" if self.without_target == 1 else "do"
            notes.append(f"{_count_rows(self.without_target)} without a target or without steps {verb} not count")
        numbers = {LOSS: self.loss, **{f"{head}.{LOSS}": loss for head, loss in self.losses.items()}, **self.metrics}
        shown = {name: _format_number(value) for name, value in numbers.items()}
        classes = self.classes
        if not classes:
            rows = [[name, value] for name, value in shown.items()]
            return Table(["metric", Column("value", "right")], rows, notes=notes)
        title = ", ".join(f"{name} {value}" for name, value in shown.items())
        return make_class_table(classes, title, notes)

    def plot(self, file: str | os.PathLike[str], *, head: str | None = None) -> Path:
        """Draw the confusion matrix. Needs the extra `plots`.

        Args:
            file: a path that ends in .svg, .png or .pdf.
            head: the head, if several have one.

        Raises:
            MissingExtraError: if matplotlib is not installed.
            OptionError: for a suffix of another format, or if there is no such confusion matrix.
        """
        return self._get_confusion(head).plot(file)

    def to_dict(self) -> dict[str, object]:
        """Return everything as numbers, texts, lists and mappings, for JSON."""
        return {
            "loss": self.loss,
            "losses": dict(self.losses),
            "metrics": dict(self.metrics),
            "rows": self.rows,
            "steps": self.steps,
            "without_target": self.without_target,
            "classes": {head: [each.to_dict() for each in classes] for head, classes in self.classes.items()},
            "confusions": {
                head: {"names": list(confusion.names), "counts": _to_lists(confusion)}
                for head, confusion in self.confusions.items()
            },
        }

    def _get_confusion(self, head: str | None) -> Confusion:
        if head is None and len(self.confusions) == 1:
            return next(iter(self.confusions.values()))
        if head is not None and head in self.confusions:
            return self.confusions[head]
        known = ", ".join(name or "the only head" for name in self.confusions) or "none"
        msg = (
            f"head must be one with a confusion matrix, {known}, got {head!r}; language models, numbers and several "
            "classes per row have none."
        )
        raise OptionError(msg, head=head)


def _to_lists(confusion: Confusion) -> list[list[int]]:
    return [[int(count) for count in row] for row in confusion.counts]


def _count_rows(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


def _format_number(value: float) -> str:
    # Four digits of shares and losses; of large numbers the fraction says little.
    return f"{value:,.4f}" if abs(value) < 1_000 else f"{value:,.1f}"
