"""Evaluate a pipe: its loss and metrics on examples with targets."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, cast, final

import torch
from torch import Tensor, distributed

from pipeline.builtin.class_metrics import has_class_scores
from pipeline.builtin.perplexity import Perplexity, get_sum_type
from pipeline.builtin.span_f1 import SpanF1
from pipeline.core.contexts import temporary_mode
from pipeline.core.join import join
from pipeline.core.running import locate_errors, run_stages
from pipeline.core.stage import StageBase, Stream
from pipeline.core.stream_chain import StreamChain
from pipeline.data.batches import is_batch
from pipeline.data.metadata import BatchMetadata, TargetTensor, has_target
from pipeline.data.scores import Predictions
from pipeline.errors import CompositionError, TargetError
from pipeline.stages.bptt_windows import BPTTWindows
from pipeline.stages.heads import NextToken
from pipeline.training.carry import CarriedStates, find_carrying_stage
from pipeline.training.confusion import MOST_CLASSES, ClassResult, ConfusionCounter
from pipeline.training.evaluation import Evaluation
from pipeline.training.losses import Loss, MeanLoss
from pipeline.training.metrics import (
    MetricGroup,
    MetricsOption,
    choose_metrics,
    find_heads,
    gather_over_ranks,
    is_joint,
)
from pipeline.training.split_pipe import SplitPipe

A = TypeVar("A")


def evaluate(
    pipe: StreamChain[A, Predictions[object, object]],
    examples: Iterable[A],
    *,
    metrics: MetricsOption | None = None,
    over_ranks: bool = False,
) -> Evaluation:
    """Evaluate a pipe; see `StreamChain.evaluate`."""
    totals = Totals(pipe, metrics)
    share = (0, 1)
    # Windows cannot be shared, since each continues the one before: every rank has them all.
    over_ranks = over_ranks and not any(isinstance(stage, BPTTWindows) for stage in pipe.stages.values())
    if over_ranks and distributed.is_available() and distributed.is_initialized():
        share = (distributed.get_rank(), distributed.get_world_size())
    for rows, steps, predictions in predict_with_targets(pipe, examples, share):
        totals.add(predictions, rows, steps)
    if over_ranks:
        # In the order of the ranks, so that all of them get the same numbers to the last bit.
        first, *others = gather_over_ranks(totals)
        for other in others:
            first.merge(other)
        totals = first
    return totals.read()


def predict_with_targets(
    pipe: StreamChain[A, Predictions[object, object]], examples: Iterable[A], share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[int, int, Predictions[object, object]]]:
    """Yield the number of rows, the number of steps, and the predictions of each batch, with their targets.

    Batches are those of prediction: not shuffled, and rows that exceed the budget are alone. Rows in windows
    (`BPTTWindows`) are predicted as in training, with carried states.

    Args:
        pipe: the pipe; its mode is restored between batches.
        examples: the examples.
        share: a rank and the number of ranks, each of which gets every n-th batch.

    Raises:
        CompositionError: if the pipe does not end with a head, or has weights before its last stream.
    """
    split = SplitPipe.of(pipe)
    windows = split.windows is not None
    batches = cast("Stream[Any, Any]", join(*(stage for _, stage in split.data)))
    number = find_carrying_stage(split.model) if windows else None
    carried = None if number is None else CarriedStates(number)
    device = next((weight.device for weight in pipe.parameters()), None)
    # Prediction would reject rows longer than a window.
    flow = batches(examples) if windows else batches.predict_batches(examples)
    rank, ranks = share

    def run() -> Iterator[tuple[int, int, Predictions[object, object]]]:
        for index, batch in enumerate(flow):
            if index % ranks != rank:
                continue
            rows, steps = _count(batch)
            # Not around the loop: between two batches the caller must find the model in its own mode.
            with temporary_mode(pipe, training=False), torch.no_grad():
                given = batch if carried is None else carried.start(batch)
                found: object = run_stages(split.model, given, device, predicts=True, observer=carried)
            if not isinstance(found, Predictions):
                msg = f"evaluate needs a pipe that ends with a head, but {pipe!r} does not; join one, like Classify."
                raise CompositionError(msg)
            yield rows, steps, cast("Predictions[object, object]", found)

    return locate_errors(run(), examples)


def _count(batch: object) -> tuple[int, int]:
    """Return the number of rows that begin in a batch, and of its steps. Both are on the CPU already."""
    if not is_batch(batch):
        return 0, 0
    metadata = batch.metadata
    continued = int((metadata.continues & (metadata.row_ids >= 0)).sum())
    return metadata.rows - continued, int(batch.lengths.sum())


@final
class Totals:
    """The sums of an evaluation, batch by batch, on the device of the predictions.

    Args:
        pipe: the pipe.
        metrics: its metrics; by default those of its head.
    """

    def __init__(self, pipe: StreamChain[Any, Any], metrics: MetricsOption | None = None) -> None:
        self.metrics: Final[MetricGroup] = choose_metrics(pipe, metrics)
        heads: Mapping[str, StageBase] = find_heads(pipe.stages) or {}
        # Of a vocabulary, a confusion matrix would be huge.
        self._without_confusion: Final = {
            name
            for name, head in heads.items()
            if isinstance(head, NextToken) or "perplexity" in getattr(head, "default_metrics", ())
        }
        self.rows: int = 0
        self.steps: int = 0
        self.rows_with_target: Tensor | int = 0
        self.losses: Final[dict[str, tuple[Tensor, Tensor]]] = {}
        self.head_weights: Mapping[str, float] = {}
        self.confusions: Final[dict[str, ConfusionCounter]] = {}

    def add(self, predictions: Predictions[object, object], rows: int, steps: int) -> None:
        """Add the predictions of a batch, with its number of rows and steps.

        Raises:
            TargetError: if the targets are not those of the head or of a metric.
        """
        self.rows += rows
        self.steps += steps
        metadata = cast("BatchMetadata", getattr(predictions, "metadata"))  # noqa: B009 - those of a user's own have it too
        if metadata.targets is None and metadata.named_targets is None:
            # No row of the batch has a target.
            return
        parts: Mapping[str, Predictions[object, object]] = {"": predictions}
        if is_joint(predictions):
            parts, self.head_weights = predictions.parts, predictions.weights
        loss = Loss(heads=[*parts] if "" not in parts else ())
        # Perplexity sums the loss too, and over a vocabulary a second time would take half as long as the model.
        has_loss = "" in parts and self._find_perplexity() is not None
        losses: Mapping[str, Tensor] = {} if has_loss else loss.compute(predictions)[1]
        for name, weight in loss.weigh(metadata).items() if losses else ():
            # In float64, since many batches are added.
            total = losses[name].detach().to(get_sum_type(losses[name].device)) * weight
            self.losses[name] = _add(self.losses.get(name), (total, weight))
        self.rows_with_target = self.rows_with_target + _count_rows_with_target(metadata)
        self.metrics.update(predictions)
        for name, part in parts.items():
            if has_class_scores(part) and name not in self._without_confusion and len(part.names) <= MOST_CLASSES:
                self.confusions.setdefault(name, ConfusionCounter(part.names)).add(part)

    def _find_perplexity(self) -> Perplexity | None:
        return next((metric for metric in self.metrics.metrics.values() if isinstance(metric, Perplexity)), None)

    def merge(self, other: "Totals") -> None:
        """Add the sums of another part of the data."""
        self.rows += other.rows
        self.steps += other.steps
        self.rows_with_target = int(self.rows_with_target) + int(other.rows_with_target)
        self.head_weights = self.head_weights or other.head_weights
        for name, found in other.losses.items():
            self.losses[name] = _add(self.losses.get(name), found)
        self.metrics.merge(other.metrics)
        for name, counter in other.confusions.items():
            self.confusions.setdefault(name, ConfusionCounter(counter.names)).merge(counter)

    def read(self) -> Evaluation:
        """Return the results.

        Raises:
            TargetError: if no example has a target, or a metric has none.
        """
        targets = int(self.rows_with_target)
        if not targets:
            got = "no example" if not self.rows else f"{self.rows:,} without one"
            msg = f"evaluate needs examples with targets, got {got}; pass inputs as Example(input, target=...)."
            raise TargetError(msg, rows=self.rows)
        mean = MeanLoss(self.head_weights)
        sums = {name: (float(total), float(weight)) for name, (total, weight) in self.losses.items()}
        perplexity = self._find_perplexity()
        if not sums and perplexity is not None and perplexity.sums is not None and perplexity.targets is not None:
            sums[""] = (float(perplexity.sums[0]), float(perplexity.targets))
        mean.add({name: sums[name][0] for name in sums}, {name: sums[name][1] for name in sums})
        spans = {
            name.rpartition(".")[0]: [ClassResult(kind, *counts) for kind, counts in metric.counts_by_type().items()]
            for name, metric in self.metrics.metrics.items()
            if isinstance(metric, SpanF1)
        }
        return Evaluation(
            mean.compute(),
            self.metrics.compute(),
            rows=self.rows,
            steps=self.steps,
            without_target=self.rows - targets,
            confusions={name: counter.read() for name, counter in self.confusions.items()},
            spans=spans,
            losses={name: total / weight for name, (total, weight) in sums.items() if name and weight},
        )


def _add(before: tuple[Tensor, Tensor] | None, found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    if before is None:
        return found
    total, weight = before
    return total + found[0].to(total.device), weight + found[1].to(weight.device)


def _count_rows_with_target(metadata: BatchMetadata) -> Tensor:
    """Return the number of rows with a target, or with one for any of several heads, that begin in this batch."""
    named: Mapping[str, TargetTensor] = metadata.named_targets or {}
    given = [metadata.targets, *named.values()]
    has_any = [_has_row_target(targets) for targets in given if targets is not None]
    # A row in windows counts once: it is judged by its first window.
    begins = (~metadata.continues).to(has_any[0].device, non_blocking=True)
    return (torch.stack(has_any).any(0) & begins).sum()


def _has_row_target(targets: TargetTensor) -> Tensor:
    known = has_target(targets)
    return known.any(1) if known.ndim > 1 else known
