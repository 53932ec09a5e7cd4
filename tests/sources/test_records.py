"""What is there already, as a source: lists, iterables, torch's data sets and those of Hugging Face."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset, IterableDataset
from typing_extensions import override

from pipeline import Example, Tokenize
from pipeline.errors import OptionError, RecordError, TextError, UnsizedError
from pipeline.sources import Problem, Records, Together, Tokenized, lengths_of
from support.needs import needs
from support.pairs import pairs


class Numbered(Dataset[tuple[str, int]]):
    """By number, and past its end it never raises."""

    def __len__(self) -> int:
        return 3

    @override
    def __getitem__(self, index: int) -> tuple[str, int]:
        return f"text {index}", index


class Streamed(IterableDataset[str]):
    """From its beginning alone."""

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b"])


def test_inputs_bare_and_in_examples() -> None:
    """As doors take them; a row of words is one too."""
    assert pairs(Records(["a", Example("b", 1)])) == [("a", None), ("b", 1)]
    assert pairs(Records([("a", "b")])) == [(("a", "b"), None)]
    assert pairs(Records({"a": 1}.keys())) == [("a", None)]


def test_fields_by_name_and_by_number() -> None:
    """Of mappings and of tuples."""
    assert pairs(Records([{"t": "a", "c": "x"}], text="t", target="c")) == [("a", "x")]
    assert pairs(Records([(3, ["a", "b"])], words=1, target=0)) == [(["a", "b"], 3)]


def test_a_torch_data_set_is_read_by_number() -> None:
    """Neither more nor less than it says it has."""
    source = Records(Numbered(), text=0, target=1)
    assert pairs(source) == pairs(source[i] for i in range(3)) == [(f"text {i}", i) for i in range(3)]
    assert source.target(-1) == 2
    with pytest.raises(IndexError, match="Records has 3 records, 0 to 2, but number 3"):
        source[3]


def test_what_has_no_size_is_read_from_its_beginning() -> None:
    """As often as one likes; nothing else is known of it."""
    source = Records(Streamed())
    assert pairs(source) == pairs(source) == [("a", None), ("b", None)]
    with pytest.raises(UnsizedError, match="Streamed does not know how many records it has"):
        len(source)
    with pytest.raises(UnsizedError, match="Streamed does not know how many"):
        source[0]
    with pytest.raises(UnsizedError, match="set gives no record by number"):
        Records({"a"})[0]


def test_malformed_records_are_named_by_number() -> None:
    """Stopped at, skipped and counted, or mended."""
    values: list[object] = [{"t": "a"}, {}, {"t": 3}, "tea", {"t": "b"}]
    with pytest.raises(RecordError, match=r"list, record 2: a record must have a field 't', but it has none; the"):
        list(Records(values, text="t"))
    source = Records(values, text="t", on_bad_record="skip")
    assert pairs(source) == pairs(source[i] for i in range(2)) == [("a", None), ("b", None)]
    assert source.skipped.kinds == {"missing": 2, "type": 1}
    with pytest.raises(RecordError, match="record 4: a record must have a field 0, but a str arrived"):
        Records(values, text=0)[3]

    def mend(problem: Problem) -> Example[str]:
        return Example(problem.text)

    assert pairs(Records(values, text="t", on_bad_record=mend))[1:4] == [
        ("{}", None),
        ("{'t': 3}", None),
        ("'tea'", None),
    ]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ("text", TextError, "inputs must be many, but one text arrived"),
        (
            {"train": [], "test": []},
            OptionError,
            r"a mapping of 'train', 'test' arrived; take one of them: values\[...\]",
        ),
        (iter(["a"]), OptionError, "must begin anew each time it is read, but a list_iterator is used up by the first"),
        (3, OptionError, "must be iterable, or have a length and records by number, but an int arrived"),
    ],
)
def test_what_is_no_source(values: Any, kind: type[Exception], message: str) -> None:
    """What to do is said."""
    with pytest.raises(kind, match=message):
        Records(values)


def test_several_together() -> None:
    """Sized if all are, and found by number across their borders, empty ones among them."""
    source = Together(Records(["a"]), Records(list[str]()), Records(["b", "c"]))
    assert [source[i].input for i in range(-3, 3)] == ["a", "b", "c"] * 2
    assert source.fingerprint is None
    with pytest.raises(UnsizedError):
        len(Together(Records(["a"]), Records(Streamed())))


@needs("datasets")
def test_hugging_face_data_sets_as_they_are(tmp_path: Path) -> None:
    """By number, in batches, streamed; other columns are never decoded, and its fingerprint is ours."""
    datasets: Any = import_module("datasets")
    label = datasets.ClassLabel(names=["ham", "spam"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "n": datasets.Value("int64")})
    found = datasets.Dataset.from_dict(
        {"text": [f"text {i}" for i in range(9)], "label": [i % 2 for i in range(9)], "n": list(range(9))},
        features=features,
    )
    source = Records(found, text="text", target="label")
    wanted: list[tuple[object, object]] = [(f"text {i}", i % 2) for i in range(9)]
    assert pairs(source) == pairs(source[i] for i in range(9)) == wanted
    loader = DataLoader(source, batch_size=4, num_workers=2, collate_fn=pairs, multiprocessing_context="fork")
    assert [pair for batch in loader for pair in batch] == wanted
    tokenize = Tokenize.train(one.input for one in source)
    assert lengths_of(source, tokenize, cache=tmp_path).tolist() == [2] * 9
    again = Records(found, text="text", target="label")
    assert again.fingerprint == source.fingerprint != Records(found.shuffle(seed=0), text="text").fingerprint
    assert [row.target for row in Tokenized(again, tokenize, cache=tmp_path)] == [i % 2 for i in range(9)]
    streamed = Records(found.to_iterable_dataset(), text="text", target="label")
    assert pairs(streamed) == pairs(streamed) == wanted
    with pytest.raises(UnsizedError):
        len(streamed)
    with pytest.raises(OptionError, match="Dataset has no column 'no'; its columns are 'text', 'label', 'n'"):
        Records(found, text="no")
    with pytest.raises(OptionError, match="a mapping of 'train' arrived"):
        Records(datasets.DatasetDict({"train": found}), text="text")
