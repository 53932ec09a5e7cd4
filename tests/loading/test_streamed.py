"""Streams that are read as they come: resumed anywhere, shared among workers and ranks, nothing lost or doubled."""

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
from pipeline.loading import Streamed, StreamLoader
from pipeline.loading.loader import Start
from pipeline.loading.streamed import Ranks, Shard
from pipeline.stages.from_ids import Numbered
from pipeline.stages.resumable import Resumable
from support.needs import needs
from support.untyped import listed, loosely

# Four workers on fewer cores are slow, which is what torch warns of.
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

Said = list[tuple[int, int, int]]
"""A batch as tests compare it: each row's place, where in its row it begins, and its length."""


def rows_of(counts: list[int]) -> list[Row[Ids]]:
    """Rows of so many steps, each step holding its row's place."""
    return list(FromIds().map([[place] * count for place, count in enumerate(counts)]))


def said(batch: list[Row[Ids]]) -> Said:
    """A batch as tests compare it."""
    return [(row.row_id, row.start_step, len(row)) for row in batch]


def streams() -> st.SearchStrategy[Resumable[Row[Ids], list[Row[Ids]]]]:
    """Buckets of any policy, and lanes."""
    buckets = st.builds(
        Bucket,
        policy=st.sampled_from(POLICIES),
        buffer_size=st.one_of(st.none(), st.integers(1, 9)),
        seed=st.one_of(st.none(), st.integers(0, 3)),
    )
    lanes = st.builds(BPTTWindows, rows=st.integers(1, 3), steps=st.integers(1, 5))
    return cast("st.SearchStrategy[Resumable[Row[Ids], list[Row[Ids]]]]", st.one_of(buckets, lanes))


@given(
    stream=streams(),
    counts=st.lists(st.integers(0, 12), max_size=30),
    world_size=st.integers(1, 3),
    epoch=st.integers(0, 2),
)
def test_a_stream_goes_on_from_any_batch(
    stream: Resumable[Row[Ids], list[Row[Ids]]], counts: list[int], world_size: int, epoch: int
) -> None:
    """From the cursor behind each batch, over the rows behind those that are done with: bit for bit the same rest."""
    rows = rows_of(counts)
    for rank in range(world_size):
        whole = list(stream.marked(rows, StreamCursor(epoch), rank=rank, world_size=world_size))
        for done, (_, behind) in enumerate(whole, start=1):
            kept = StreamCursor.from_dict(behind.to_dict())
            rest = list(stream.marked(rows[kept.rows :], kept, rank=rank, world_size=world_size))
            assert [(said(batch), at) for batch, at in rest] == [(said(batch), at) for batch, at in whole[done:]]


@given(
    policy=st.sampled_from(POLICIES),
    counts=st.lists(st.integers(0, 12), max_size=40),
    buffer_size=st.one_of(st.none(), st.integers(1, 9)),
    world_size=st.integers(2, 4),
)
def test_ranks_have_equal_numbers_of_batches(
    policy: Policy, counts: list[int], buffer_size: int | None, world_size: int
) -> None:
    """None waits at the end; every row is given; what is repeated goes no further than to fill one step."""
    bucket, rows = Bucket(policy=policy, buffer_size=buffer_size), rows_of([min(count, 12) for count in counts])
    ranks = [
        [said(batch) for batch, _ in bucket.marked(rows, StreamCursor(), rank=r, world_size=world_size)]
        for r in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    given = sorted(part for batches in ranks for batch in batches for part in batch)
    wanted = sorted(part for batch, _ in bucket.marked(rows, StreamCursor()) for part in said(batch))
    assert set(given) == set(wanted)
    if policy.too_long != "split":
        assert len(given) - len(wanted) < world_size


@pytest.mark.parametrize(("uneven", "repeated", "dropped"), [("repeat", 1, 0), ("drop", 0, 1)])
def test_what_becomes_of_rows_that_do_not_go_round(uneven: Uneven, repeated: int, dropped: int) -> None:
    """Only at the end of the stream, and at most a row less than there are ranks."""
    bucket = Bucket(rows=1, buffer_size=4, uneven=uneven)
    rows = rows_of([3] * 11)
    given = [
        row.row_id
        for rank in range(2)
        for batch, _ in bucket.marked(rows, StreamCursor(), rank=rank, world_size=2)
        for row in batch
    ]
    assert len(given) - len(set(given)) == repeated
    assert 11 - len(set(given)) == dropped
    with pytest.raises(OptionError, match="3 rows do not make the same number of batches for 2 ranks"):
        list(Bucket(rows=1, buffer_size=4, uneven="raise").marked(rows, StreamCursor(), world_size=2))


def test_ranks_have_like_sized_batches_at_a_step() -> None:
    """Batches of one step differ less in width than those of different steps."""
    rows = rows_of([1 + place * 7 % 50 for place in range(600)])
    bucket = Bucket(max_padded_steps=100)
    ranks = [
        [max(map(len, batch)) for batch, _ in bucket.marked(rows, StreamCursor(), rank=r, world_size=2)]
        for r in range(2)
    ]
    together = sum(abs(one - other) for one, other in zip(*ranks, strict=True))
    apart = sum(abs(one - other) for one, other in itertools.pairwise(ranks[0]))
    assert together < 0.3 * apart


def test_a_cursor_of_another_stream_is_refused() -> None:
    """As is a rank that does not take part, and what is no cursor."""
    rows = rows_of([3, 1, 2])
    (_, cursor), *_ = Bucket(rows=1).marked(rows, StreamCursor())
    with pytest.raises(OptionError, match="the cursor belongs to another Bucket, seed or number of ranks"):
        Bucket(rows=2).marked(rows, cursor)
    with pytest.raises(OptionError, match="the cursor belongs to another BPTTWindows"):
        BPTTWindows(rows=1, steps=2).marked(rows, cursor)
    with pytest.raises(OptionError, match="rank must be from 0 to 1, below world_size, but 2 arrived"):
        Bucket(rows=1).marked(rows, StreamCursor(), rank=2, world_size=2)
    with pytest.raises(OptionError, match="a stream's state has epoch, rows, inside and recipe, but"):
        StreamCursor.from_dict({"epoch": 1})
    with pytest.raises(OptionError, match="rows must be a whole number, 0 or more, but -1 arrived"):
        StreamCursor(rows=-1)


class Skippable:
    """A source that can leave out records, and counts those that it reads."""

    def __init__(self, records: list[list[int]], first: int = 0) -> None:
        self.records, self.first = records, first
        self.read = 0

    def skip(self, count: int) -> "Skippable":
        """The source without its first records."""
        return Skippable(self.records, self.first + count)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.records[self.first :])


@pytest.mark.parametrize("kind", [list, Skippable, iter])
@pytest.mark.parametrize(("first", "every"), [(0, 1), (2, 1), (1, 3), (9, 2)])
def test_a_share_is_every_nth_record(kind: Callable[[list[list[int]]], object], first: int, every: int) -> None:
    """By index, by skipping, or read over: the same records."""
    records = [[number] for number in range(8)]
    share = cast("Shard[list[int]]", loosely(Shard)(kind(records), first, every))
    assert list(share) == records[first::every]


COUNTS = [1 + place * 5 % 9 for place in range(101)]
SOURCE: list[Numbered] = [[place] * count for place, count in enumerate(COUNTS)]


def data(seed: int = 0) -> Stream[Numbered | Example[Numbered], Padded[Ids]]:
    """Stages that make batches of numbers."""
    return FromIds() >> Bucket(max_padded_steps=30, buffer_size=12, seed=seed) >> Pad()


def taken(batch: Padded[Ids]) -> tuple[list[int], list[list[int]]]:
    """A batch as tests compare it: the places of its rows, and what they hold."""
    return listed(batch.metadata.row_ids), listed(batch.values)


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("ranks", ["even", "apart"])
def test_workers_and_ranks_lose_and_double_nothing(workers: int, ranks: Ranks) -> None:
    """Each record once over all of them; the places are those in the whole source."""
    world_size = 2
    given: list[int] = []
    steps: list[int] = []
    for rank in range(world_size):
        stream = Streamed(SOURCE, data(), rank=rank, world_size=world_size, ranks=ranks)
        loader = StreamLoader(stream, num_workers=workers)
        batches = list(loader)
        steps.append(len(batches))
        for batch in batches:
            for place, values in zip(*taken(batch), strict=True):
                assert values[: COUNTS[place]] == [place] * COUNTS[place]
                given.append(place)
    if ranks == "even":
        assert len(set(steps)) == 1
        assert set(given) == set(range(101))
        # Each worker may repeat a row, where its last ones do not go round.
        assert len(given) - 101 <= max(workers, 1) * (world_size - 1)
    else:
        assert sorted(given) == list(range(101))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_how_workers_start_changes_nothing(start: Start) -> None:
    """The same batches in the same order, from workers that were forked and from fresh ones."""
    stream = Streamed(SOURCE, data())
    one = StreamLoader(stream, num_workers=2, multiprocessing_context=start)
    other = StreamLoader(stream, num_workers=2)
    assert [taken(batch) for batch in one] == [taken(batch) for batch in other]


@pytest.mark.parametrize(("workers", "cuts"), [(0, (1, 7, 20)), (1, (3,)), (2, (1, 2, 9, 21)), (4, (2, 5))])
def test_a_loader_goes_on_where_training_stood(workers: int, cuts: tuple[int, ...]) -> None:
    """One to four times, whatever workers had made ahead: the rest is the same, bit for bit, and so is the next epoch."""
    stream = Streamed(SOURCE, data())

    def loader() -> StreamLoader[Padded[Ids]]:
        return StreamLoader(stream, num_workers=workers)

    whole = loader()
    wanted = [taken(batch) for _ in range(2) for batch in whole]
    assert whole.epoch == 2
    got: list[tuple[list[int], list[list[int]]]] = []
    current = loader()
    for cut in cuts:
        while len(got) < cut:
            got.extend(taken(batch) for batch in itertools.islice(current, cut - len(got)))
        state = current.state_dict()
        current = loader()
        current.load_state_dict(state)
    while current.epoch < 2:
        got.extend(taken(batch) for batch in current)
    assert got == wanted


def test_an_epoch_of_a_stream_has_an_order_of_its_own() -> None:
    """Set for all workers, those that run already among them."""
    stream = Streamed(SOURCE, data())
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    first, again = [taken(batch) for batch in loader], [taken(batch) for batch in loader]
    stream.set_epoch(1)
    other = [taken(batch) for batch in loader]
    assert first == again
    assert first != other
    assert sorted(place for places, _ in other for place in places) == list(range(101))


def test_an_endless_source_is_read_with_bounded_memory() -> None:
    """A few pools ahead in each worker; left and taken up again."""
    stream = Streamed(Endless(), data())
    loader = StreamLoader(stream, num_workers=2)
    wanted = [taken(batch) for batch in itertools.islice(loader, 40)]
    fresh = StreamLoader(stream, num_workers=2)
    got = [taken(batch) for batch in itertools.islice(fresh, 15)]
    fresh.load_state_dict(fresh.state_dict())
    got += [taken(batch) for batch in itertools.islice(fresh, 25)]
    assert got == wanted


class Endless:
    """Records without end."""

    def __iter__(self) -> Iterator[Numbered]:
        return ([place] * (1 + place * 5 % 9) for place in itertools.count())


def test_a_stream_in_this_process_is_left_and_taken_up() -> None:
    """By its own state, as `StatefulDataLoader` asks for it."""
    wanted = [taken(batch) for batch in Streamed(SOURCE, data())]
    stream = Streamed(SOURCE, data())
    got = [taken(batch) for batch in itertools.islice(stream, 5)]
    other = Streamed(SOURCE, data())
    other.load_state_dict(stream.state_dict())
    assert got + [taken(batch) for batch in other] == wanted
    assert [taken(batch) for batch in other] == wanted


def test_a_tokenizer_and_rows_are_sources_too() -> None:
    """Text through a door, with places of the whole source; rows without a door keep theirs."""
    texts = [f"a {'b ' * (place % 5)}" for place in range(20)]
    tokenize = Tokenize.train(texts)
    stream = Streamed(texts, tokenize >> Bucket(rows=3) >> Pad(), rank=1, world_size=2, ranks="apart")
    assert sorted(place for batch in stream for place in listed(batch.metadata.row_ids)) == list(range(1, 20, 2))
    rows = [Row(Ids(torch.zeros(2, dtype=torch.int64)), row_id=place) for place in (5, 9)]
    assert sorted(row.row_id for batch in Streamed(rows, Bucket(rows=2)) for row in batch) == [5, 9]


def test_an_error_names_the_record_in_the_whole_source() -> None:
    """Also where a share of it was read, or a rest."""
    source: list[Numbered] = [[1, 2], [3], [4, 5, 6], [7, -1], [8]]
    with pytest.raises(
        ValuesError, match=r"record 3 of the source, here row 1: row 1, step 1 is -1, but ids count from 0"
    ) as info:
        list(Streamed(source, data(), rank=1, world_size=2, ranks="apart"))
    assert info.value.details["record"] == 3
    long: list[Numbered] = [[1], [2], [3] * 40]
    with pytest.raises(LengthError, match="row 2 has 40 steps"):
        list(Streamed(long, data(), rank=0, world_size=2, ranks="apart"))


def mismatched(state: Mapping[str, object]) -> None:
    """Load a state into a loader of two workers."""
    StreamLoader(Streamed(SOURCE, data()), num_workers=2).load_state_dict(state)


def test_what_cannot_be_resumed_is_refused() -> None:
    """Another number of workers, other options, an iterator that was read, a state that nobody knows."""
    one = StreamLoader(Streamed(SOURCE, data()))
    with pytest.raises(
        OptionError, match="the state is of the shares 0 of 1 of the source, but this loader reads 0 of 2"
    ):
        mismatched(one.state_dict())
    with pytest.raises(OptionError, match="a loader's state has workers and next, but"):
        mismatched({})
    with pytest.raises(OptionError, match="a share's state has share, shares and at, but"):
        Streamed(SOURCE, data()).load_state_dict({})
    next(iter(one))
    other = StreamLoader(Streamed(SOURCE, data(seed=1)))
    list(itertools.islice(one, 1))
    other.load_state_dict(one.state_dict())
    with pytest.raises(OptionError, match="the cursor belongs to another Bucket, seed or number of ranks"):
        list(other)
    once = Streamed(iter(SOURCE), data())
    assert len(list(once)) > 1
    with pytest.raises(OptionError, match="the source is a list_iterator, which can be read once, and was"):
        list(once)
    with pytest.raises(OptionError, match="nothing was read in this process"):
        Streamed(SOURCE, data()).state_dict()
    shared = Streamed(SOURCE, data(), rank=0, world_size=2, ranks="apart")
    shared.load_state_dict({"share": 1, "shares": 2, "at": StreamCursor().to_dict()})
    with pytest.raises(OptionError, match="the state is of share 1 of 2, but this is share 0 of 2"):
        iter(shared)


def test_stages_that_cannot_be_resumed_are_refused() -> None:
    """There must be one stream that can be."""
    with pytest.raises(CompositionError, match="data must have one stream that can be resumed.*but it has Forgetful"):
        Streamed(SOURCE, FromIds() >> Forgetful())


class Forgetful(Stream[Row[Ids], list[Row[Ids]]]):
    """A stream that knows no cursor."""

    @override
    def __call__(self, values: Iterable[Row[Ids]], /) -> Iterator[list[Row[Ids]]]:
        """Each row alone."""
        return ([row] for row in values)


@needs("torchdata")
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_a_stateful_loader_keeps_each_workers_state(workers: int) -> None:
    """torchdata's: cut at any batch, the rest is the same, bit for bit."""
    stateful = importlib.import_module("torchdata.stateful_dataloader")

    def loader() -> StatefulLoader:
        return cast(
            "StatefulLoader",
            stateful.StatefulDataLoader(Streamed(SOURCE, data()), batch_size=None, num_workers=workers),
        )

    wanted = [taken(batch) for batch in loader()]
    assert sorted(place for places, _ in wanted for place in places) == list(range(101))
    for cut in (1, 2, 9, len(wanted) - 1):
        left, taken_up = loader(), loader()
        got = [taken(batch) for batch in itertools.islice(left, cut)]
        taken_up.load_state_dict(left.state_dict())
        assert got + [taken(batch) for batch in taken_up] == wanted


class StatefulLoader(Protocol):
    """What is used of torchdata's loader."""

    def __iter__(self) -> Iterator[Padded[Ids]]: ...
    def state_dict(self) -> dict[str, object]:
        """Where it stands."""
        ...

    def load_state_dict(self, state: Mapping[str, object], /) -> None:
        """Go on there."""
        ...
