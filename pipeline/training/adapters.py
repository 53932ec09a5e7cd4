"""A pipe as other training libraries take it: its model with the loss as one module, and a loader of its batches."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Never, TypedDict, TypeVar, cast, final

from torch import Tensor, distributed, nn
from typing_extensions import TypeIs, Unpack

from pipeline.checks.hints import describe
from pipeline.core.stream_chain import StreamChain
from pipeline.data.batches import Batch
from pipeline.data.kinds import Kind
from pipeline.data.losses import sum_over_ranks
from pipeline.data.scores import Predictions
from pipeline.data.values import Joint
from pipeline.errors import OptionError
from pipeline.parts.added_loss import add_terms, collect_added_losses, compute_share
from pipeline.stages.several_heads import Heads
from pipeline.training.batches import Epochs, make_training_data
from pipeline.training.carry import CarriedStates, find_carrying_stage
from pipeline.training.losses import Loss, check_weight_per_class
from pipeline.training.model import Model
from pipeline.training.optimizers import group_parameters
from pipeline.training.split_pipe import SplitPipe

__all__ = ["LossOptions", "ModelWithLoss", "group_parameters", "make_loader"]

A = TypeVar("A")


class LossOptions(TypedDict, total=False):
    """The options of the loss, which mean what they mean in `fit`.

    Attributes:
        class_weights: the weight of each class, such as `labels.class_weights(targets)`; by head if there are several.
        label_smoothing: the probability that is spread over all classes.
        loss: other options of the head's loss by name; by head if there are several.
    """

    class_weights: Tensor | Mapping[str, Tensor] | None
    label_smoothing: float
    loss: Mapping[str, object] | None


@final
class ModelWithLoss(nn.Module):
    """The model of a pipe with its loss: from a batch to `{"loss": ..., "logits": ...}`.

    Accelerate, `transformers.Trainer` and DDP take this module, and train the pipe's own weights. Its gradients are
    those of `fit`: on several ranks, the loss is divided by the targets of all ranks, and not by those of each. In
    evaluation mode, it is the plain loss, without class weights and smoothing. Batches are moved to the device of the
    weights.

    With `BPTTWindows`, the states of the encoder are carried from batch to batch, apart for training and evaluation.

    Args:
        pipe: the pipe.
        options: see `LossOptions`.

    Raises:
        CompositionError: if the pipe has no model, or weights before its last stream.

    Example:
        >>> from pipeline import Bucket, Example, FromIds, Pad, classifier
        >>> pipe = FromIds() >> Bucket(rows=2) >> Pad() >> classifier(9, 3, hidden_size=4)
        >>> model = ModelWithLoss(pipe)
        >>> for batch in make_loader(pipe, [Example([1, 2, 3], target=0), Example([4], target=2)]):
        ...     found = model(batch)
        >>> found["loss"].ndim, found["logits"].shape
        (0, torch.Size([2, 3]))
    """

    def __init__(self, pipe: StreamChain[Never, Predictions[object, object]], **options: Unpack[LossOptions]) -> None:
        super().__init__()
        self.pipe: Final = pipe
        split = SplitPipe.of(_check_pipe(pipe))
        number = None if split.windows is None else find_carrying_stage(split.model)
        self._carried: Final = None if number is None else CarriedStates(number)
        # By mode: a validation within an epoch must not change the states of training.
        self._carries: Final[dict[bool, tuple[Tensor, ...] | None]] = {True: None, False: None}
        # In a tuple, which hides it from torch: its stages are those of the pipe, and would be saved twice.
        self._model: Final = (Model(split.model, self._carried),)
        self.head_weights: Final = _get_head_weights(split.model[-1][1])
        check_weight_per_class(options.get("class_weights"), split.model[-1][1])
        self.loss: Final = Loss(
            options.get("class_weights"), options.get("label_smoothing", 0.0), options.get("loss"), [*self.head_weights]
        )

    def forward(self, batch: Batch[Kind]) -> dict[str, Any]:
        """Return the loss and the scores before softmax; of several heads, the scores by head."""
        with collect_added_losses() as terms:
            scores = self.predict(batch)
        over = None
        share: Tensor | float = 1.0
        if self.training and distributed.is_available() and distributed.is_initialized():
            # DDP averages the gradients of the ranks. Divided by the mean weight of a rank, they are those of one
            # process with the rows of all ranks.
            weights = self.loss.weigh(scores.metadata)
            world_size = distributed.get_world_size()
            means = {name: weight / world_size for name, weight in sum_over_ranks(weights).items()}
            over = self.loss.to_over(means)
            share = compute_share(weights, means)
        loss, _ = self.loss.compute(scores, over, plain=not self.training)
        loss = add_terms(loss, terms if self.training else [], share)
        if isinstance(scores, Joint):
            return {"loss": loss, "logits": {name: cast("Any", part).values for name, part in scores.parts.items()}}
        return {"loss": loss, "logits": scores.values}

    def predict(self, batch: Batch[Kind]) -> Any:  # noqa: ANN401 - the predictions of any head
        """Return the predictions of a batch, with its targets."""
        device = next((weight.device for weight in self.pipe.parameters()), None)
        if device is not None and batch.values.device != device:
            batch = batch.to(device)
        if self._carried is None:
            return self._model[0](batch)
        # In the first batch of an epoch no row continues, and the batch may have another number of rows.
        continues = bool(batch.metadata.continues.any())
        self._carried.carry = self._carries[self.training] if continues else None
        scores = self._model[0](self._carried.start(batch))
        self._carries[self.training] = self._carried.carry
        return scores


def make_loader(
    pipe: StreamChain[A, object], examples: Iterable[A], *, seed: int | None = None, num_workers: int = 0
) -> Epochs:
    """Make a loader of the batches on which `fit` would train, in the same order, with a state for checkpoints.

    Each iteration is the next epoch. For records that are read by number, it is a `pipeline.loading.Loader`, and for a
    stream a `StreamLoader`. Each rank gets its own batches.

    Args:
        pipe: the pipe, of which the data stages are used.
        examples: the records.
        seed: the seed of the order; by default that of `Bucket`.
        num_workers: the number of processes that make batches; 0 for this one.

    Raises:
        OptionError: if the stages do not support workers.
        PipelineError: as the stages.
    """
    return make_training_data(SplitPipe.of(_check_pipe(pipe)), examples, seed=seed, num_workers=num_workers).epochs


def _check_pipe(pipe: object) -> StreamChain[Any, Any]:
    """Return a pipe.

    Raises:
        OptionError: if it is something else.
    """
    if not _is_pipe(pipe):
        msg = f"pipe must be a whole pipe, with the stages that make batches, got {describe(pipe)}; join data >> model."
        raise OptionError(msg)
    return pipe


def _is_pipe(value: object) -> TypeIs[StreamChain[Any, Any]]:
    return isinstance(value, StreamChain)


def _is_heads(value: object) -> TypeIs[Heads[Any, Any, Any]]:
    return isinstance(value, Heads)


def _get_head_weights(head: object) -> Mapping[str, float]:
    """Return the weight of the loss of each of several heads; empty for one."""
    return head.weights if _is_heads(head) else {}
