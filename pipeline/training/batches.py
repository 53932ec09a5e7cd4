"""The batches of an epoch: from the data stages of a pipe, with a state that a checkpoint can keep."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar, cast, final

import attrs

from pipeline.batching.automatic import FEWEST_BATCHES, choose_budget
from pipeline.batching.cursor import StreamCursor
from pipeline.batching.lengths import Lengths
from pipeline.batching.policies import Budget, Policy
from pipeline.core.join import join
from pipeline.core.running import NumberedStage, run_stages
from pipeline.core.stage import Stage, StageBase, Stream, is_stream
from pipeline.core.stream_chain import StreamChain
from pipeline.data.batches import Batch, is_batch
from pipeline.data.iteration import find_length, iterate
from pipeline.data.kinds import Kind
from pipeline.data.report import Report
from pipeline.data.rows import Row
from pipeline.errors import CompositionError, OptionError
from pipeline.loading.loader import Loader
from pipeline.loading.ranks import get_rank_and_world_size
from pipeline.loading.records import Indexable
from pipeline.loading.rows import RowDataset
from pipeline.loading.sampler import PlannedBatches
from pipeline.loading.stream_dataset import StreamDataset
from pipeline.loading.stream_loader import StreamLoader
from pipeline.sources.source import Source
from pipeline.sources.tokenized import lengths_of
from pipeline.stages.bptt_windows import BPTTWindows
from pipeline.stages.bucket import Bucket
from pipeline.stages.input_stage import InputStage
from pipeline.stages.resumable import Resumable
from pipeline.training.cached_rows import cache_rows
from pipeline.training.memory_limit import limit_by_memory
from pipeline.training.split_pipe import SplitPipe

A = TypeVar("A")


FEW_BATCHES: Final = 50
"""The number of batches per epoch below which `fit` advises a smaller budget."""


AnyBatch = Batch[Kind]


class Epochs(Protocol):
    """Batches, epoch after epoch, with a state that continues after the last batch that was yielded."""

    report: Report

    @property
    def epoch(self) -> int:
        """The current epoch, or the next one if none has begun."""
        ...

    def __iter__(self) -> Iterator[AnyBatch]: ...
    def state_dict(self) -> dict[str, object]:
        """Return the state, for JSON."""
        ...

    def load_state_dict(self, state: Mapping[str, object], /) -> None:
        """Continue where a state was saved."""
        ...


@final
@attrs.frozen(eq=False)
class TrainingData:
    """The batches to train on.

    Attributes:
        epochs: the batches.
        batches: their number per epoch in the first epoch; None if it is not known.
        notes: what a user should know about them.
    """

    epochs: Epochs
    batches: int | None
    notes: tuple[str, ...] = ()


def make_training_data(
    split: SplitPipe,
    examples: Iterable[Any],
    *,
    seed: int | None = None,
    num_workers: int = 0,
    max_padded_steps: int | None = None,
    pin_memory: bool = False,
) -> TrainingData:
    """Make the batches of a pipe's data stages, by the best of three ways that these stages allow.

    1. An input stage, `Bucket`, and stages that make a batch of rows, over records that are read by number: the plan of
       an epoch is made from the lengths, and rows are read when their batch is due.
    2. One resumable stream among other stages: the stages read the records in order.
    3. Anything else: the stages as they are.

    All three yield the same batches in the same order, those of `data(examples)`.

    Args:
        split: the pipe.
        examples: the records.
        seed: the seed of the order; by default that of `Bucket`.
        num_workers: the number of processes that make batches.
        max_padded_steps: the largest budget for a `Bucket` without limits; by default as the memory allows.
        pin_memory: put batches into page-locked memory.

    Raises:
        OptionError: if the stages do not support workers.
        CompositionError: if there are several ranks, but the stages cannot share rows among them.
        PipelineError: as the stages.
    """
    before, after = _split_at_stream(split)
    stream = split.data[len(before)][1] if after is not None else None
    is_planned = (
        isinstance(stream, Bucket)
        and len(before) == 1
        and isinstance(before[0][1], InputStage)
        and _is_indexable(examples)
        and stream.buffer_size is None
    )
    if is_planned and after is not None:
        data = _plan_batches(
            cast("Bucket[Kind]", stream),
            cast("InputStage[Any, Kind]", before[0][1]),
            after,
            cast("Indexable[Any]", examples),
            seed,
            {"num_workers": num_workers, "pin_memory": pin_memory, "persistent_workers": num_workers > 0},
            limit_by_memory(split.model) if max_padded_steps is None else max_padded_steps,
        )
        if data is not None:
            return data
    stages = [_with_seed(stage, seed) for _, stage in split.data]
    chain = cast("Stream[Any, AnyBatch]", join(*stages) if len(stages) > 1 else stages[0])
    if isinstance(stream, Resumable):
        if isinstance(stream, BPTTWindows) and num_workers > 1:
            msg = (
                f"num_workers must be 0 or 1 with BPTTWindows, whose windows continue each other, got {num_workers}; "
                "lower it."
            )
            raise OptionError(msg, num_workers=num_workers)
        loader = StreamLoader(StreamDataset(examples, chain), num_workers=num_workers, pin_memory=pin_memory)
        return TrainingData(cast("Epochs", loader), None)
    if get_rank_and_world_size(None, None)[1] > 1:
        msg = (
            "several ranks need a pipe with one Bucket or BPTTWindows, which shares its rows among them, and no other "
            f"stream, but it has {', '.join(type(stage).__name__ for _, stage in split.data)}; use Bucket alone."
        )
        raise CompositionError(msg)
    if num_workers:
        msg = f"num_workers must be 0 without one Bucket or BPTTWindows in the pipe, got {num_workers}; leave it out."
        raise OptionError(msg, num_workers=num_workers)
    return TrainingData(_ChainEpochs(chain, examples), None)


def count_batches(split: SplitPipe, examples: Iterable[Any]) -> int | None:
    """Count the batches of an epoch of a single resumable stream by reading all rows; None for data without an end."""
    before, after = _split_at_stream(split)
    if after is None or find_length(examples) is None:
        return None
    stream = cast("Resumable[Any, Any]", split.data[len(before)][1])
    rows: Iterator[Any] = iterate(examples)
    for _, stage in before:
        rows = cast("Stage[Any, Any]", stage).map(rows)
    return sum(1 for _ in stream.resume(list(rows), StreamCursor()))


def _split_at_stream(split: SplitPipe) -> tuple[Sequence[NumberedStage], Sequence[NumberedStage] | None]:
    """Return the stages before and after the only stream; None for those after if there are several."""
    streams = [index for index, (_, stage) in enumerate(split.data) if is_stream(stage)]
    if len(streams) != 1 or not isinstance(split.data[streams[0]][1], Resumable):
        return split.data, None
    return split.data[: streams[0]], split.data[streams[0] + 1 :]


def _is_indexable(examples: object) -> bool:
    if not hasattr(examples, "__getitem__") or find_length(examples) is None:
        return False
    # Reading by number may be impossible, or slow, for a source that reads a compressed file in order.
    return not isinstance(examples, str | bytes) and not _is_sequential(examples)


def _is_sequential(examples: object) -> bool:
    if not isinstance(examples, Source):
        return False
    source = cast("Source[object]", examples)
    try:
        return bool(len(source)) and not [source[0]]
    except TypeError:  # UnsizedError: records can only be read in order
        return True


def _plan_batches(
    bucket: Bucket[Kind],
    input_stage: InputStage[Any, Kind],
    after: Sequence[NumberedStage],
    examples: Indexable[Any],
    seed: int | None,
    options: Mapping[str, Any],
    max_padded_steps: int,
) -> TrainingData | None:
    # Workers make rows beside the training, and would each get a copy of those in memory.
    cached = None if options["num_workers"] else cache_rows(cast("Iterable[Any]", examples), input_stage)
    lengths = lengths_of(cast("Iterable[Any]", examples), input_stage) if cached is None else cached.lengths
    policy = bucket.choose_policy(lengths, max_padded_steps=max_padded_steps)
    if policy.too_long == "truncate" and lengths.ndim > 1:
        # Only the bucket itself knows which side to truncate.
        return None
    planned = PlannedBatches(lengths, policy, seed=_choose_seed(bucket, seed), uneven=bucket.uneven)
    rows = RowDataset(examples, input_stage) if cached is None else cached
    loader = Loader(rows, planned, _Collate(after), **options)
    batches = len(loader)
    notes: list[str] = []
    if bucket.automatic and isinstance(policy, Budget):
        notes.append(f"Bucket() takes max_padded_steps={policy.max_padded_steps:,}: {batches:,} batches per epoch.")
    return TrainingData(cast("Epochs", loader), batches, (*notes, *_advise(batches, lengths, policy, bucket)))


def _advise(batches: int, lengths: Any, policy: Policy, bucket: Bucket[Kind]) -> Iterator[str]:  # noqa: ANN401 - an array
    """Yield advice for an epoch of few batches, unless each row is alone already."""
    if batches >= FEW_BATCHES or batches >= len(lengths) or bucket.automatic:
        return
    wanted = min(FEWEST_BATCHES, len(lengths))
    budget = choose_budget(lengths, fewest_batches=wanted).max_padded_steps
    rows = max(len(lengths) // FEWEST_BATCHES, 1)
    fix = f"Bucket(rows={rows:,}), or Bucket()"
    if isinstance(policy, Budget):
        # A row that is longer than the budget would be an error, but it is alone in its batch with Bucket().
        is_possible = int(Lengths.of(lengths).totals().max()) <= budget < policy.max_padded_steps
        fix = f"Bucket(max_padded_steps={budget:,}), or Bucket()" if is_possible else "Bucket()"
    yield (
        f"An epoch has only {batches:,} batches, and the weights change once per batch; use {fix}, for about {wanted}."
    )


def _choose_seed(bucket: Bucket[Kind], seed: int | None) -> int | None:
    """Return the seed of the order. A bucket that does not shuffle stays so."""
    return seed if seed is not None and bucket.seed is not None else bucket.seed


def _with_seed(stage: StageBase, seed: int | None) -> StageBase:
    """Return a bucket like the given one with another seed; other stages as they are."""
    if not isinstance(stage, Bucket):
        return stage
    bucket = cast("Bucket[Kind]", stage)
    # A bucket of its own: the epochs of the pipe's bucket belong to its user.
    return Bucket(
        bucket.kind,
        policy=None if bucket.automatic else bucket.policy,
        buffer_size=bucket.buffer_size,
        seed=_choose_seed(bucket, seed),
        uneven=bucket.uneven,
    )


@final
class _Collate:
    """Makes a batch of rows with the stages after the bucket; it can be sent to workers."""

    def __init__(self, stages: Sequence[NumberedStage]) -> None:
        self.stages: Final = stages

    def __call__(self, rows: list[Row[Kind]]) -> AnyBatch:
        return cast("AnyBatch", run_stages(self.stages, rows))


@final
class _ChainEpochs(Generic[A]):
    """Batches of any data stages. Its state is a number of batches, which are made again and skipped on resuming."""

    def __init__(self, chain: Stream[A, AnyBatch], examples: Iterable[A]) -> None:
        self.report: Report = Report()
        self.epoch: int = 0
        self._chain: Final = chain
        self._examples: Final = examples
        self._done = 0

    def __iter__(self) -> Iterator[AnyBatch]:
        if isinstance(self._examples, Iterator) and (self.epoch or self._done):
            msg = "train must be data that can be read again for each epoch, got an iterator; pass a list or a source."
            raise OptionError(msg)
        for stage in self._chain.stages.values() if isinstance(self._chain, StreamChain) else [self._chain]:
            if (set_epoch := getattr(stage, "set_epoch", None)) is not None:
                set_epoch(self.epoch)
        self.report = Report()
        for number, batch in enumerate(self._chain(self._examples)):
            if number < self._done:
                continue
            self._done = number + 1
            self.report += batch.report() if is_batch(batch) else Report(1)
            yield batch
        self.epoch, self._done = self.epoch + 1, 0

    def state_dict(self) -> dict[str, object]:
        return {"epoch": self.epoch, "batches": self._done}

    def load_state_dict(self, state: Mapping[str, object], /) -> None:
        self.epoch, self._done = cast("int", state["epoch"]), cast("int", state["batches"])
