"""Records of lists, iterables, torch data sets and data sets of Hugging Face."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from typing_extensions import override

from pipeline import Example, Tokenize
from pipeline.errors import OptionError, RecordError, TextError, UnsizedError
from pipeline.sources import Problem, Records, Tokenized, lengths_of
from support.needs import needs
from support.pairs import to_pairs


class MapStyle(Dataset[tuple[str, int]]):
    """Records by number, without iteration, and without an error past the end."""

    def __len__(self) -> int:
        return 3

    @override
    def __getitem__(self, index: int) -> tuple[str, int]:
        return f"text {index}", index


class Streamed(IterableDataset[str]):
    """Records that can be read only in order."""

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b"])


def test_inputs_bare_and_in_examples() -> None:
    """Inputs may be bare; a list of words is one, too."""
    assert to_pairs(Records(["a", Example("b", 1)])) == [("a", None), ("b", 1)]
    assert to_pairs(Records([("a", "b")])) == [(("a", "b"), None)]
    assert to_pairs(Records({"a": 1}.keys())) == [("a", None)]


def test_fields_by_name_and_by_number() -> None:
    """Mappings have names, tuples numbers."""
    assert to_pairs(Records([{"t": "a", "c": "x"}], text="t", target="c")) == [("a", "x")]
    assert to_pairs(Records([(3, ["a", "b"])], words=1, target=0)) == [(["a", "b"], 3)]


@pytest.mark.parametrize(
    ("value", "target"),
    [
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.bool_(True), 1),
        (torch.tensor(3), 3),
        (torch.tensor([1, 2]), [1, 2]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.str_("a"), "a"),
        ([np.int64(1), None, float("nan"), "a"], [1, None, None, "a"]),
        (float("nan"), None),
        ("", None),
        (["", "a"], [None, "a"]),
        (np.float64("nan"), None),
        (2**63 - 1, 2**63 - 1),
        (1.5, 1.5),
        (np.float64(1.5), 1.5),
        (torch.tensor([0.5, 2]), [0.5, 2.0]),
        ([1, 0.5], [1, 0.5]),
        ({"b", "a"}, {"a", "b"}),
        ({"d": np.int64(1), "e": None}, {"d": 1, "e": None}),
    ],
)
def test_targets_are_classes_of_python(value: object, target: object) -> None:
    """Scalars and arrays of numpy and torch are converted; NaN is a missing target."""
    found = Records([{"t": "a", "c": value}], text="t", target="c")[0].target
    assert found == target
    assert type(found) is type(target)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**63, "field 'c' must be a class number of at most 63 bits, got 9223372036854775808"),
        (np.uint64(2**63), "field 'c' must be a class number of at most 63 bits, got"),
        (float("inf"), "field 'c' must be a class, by name or number, got a float"),
        ({"d": b"a"}, "'d' of field 'c' must be a class, by name or number, got"),
        ({b"a"}, "an entry of field 'c' must be text"),
        ([[1]], "entry 0 of field 'c' must be a class, by name or number, got a list"),
        (b"a", "field 'c' must be a class, by name or number, got"),
    ],
)
def test_targets_that_are_not_classes_are_malformed(value: object, message: str) -> None:
    """The error names the record and the field."""
    with pytest.raises(RecordError, match=f"list, record 1: .*{message}"):
        Records([{"t": "a", "c": value}], text="t", target="c")[0]


def test_a_torch_data_set_is_read_by_number() -> None:
    """Exactly as many records are read as it has by its length."""
    source = Records(MapStyle(), text=0, target=1)
    assert to_pairs(source) == to_pairs(source[i] for i in range(3)) == [(f"text {i}", i) for i in range(3)]
    assert source.target(-1) == 2
    with pytest.raises(IndexError, match="Records has 3 records, numbered from 0, got index 3"):
        source[3]


class Stopping(MapStyle):
    """A data set with a bug: its second record is the end of an iterator."""

    @override
    def __getitem__(self, index: int) -> tuple[str, int]:
        return next(iter([("a", 0)][index:]))


def test_a_stop_iteration_of_a_data_set_is_an_error() -> None:
    """It does not end the records silently, in the whole nor in a part."""
    source = Records(Stopping(), text=0)
    for records in (source, source[:], source.inputs(), source[1:].targets()):
        with pytest.raises(RuntimeError, match="generator raised StopIteration"):
            list(records)


def test_a_replacement_must_be_an_example() -> None:
    """The error names the record."""

    def replace(_: Problem) -> Any:
        return "text"

    source = Records([{}], text="t", on_bad_record=replace)
    for read in (lambda: list(source), lambda: source[0]):
        with pytest.raises(
            OptionError, match="list, record 1: on_bad_record must return an Example or None, got a str"
        ):
            read()


def test_values_without_a_length_are_read_in_order() -> None:
    """Any number of times, but not by number."""
    source = Records(Streamed())
    assert to_pairs(source) == to_pairs(source) == [("a", None), ("b", None)]
    with pytest.raises(UnsizedError, match="Streamed must have a length for this; iterate over it"):
        len(source)
    with pytest.raises(UnsizedError, match="Streamed must have a length"):
        source[0]
    with pytest.raises(UnsizedError, match="dict_keys cannot be read by number; iterate over it"):
        Records({"a": 1}.keys())[0]


def test_malformed_records_are_named_by_number() -> None:
    """They raise, are skipped and counted, or replaced."""
    values: list[object] = [{"t": "a"}, {}, {"t": 3}, "tea", {"t": "b"}]
    with pytest.raises(RecordError, match=r"list, record 2: a record must have a field 't', got an empty record; the"):
        list(Records(values, text="t"))
    source = Records(values, text="t", on_bad_record="skip")
    assert to_pairs(source) == to_pairs(source[i] for i in range(2)) == [("a", None), ("b", None)]
    assert source.skipped.kinds == {"missing": 2, "type": 1}
    with pytest.raises(RecordError, match="record 4: a record must have a field 0, got a str"):
        Records(values, text=0)[3]

    def replace(problem: Problem) -> Example[str]:
        return Example(problem.text)

    assert to_pairs(Records(values, text="t", on_bad_record=replace))[1:4] == [
        ("{}", None),
        ("{'t': 3}", None),
        ("'tea'", None),
    ]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ("text", TextError, "inputs must be "),
        (
            {"train": [], "test": []},
            OptionError,
            "values must be records in order, got a dict, which is read by its keys; choose one of its values",
        ),
        (
            iter(["a"]),
            OptionError,
            "each iteration over values must start at the first record, but a list_iterator can be read only once",
        ),
        ({"a"}, OptionError, r"values must have a fixed order, but that of a set differs .*sorted\(values\)"),
        (3, OptionError, "values must be iterable, or have a length and records by number, got an int"),
    ],
)
def test_other_values_are_rejected(values: Any, kind: type[Exception], message: str) -> None:
    """The error names the rule and the fix."""
    with pytest.raises(kind, match=message):
        Records(values)


class Labelled:
    """Like a pandas Series: `[3]` is the record labelled 3, `.iloc[3]` the fourth one."""

    def __init__(self, values: dict[int, str]) -> None:
        self.values = values
        self.iloc = list(values.values())

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[str]:
        return iter(self.iloc)

    def __getitem__(self, label: int) -> str:
        return self.values[label]


def test_a_series_is_read_by_position() -> None:
    """Labels that are numbers in another order, as after sorting or sampling, are not positions."""
    source = Records(Labelled({2: "a", 0: "b", 1: "c"}))
    assert (
        to_pairs(source) == to_pairs(source[number] for number in range(3)) == [("a", None), ("b", None), ("c", None)]
    )
    assert to_pairs(source[1:]) == [("b", None), ("c", None)]


@needs("pandas")
def test_series_and_frames_of_pandas() -> None:
    """A series is read by position; a frame, which would give its columns, is rejected."""
    pandas: Any = import_module("pandas")
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "y": [0, 1, 2]}).iloc[[2, 0, 1]]
    source = Records[str](frame.text)
    assert (
        to_pairs(source) == to_pairs(source[number] for number in range(3)) == [("c", None), ("a", None), ("b", None)]
    )
    with pytest.raises(OptionError, match=r'iterating over .* gives its columns; .* frame.to_dict\("records"\)'):
        Records(frame, text="text")
    rows = Records(frame.to_dict("records"), text="text", target="y")
    assert to_pairs(rows) == [("c", 2), ("a", 0), ("b", 1)]


class Raising(Dataset[tuple[str]]):
    """Raises an IndexError of its own."""

    def __len__(self) -> int:
        return 2

    @override
    def __getitem__(self, index: int) -> tuple[str]:
        return (["a"][index],)


def test_an_index_error_of_a_data_set_is_an_error() -> None:
    """It does not end the iteration."""
    with pytest.raises(IndexError, match="list index out of range"):
        list(iter(Records(Raising(), text=0)))


@needs("datasets")
def test_data_sets_of_hugging_face(tmp_path: Path) -> None:
    """By number, in batches and streamed; other columns are not decoded, and its fingerprint is used."""
    datasets: Any = import_module("datasets")
    label = datasets.ClassLabel(names=["ham", "spam"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "n": datasets.Value("int64")})
    found = datasets.Dataset.from_dict(
        {"text": [f"text {i}" for i in range(9)], "label": [i % 2 for i in range(9)], "n": list(range(9))},
        features=features,
    )
    source = Records(found, text="text", target="label")
    wanted: list[tuple[object, object]] = [(f"text {i}", i % 2) for i in range(9)]
    assert to_pairs(source) == to_pairs(source[i] for i in range(9)) == wanted
    loader = DataLoader(source, batch_size=4, num_workers=2, collate_fn=to_pairs, multiprocessing_context="fork")
    assert [pair for batch in loader for pair in batch] == wanted
    tokenize = Tokenize.train(one.input for one in source)
    assert lengths_of(source, tokenize, cache=tmp_path).tolist() == [2] * 9
    again = Records(found, text="text", target="label")
    assert again.fingerprint == source.fingerprint != Records(found.shuffle(seed=0), text="text").fingerprint
    assert [row.target for row in Tokenized(again, tokenize, cache=tmp_path)] == [i % 2 for i in range(9)]
    streamed = Records(found.to_iterable_dataset(), text="text", target="label")
    assert to_pairs(streamed) == to_pairs(streamed) == wanted
    with pytest.raises(UnsizedError):
        len(streamed)
    with pytest.raises(OptionError, match="Dataset has no column 'no'; its columns are 'text', 'label', 'n'"):
        Records(found, text="no")
    with pytest.raises(OptionError, match="got a DatasetDict, which is read by its keys; choose one of its values"):
        Records(datasets.DatasetDict({"train": found}), text="text")
