"""`StreamDataset` and `StreamLoader`: exact resumption at any batch; workers and ranks lose and duplicate no record."""

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from typing_extensions import override

from pipeline import BPTTWindows, Bucket, Example, FromIds, Ids, Pad, Padded, Row, Stream, Tokenize
from pipeline.batching import Boundaries, Budget, Policy, Rows, Shapes, StreamCursor, Uneven
from pipeline.errors import CompositionError, LengthError, OptionError, ValuesError
from pipeline.loading import StreamDataset, StreamLoader
from pipeline.loading.loader import Start
from pipeline.loading.shard import Shard
from pipeline.loading.stream_dataset import Ranks
from pipeline.stages.input_stage import IdSequence
from pipeline.stages.resumable import Resumable
from support.needs import needs
from support.untyped import as_any, to_list, untyped

# Torch warns if there are more workers than processors.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

POLICIES: list[Policy] = [
    Rows(3, batches_per_sort=2),
    Budget(12, rows=4, batches_per_sort=3),
    Budget(12, too_long="split", batches_per_sort=2),
    Budget(6, too_long="alone", batches_per_sort=2),
    Budget(24, multiple_of=4, batches_per_sort=1),
    Boundaries((2, 5), max_padded_steps=12, batches_per_sort=2),
    Shapes([(2, 12), (4, 4)], batches_per_sort=2),
]

Contents = list[tuple[int, int, int]]
"""A batch as tests compare it: row id, start step and length of each row."""


def make_rows(counts: list[int]) -> list[Row[Ids]]:
    """Make rows of the given lengths, each step of which holds the row id."""
    return list(FromIds().map([[row] * count for row, count in enumerate(counts)]))


def get_contents(batch: list[Row[Ids]]) -> Contents:
    """Return a batch as tests compare it."""
    return [(row.row_id, row.start_step, len(row)) for row in batch]


def streams() -> st.SearchStrategy[Resumable[Row[Ids], list[Row[Ids]]]]:
    """Generate buckets of any policy, and windows."""
    buckets = st.builds(
        Bucket,
        policy=st.sampled_from(POLICIES),
        buffer_size=st.one_of(st.none(), st.integers(1, 9)),
        seed=st.one_of(st.none(), st.integers(0, 3)),
    )
    windows = st.builds(BPTTWindows, rows=st.integers(1, 3), steps=st.integers(1, 5))
    return cast("st.SearchStrategy[Resumable[Row[Ids], list[Row[Ids]]]]", st.one_of(buckets, windows))


@given(
    stream=streams(),
    counts=st.lists(st.integers(0, 12), max_size=30),
    world_size=st.integers(1, 3),
    epoch=st.integers(0, 2),
)
def test_a_stream_resumes_exactly_at_any_batch(
    stream: Resumable[Row[Ids], list[Row[Ids]]], counts: list[int], world_size: int, epoch: int
) -> None:
    """From the cursor after each batch, and without the rows that need not be read again."""
    rows = make_rows(counts)
    for rank in range(world_size):
        whole = list(stream.resume(rows, StreamCursor(epoch), rank=rank, world_size=world_size))
        for done, (_, after) in enumerate(whole, start=1):
            cursor = StreamCursor.from_dict(after.to_dict())
            rest = list(stream.resume(rows[cursor.rows :], cursor, rank=rank, world_size=world_size))
            assert [(get_contents(batch), at) for batch, at in rest] == [
                (get_contents(batch), at) for batch, at in whole[done:]
            ]


@given(
    policy=st.sampled_from(POLICIES),
    counts=st.lists(st.integers(0, 12), max_size=40),
    buffer_size=st.one_of(st.none(), st.integers(1, 9)),
    world_size=st.integers(2, 4),
)
def test_ranks_have_equal_numbers_of_batches(
    policy: Policy, counts: list[int], buffer_size: int | None, world_size: int
) -> None:
    """No rank waits at the end, every row is served, and at most one step is filled up with repeated rows."""
    bucket, rows = Bucket(policy=policy, buffer_size=buffer_size), make_rows([min(count, 12) for count in counts])
    ranks = [
        [get_contents(batch) for batch, _ in bucket.resume(rows, StreamCursor(), rank=r, world_size=world_size)]
        for r in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    given = sorted(part for batches in ranks for batch in batches for part in batch)
    wanted = sorted(part for batch, _ in bucket.resume(rows, StreamCursor()) for part in get_contents(batch))
    assert set(given) == set(wanted)
    if policy.too_long != "split":
        assert len(given) - len(wanted) < world_size


@pytest.mark.parametrize(("uneven", "repeated", "dropped"), [("repeat", 1, 0), ("drop", 0, 1)])
def test_uneven_rows_are_repeated_dropped_or_raised(uneven: Uneven, repeated: int, dropped: int) -> None:
    """Only at the end of the stream, and fewer rows than there are ranks."""
    bucket = Bucket(rows=1, buffer_size=4, uneven=uneven)
    rows = make_rows([3] * 11)
    given = [
        row.row_id
        for rank in range(2)
        for batch, _ in bucket.resume(rows, StreamCursor(), rank=rank, world_size=2)
        for row in batch
    ]
    assert len(given) - len(set(given)) == repeated
    assert 11 - len(set(given)) == dropped
    with pytest.raises(OptionError, match="3 rows do not make the same number of batches for 2 ranks"):
        list(Bucket(rows=1, buffer_size=4, uneven="raise").resume(rows, StreamCursor(), world_size=2))


def test_ranks_have_like_sized_batches_at_a_step() -> None:
    """The widths of the batches of one step differ less than those of different steps."""
    rows = make_rows([1 + row * 7 % 50 for row in range(600)])
    bucket = Bucket(max_padded_steps=100)
    ranks = [
        [max(map(len, batch)) for batch, _ in bucket.resume(rows, StreamCursor(), rank=r, world_size=2)]
        for r in range(2)
    ]
    together = sum(abs(one - other) for one, other in zip(*ranks, strict=True))
    apart = sum(abs(one - other) for one, other in itertools.pairwise(ranks[0]))
    assert together < 0.3 * apart


def test_a_cursor_of_another_stream_is_rejected() -> None:
    """Also a rank beyond the world size, and a bad state."""
    rows = make_rows([3, 1, 2])
    (_, cursor), *_ = Bucket(rows=1).resume(rows, StreamCursor())
    with pytest.raises(OptionError, match="the cursor belongs to another Bucket, seed or number of ranks"):
        Bucket(rows=2).resume(rows, cursor)
    with pytest.raises(OptionError, match="the cursor belongs to another BPTTWindows"):
        BPTTWindows(rows=1, steps=2).resume(rows, cursor)
    with pytest.raises(OptionError, match="rank must be from 0 to 1, below world_size, got 2"):
        Bucket(rows=1).resume(rows, StreamCursor(), rank=2, world_size=2)
    with pytest.raises(OptionError, match="state of a stream must have epoch, rows, position and recipe, got"):
        StreamCursor.from_dict({"epoch": 1})
    with pytest.raises(OptionError, match="rows must be an integer of at least 0, got -1"):
        StreamCursor(rows=-1)


class Skippable:
    """Source that can skip records."""

    def __init__(self, records: list[list[int]], first: int = 0) -> None:
        self.records, self.first = records, first
        self.read = 0

    def skip(self, count: int) -> "Skippable":
        """Return the source without its first records."""
        return Skippable(self.records, self.first + count)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.records[self.first :])


@pytest.mark.parametrize("kind", [list, Skippable, iter])
@pytest.mark.parametrize(("first", "every"), [(0, 1), (2, 1), (1, 3), (9, 2)])
def test_a_shard_is_every_nth_record(kind: Callable[[list[list[int]]], object], first: int, every: int) -> None:
    """The same records by index, by skipping, or by reading from the beginning."""
    records = [[number] for number in range(8)]
    shard = cast("Shard[list[int]]", untyped(Shard)(kind(records), first, every))
    assert list(shard) == records[first::every]


COUNTS = [1 + row * 5 % 9 for row in range(101)]
SOURCE: list[IdSequence] = [[row] * count for row, count in enumerate(COUNTS)]


def make_data(seed: int = 0) -> Stream[IdSequence | Example[IdSequence], Padded[Ids]]:
    """Make stages that form batches of ids."""
    return FromIds() >> Bucket(max_padded_steps=30, buffer_size=12, seed=seed) >> Pad()


def get_values(batch: Padded[Ids]) -> tuple[list[int], list[list[int]]]:
    """Return a batch as tests compare it: row ids and values."""
    return to_list(batch.metadata.row_ids), to_list(batch.values)


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("ranks", ["even", "apart"])
def test_workers_and_ranks_serve_each_record_once(workers: int, ranks: Ranks) -> None:
    """The row ids are the records' numbers in the whole source."""
    world_size = 2
    given: list[int] = []
    steps: list[int] = []
    for rank in range(world_size):
        stream = StreamDataset(SOURCE, make_data(), rank=rank, world_size=world_size, ranks=ranks)
        loader = StreamLoader(stream, num_workers=workers)
        batches = list(loader)
        steps.append(len(batches))
        for batch in batches:
            for row, values in zip(*get_values(batch), strict=True):
                assert values[: COUNTS[row]] == [row] * COUNTS[row]
                given.append(row)
    if ranks == "even":
        assert len(set(steps)) == 1
        assert set(given) == set(range(101))
        # Each worker may repeat rows at its end, to give every rank a batch.
        assert len(given) - 101 <= max(workers, 1) * (world_size - 1)
    else:
        assert sorted(given) == list(range(101))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_batches_do_not_depend_on_the_start_method(start: Start) -> None:
    """Forked and spawned workers make the same batches in the same order."""
    stream = StreamDataset(SOURCE, make_data())
    one = StreamLoader(stream, num_workers=2, multiprocessing_context=start)
    other = StreamLoader(stream, num_workers=2)
    assert [get_values(batch) for batch in one] == [get_values(batch) for batch in other]


@pytest.mark.parametrize(("workers", "cuts"), [(0, (1, 7, 20)), (1, (3,)), (2, (1, 2, 9, 21)), (4, (2, 5))])
def test_a_loader_resumes_exactly_where_training_stopped(workers: int, cuts: tuple[int, ...]) -> None:
    """One to four times, whatever workers had prepared ahead; the next epoch is the same too."""
    stream = StreamDataset(SOURCE, make_data())

    def make_loader() -> StreamLoader[Padded[Ids]]:
        return StreamLoader(stream, num_workers=workers)

    whole = make_loader()
    wanted = [get_values(batch) for _ in range(2) for batch in whole]
    assert whole.epoch == 2
    got: list[tuple[list[int], list[list[int]]]] = []
    current = make_loader()
    for cut in cuts:
        while len(got) < cut:
            got.extend(get_values(batch) for batch in itertools.islice(current, cut - len(got)))
        state = current.state_dict()
        current = make_loader()
        current.load_state_dict(state)
    while current.epoch < 2:
        got.extend(get_values(batch) for batch in current)
    assert got == wanted


def test_each_epoch_of_a_stream_has_its_own_order() -> None:
    """The epoch is set in all workers, even in persistent ones that already run."""
    stream = StreamDataset(SOURCE, make_data())
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    first, same = [get_values(batch) for batch in loader], [get_values(batch) for batch in loader]
    stream.set_epoch(1)
    other = [get_values(batch) for batch in loader]
    assert first == same
    assert first != other
    assert sorted(row for row_ids, _ in other for row in row_ids) == list(range(101))


def test_an_endless_source_is_read_with_bounded_memory() -> None:
    """Each worker reads a few pools ahead; iteration is interrupted and resumed."""
    stream = StreamDataset(Endless(), make_data())
    loader = StreamLoader(stream, num_workers=2)
    wanted = [get_values(batch) for batch in itertools.islice(loader, 40)]
    fresh = StreamLoader(stream, num_workers=2)
    got = [get_values(batch) for batch in itertools.islice(fresh, 15)]
    fresh.load_state_dict(fresh.state_dict())
    got += [get_values(batch) for batch in itertools.islice(fresh, 25)]
    assert got == wanted


class Endless:
    """Endless source."""

    def __iter__(self) -> Iterator[IdSequence]:
        return ([row] * (1 + row * 5 % 9) for row in itertools.count())


def test_a_stream_is_resumed_without_a_loader() -> None:
    """From its own state, which `StatefulDataLoader` reads."""
    wanted = [get_values(batch) for batch in StreamDataset(SOURCE, make_data())]
    stream = StreamDataset(SOURCE, make_data())
    got = [get_values(batch) for batch in itertools.islice(stream, 5)]
    other = StreamDataset(SOURCE, make_data())
    other.load_state_dict(stream.state_dict())
    assert got + [get_values(batch) for batch in other] == wanted
    assert [get_values(batch) for batch in other] == wanted


def test_row_ids_count_the_records_of_the_whole_source() -> None:
    """Text gets row ids from its input stage; rows that come without an input stage keep theirs."""
    texts = [f"a {'b ' * (row % 5)}" for row in range(20)]
    tokenize = Tokenize.train(texts)
    stream = StreamDataset(texts, tokenize >> Bucket(rows=3) >> Pad(), rank=1, world_size=2, ranks="apart")
    assert sorted(row for batch in stream for row in to_list(batch.metadata.row_ids)) == list(range(1, 20, 2))
    rows = [Row(Ids(torch.zeros(2, dtype=torch.int64)), row_id=row) for row in (5, 9)]
    assert sorted(row.row_id for batch in StreamDataset(rows, Bucket(rows=2)) for row in batch) == [5, 9]


def test_an_error_names_the_record_in_the_whole_source() -> None:
    """Also if only a shard of it was read."""
    source: list[IdSequence] = [[1, 2], [3], [4, 5, 6], [7, -1], [8]]
    with pytest.raises(
        ValuesError,
        match=r"record 3 of the source, row 1 of this shard: row 1, step 1 is -1, but ids must be 0 or more",
    ) as info:
        list(StreamDataset(source, make_data(), rank=1, world_size=2, ranks="apart"))
    assert info.value.details["record"] == 3
    long: list[IdSequence] = [[1], [2], [3] * 40]
    with pytest.raises(LengthError, match="row 2 has 40 steps"):
        list(StreamDataset(long, make_data(), rank=0, world_size=2, ranks="apart"))


def load_into_two_workers(state: Mapping[str, object]) -> None:
    """Load a state into a loader of two workers."""
    StreamLoader(StreamDataset(SOURCE, make_data()), num_workers=2).load_state_dict(state)


def test_states_of_other_streams_are_rejected() -> None:
    """Another number of workers, other options, an iterator that was already read, a bad state."""
    one = StreamLoader(StreamDataset(SOURCE, make_data()))
    with pytest.raises(OptionError, match="the state must be of the shards 0 of 2, 1 of 2, got 0 of 1"):
        load_into_two_workers(one.state_dict())
    with pytest.raises(OptionError, match="state must have workers and next, got {}"):
        load_into_two_workers({})
    with pytest.raises(OptionError, match="state must have shard, num_shards and cursor, got {}"):
        StreamDataset(SOURCE, make_data()).load_state_dict({})
    next(iter(one))
    other = StreamLoader(StreamDataset(SOURCE, make_data(seed=1)))
    list(itertools.islice(one, 1))
    other.load_state_dict(one.state_dict())
    with pytest.raises(OptionError, match="the cursor belongs to another Bucket, seed or number of ranks"):
        list(other)
    once = StreamDataset(iter(SOURCE), make_data())
    assert len(list(once)) > 1
    with pytest.raises(OptionError, match="source must be an iterable that can be read again, got a list_iterator"):
        list(once)
    with pytest.raises(OptionError, match="this process has read nothing"):
        StreamDataset(SOURCE, make_data()).state_dict()
    shared = StreamDataset(SOURCE, make_data(), rank=0, world_size=2, ranks="apart")
    shared.load_state_dict({"shard": 1, "num_shards": 2, "cursor": StreamCursor().to_dict()})
    with pytest.raises(OptionError, match="the state must be of shard 0 of 2, got shard 1 of 2"):
        iter(shared)


def test_data_without_a_resumable_stream_is_rejected() -> None:
    """A stream needs cursors to be resumed."""
    with pytest.raises(CompositionError, match="data must have exactly one resumable stream, got Forgetful"):
        StreamDataset(SOURCE, FromIds() >> Forgetful())


class Forgetful(Stream[Row[Ids], list[Row[Ids]]]):
    """Stream without cursors."""

    @override
    def __call__(self, values: Iterable[Row[Ids]], /) -> Iterator[list[Row[Ids]]]:
        """Yield each row as a batch."""
        return ([row] for row in values)


@needs("torchdata")
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_a_stateful_loader_keeps_the_state_of_each_worker(workers: int) -> None:
    """Torchdata's loader, interrupted at any batch, resumes exactly."""
    stateful = importlib.import_module("torchdata.stateful_dataloader")

    def make_loader() -> StatefulLoader:
        return cast(
            "StatefulLoader",
            stateful.StatefulDataLoader(StreamDataset(SOURCE, make_data()), batch_size=None, num_workers=workers),
        )

    wanted = [get_values(batch) for batch in make_loader()]
    assert sorted(row for row_ids, _ in wanted for row in row_ids) == list(range(101))
    for cut in (1, 2, 9, len(wanted) - 1):
        first, resumed = make_loader(), make_loader()
        got = [get_values(batch) for batch in itertools.islice(first, cut)]
        resumed.load_state_dict(first.state_dict())
        assert got + [get_values(batch) for batch in resumed] == wanted


class StatefulLoader(Protocol):
    """The methods of torchdata's loader that are used here."""

    def __iter__(self) -> Iterator[Padded[Ids]]: ...
    def state_dict(self) -> dict[str, object]:
        """Return the state."""
        ...

    def load_state_dict(self, state: Mapping[str, object], /) -> None:
        """Continue from a state."""
        ...


def test_the_default_device_does_not_matter() -> None:
    """The epoch is in shared memory on the CPU, where workers can read it."""
    rows = [[1], [2, 3], [4, 5, 6]]
    torch.set_default_device("meta")
    try:
        dataset = StreamDataset(rows, FromIds() >> Bucket(rows=2, seed=None) >> Pad())
        dataset.set_epoch(1)
        assert dataset.epoch == 1
        found = [to_list(batch.row_ids) for batch in dataset]
    finally:
        as_any(torch.set_default_device)(None)
    assert found == [[2, 1], [0]]
