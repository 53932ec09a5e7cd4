"""Sources are served whole, once, however they are read: by themselves, by number, by workers and by ranks."""

import importlib
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from typing_extensions import override

from pipeline import Bucket, Example, FromIds, Ids, Pad, Padded, Row, Stage, Tokenize
from pipeline.batching import Rows
from pipeline.errors import OptionError, RecordError, ValuesError
from pipeline.loading import Loader, PlannedBatches, RowDataset, StreamDataset, StreamLoader
from pipeline.sources import Records
from support.needs import needs
from support.troubles import UnpicklableError
from support.untyped import to_list

# Torch warns if there are more workers than processors.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

ROWS = 20


class SelfSharding(IterableDataset[list[int]]):
    """Torch's own recipe: each worker reads its own records."""

    @override
    def __iter__(self) -> Iterator[list[int]]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter([[row] for row in range(first, ROWS, step)])


class LazySelfSharding(IterableDataset[list[int]]):
    """The same as a generator, which asks for its worker at the first record, and again at every record."""

    @override
    def __iter__(self) -> Iterator[list[int]]:
        for row in range(ROWS):
            info = get_worker_info()
            if info is None or row % info.num_workers == info.id:
                yield [row]


class MapStyle(Dataset[list[int]]):
    """Records by number, without `__iter__`, and without an IndexError at the end."""

    def __len__(self) -> int:
        return ROWS

    @override
    def __getitem__(self, index: int) -> list[int]:
        return [index]


class WithSkip:
    """A source that seeks."""

    def __iter__(self) -> Iterator[list[int]]:
        return self.skip(0)

    def skip(self, count: int) -> Iterator[list[int]]:
        """Return the records from a number on."""
        return iter([[row] for row in range(count, ROWS)])


def make_data() -> Any:
    """Make the stages of all tests here."""
    return FromIds() >> Bucket(rows=3) >> Pad()


def read_values(batches: Iterable[Padded[Ids]]) -> list[int]:
    """Return the only id of each row, sorted, and check that it is the row id."""
    found = [(to_list(batch.values.flatten()), to_list(batch.metadata.row_ids)) for batch in batches]
    assert all(values == row_ids for values, row_ids in found)
    return sorted(value for values, _ in found for value in values)


SOURCES: list[type[Any]] = [SelfSharding, LazySelfSharding, MapStyle, WithSkip]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_source_is_served_whole_and_once(source: type[Any], workers: int) -> None:
    """By a `StreamLoader`, and by a stock `DataLoader`."""
    stream = StreamDataset(source(), make_data())
    assert read_values(StreamLoader(stream, num_workers=workers)) == list(range(ROWS))
    assert read_values(DataLoader(stream, batch_size=None, num_workers=workers)) == list(range(ROWS))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("ranks", ["even", "apart"])
def test_ranks_share_a_source(source: type[Any], ranks: Any) -> None:
    """Each record is served by one of them, with two workers each, and none is lost on resumption."""
    found: list[int] = []
    for rank in range(2):
        stream = StreamDataset(source(), make_data(), rank=rank, world_size=2, ranks=ranks)
        first = StreamLoader(stream, num_workers=2)
        batches = iter(first)
        found += read_values([next(batches)])
        resumed = StreamLoader(stream, num_workers=2)
        resumed.load_state_dict(first.state_dict())
        found += read_values(resumed)
    assert sorted(set(found)) == list(range(ROWS))
    # Rows are repeated only to give ranks that share all batches equal numbers of them.
    assert len(found) == ROWS or (ranks == "even" and len(found) <= ROWS + 4)


class ReportWorker(Stage[list[Row[Ids]], int]):
    """Return the number of the worker that runs this stage."""

    @override
    def __call__(self, value: list[Row[Ids]], /) -> int:
        """Return the number."""
        info = get_worker_info()
        return -1 if info is None else info.id


def test_stages_find_their_worker() -> None:
    """Only the source does not."""
    loader = StreamLoader(StreamDataset(SelfSharding(), FromIds() >> Bucket(rows=3) >> ReportWorker()), num_workers=2)
    assert set(loader) == {0, 1}


@needs("datasets")
@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.filterwarnings("ignore")
def test_an_iterable_data_set_of_hugging_face_is_served_whole(workers: int) -> None:
    """With several shards; and its epoch reaches what is read."""
    datasets: Any = importlib.import_module("datasets")
    texts = [f"w{row}" for row in range(ROWS)]
    stored = datasets.Dataset.from_dict({"text": texts, "label": list(range(ROWS))})
    iterable = stored.to_iterable_dataset(num_shards=4).shuffle(seed=3, buffer_size=4)
    source = Records(iterable, text="text", target="label")
    data = Tokenize.train(texts) >> Bucket(rows=4, seed=None, buffer_size=4) >> Pad()
    loader = StreamLoader(StreamDataset(source, data), num_workers=workers)
    epochs = [_read_targets(loader) for _ in range(3)]
    for found in epochs:
        assert sorted(target for batch in found for target in batch) == list(range(ROWS))
    assert len({str(sorted(map(sorted, found))) for found in epochs}) == 3
    loader.set_epoch(0)
    assert _read_targets(loader) == epochs[0]
    # As set on the data set itself.
    for epoch in (0, 2, 1):
        iterable.set_epoch(epoch)
        assert [example.target for example in source] == [record["label"] for record in iterable]


def _read_targets(batches: Iterable[Padded[Ids]]) -> list[list[int]]:
    return [to_list(cast("Tensor", batch.metadata.targets)) for batch in batches]


class WithEpoch:
    """A source whose order depends on the epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[(row + self.epoch) % ROWS] for row in range(ROWS)])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_epoch_reaches_the_source(workers: int) -> None:
    """In order, when it is set, and on resumption; until epoch 1, the source keeps its own."""

    def read(batches: Iterable[Padded[Ids]]) -> list[list[int]]:
        return [to_list(batch.values.flatten()) for batch in batches]

    def make_loader(source: WithEpoch) -> StreamLoader[Padded[Ids]]:
        data = FromIds() >> Bucket(rows=1, seed=None) >> Pad()
        return StreamLoader(StreamDataset(source, data), num_workers=workers)

    loader = make_loader(WithEpoch())
    for epoch in (0, 1, 2):
        assert read(loader) == [[(row + epoch) % ROWS] for row in range(ROWS)]
    loader.set_epoch(0)
    batches = iter(loader)
    assert next(batches).values.item() == 0
    loader.set_epoch(1)
    batches = iter(loader)
    first = read([next(batches)])
    resumed = make_loader(WithEpoch())
    resumed.load_state_dict(loader.state_dict())
    assert first + read(resumed) == [[(row + 1) % ROWS] for row in range(ROWS)]
    own = WithEpoch()
    own.set_epoch(5)
    assert read(make_loader(own))[0] == [5]


def test_unordered_sources_are_rejected() -> None:
    """When a dataset is made of them, with advice."""
    calls: list[tuple[Any, tuple[object, ...]]] = [
        (StreamDataset, (make_data(),)),
        (RowDataset, (FromIds(),)),
        (Loader, (PlannedBatches([1], Rows(1)), list)),
    ]
    for make, arguments in calls:
        with pytest.raises(OptionError, match=r"order of a set|but that of a set differs .* sorted\(values\)"):
            make({1, 2}, *arguments)
        with pytest.raises(OptionError, match="which is read by its keys"):
            make({0: [1], 1: [2]}, *arguments)
    with pytest.raises(OptionError, match=r"differs .* sorted\(values\)"):
        Records({"a", "b"})


class ByLabel:
    """Stands for a pandas Series: `series[3]` is the row labelled 3, `series.iloc[3]` the fourth."""

    def __init__(self, values: list[list[int]]) -> None:
        self.iloc = values

    def __len__(self) -> int:
        return len(self.iloc)

    def __getitem__(self, label: int) -> list[int]:
        return self.iloc[-1 - label]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.iloc)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_series_is_read_by_position(workers: int) -> None:
    """By every dataset."""
    series = ByLabel([[row] for row in range(ROWS)])
    batches = PlannedBatches([1] * ROWS, Rows(3))
    assert read_values(Loader(RowDataset(series, FromIds()), batches, Pad(), num_workers=workers)) == list(range(ROWS))
    assert read_values(StreamLoader(StreamDataset(series, make_data()), num_workers=workers)) == list(range(ROWS))
    loader = Loader(series, PlannedBatches([1] * ROWS, Rows(ROWS), seed=None), list, num_workers=workers)
    assert sorted(next(iter(loader))) == [[row] for row in range(ROWS)]


class Failing:
    """A source that raises at record 7, in order and by number."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Iterator[list[int]]:
        return (self[row] for row in range(ROWS))

    def __getitem__(self, index: int) -> list[int]:
        if index == 7:
            raise self.error
        return [index]

    def where(self, index: int) -> str:
        """Return the place of a record."""
        return f"rows.txt, line {index + 1}"


ERRORS: list[Exception] = [
    RecordError("bad", line=8),
    UnpicklableError(1, 2),
    KeyError("a field"),
    IndexError("mine"),
    UnicodeDecodeError("utf-8", b"ab", 0, 1, "why"),
    FileNotFoundError(2, "gone", "file.txt"),
]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("kind", ["stream", "rows"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_class_details_and_record(error: Exception, kind: str, workers: int) -> None:
    """In a `StreamLoader` as in a `Loader`; an IndexError is not the end of the data."""
    source = Failing(error)
    loader: Any = (
        StreamLoader(StreamDataset(source, FromIds() >> Bucket(rows=1, buffer_size=1) >> Pad()), num_workers=workers)
        if kind == "stream"
        else Loader(RowDataset(source, FromIds()), PlannedBatches([1] * ROWS, Rows(1)), Pad(), num_workers=workers)
    )
    with pytest.raises(type(error)) as info:
        list(loader)
    assert type(info.value) is type(error)
    assert info.value.args == error.args
    assert getattr(info.value, "details", None) == getattr(error, "details", None)
    notes = info.value.__notes__
    assert "It is record 7 (rows.txt, line 8)." in notes
    assert any("worker" in note for note in notes) == bool(workers)
    error.__notes__ = []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["stream", "rows", "plain", "several"])
def test_a_stop_iteration_is_an_error(kind: str, workers: int) -> None:
    """It would silently end the epoch."""
    source = Failing(StopIteration("mine"))
    batches = PlannedBatches([1] * ROWS, Rows(1))
    loaders: dict[str, Any] = {
        "stream": lambda: StreamLoader(StreamDataset(source, make_data()), num_workers=workers),
        "rows": lambda: Loader(RowDataset(source, FromIds()), batches, Pad(), num_workers=workers),
        "plain": lambda: Loader(source, batches, len, num_workers=workers),
        "several": lambda: Loader(Several(), batches, len, num_workers=workers),
    }
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(loaders[kind]())


class Several(MapStyle):
    """Reads several records at once."""

    def __getitems__(self, indices: list[int]) -> list[list[int]]:
        raise StopIteration


def test_an_error_of_a_stage_names_the_records_that_it_may_be_about() -> None:
    """An input stage takes several records at a time, and its error may not say which one it is."""
    source = [[1], [2], [-3], [4]]
    for workers in (0, 1):
        with pytest.raises(ValuesError, match="row 2, step 0 is -3") as info:
            list(StreamLoader(StreamDataset(source, make_data()), num_workers=workers))
        assert info.value.__notes__[0] == "It is one of record 0, record 1, record 2, record 3."


def test_a_failed_loader_can_be_iterated_again() -> None:
    """Its state is that after the last batch."""
    source = Failing(KeyError("a field"))
    loader = StreamLoader(StreamDataset(source, FromIds() >> Bucket(rows=1, buffer_size=1) >> Pad()), num_workers=1)
    with pytest.raises(KeyError):
        list(loader)
    state = loader.state_dict()
    source.error = KeyError("again")
    loader.load_state_dict(state)
    with pytest.raises(KeyError, match="again"):
        next(iter(loader))


def test_map_style_data_sets_of_examples_are_read_by_length() -> None:
    """`Records` over one as well."""
    texts = ["a", "b b"] * 5

    class Examples(Dataset[Example[str]]):
        def __len__(self) -> int:
            return 10

        @override
        def __getitem__(self, index: int) -> Example[str]:
            return Example(texts[index % 10], index)

    data = Tokenize.train(texts) >> Bucket(rows=3) >> Pad()
    for source in (Examples(), Records(Examples())):
        batches = list(StreamLoader(StreamDataset(cast("Iterable[Any]", source), data)))
        assert sum(batch.metadata.rows for batch in batches) == 10
