"""No row is lost, doubled or swapped by a chain, and errors name the stage, and the record where it is known."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from typing_extensions import override

from pipeline import (
    Bucket,
    Example,
    FromIds,
    Ids,
    Labels,
    Pad,
    Padded,
    Row,
    Stage,
    Stream,
    StreamChain,
    Tokenize,
    TokenizeWords,
    classifier,
)
from pipeline.data.rows import FILLER
from pipeline.errors import CompositionError, LabelError, StageError, TextError, ValuesError
from pipeline.sources import Csv
from support.untyped import untyped

TEXTS = ["a b", "b", "|", "b a", "a"]
TOKENIZE = Tokenize.train(["a b"])


def make_pipe(*stages: Any) -> Any:
    """Return a pipe that begins with some stages and ends with predictions."""
    pipe: Any = stages[0]
    for stage in stages[1:]:
        pipe = pipe >> stage
    return pipe >> classifier(9, 2, embedding_dim=3, hidden_size=4)


def take_first(text: str) -> str:
    """Return the first part of a text that is not empty; for other texts raise StopIteration."""
    return next(part for part in text.split("|") if part.strip())


class First(Stage[str, str]):
    """Returns the first part of a text that is not empty. A text without one ends in a StopIteration."""

    @override
    def __call__(self, value: str, /) -> str:
        return take_first(value)


class FirstOfEach(Stream[str, str]):
    """The same as a stream, in one of three forms."""

    def __init__(self, form: str) -> None:
        self.form = form

    @override
    def __call__(self, values: Iterable[str], /) -> Iterator[str]:
        return map(take_first, values) if self.form == "map" else (take_first(value) for value in values)


class FirstTogether(Stage[str, str]):
    """The same with a `map` of its own."""

    @override
    def __call__(self, value: str, /) -> str:
        return value

    @override
    def map(self, values: Iterable[str], /) -> Iterator[str]:
        return map(take_first, values)


@pytest.mark.parametrize("predicts", [False, True])
def test_stop_iteration_in_a_stage_is_an_error(*, predicts: bool) -> None:
    """It names the stage, instead of ending the stream."""
    pipe = make_pipe(First(), TOKENIZE, Bucket(rows=2), Pad())
    with pytest.raises(StageError, match="^stage 1 `First`: `First` raised StopIteration, which would end the stream"):
        list(pipe.predict(TEXTS) if predicts else pipe(TEXTS))


def test_stop_iteration_in_map_is_an_error() -> None:
    """Of a stage alone, without a chain."""
    with pytest.raises(StageError, match="`First` raised StopIteration"):
        list(First().map(TEXTS))


def test_stop_iteration_in_a_generator_is_an_error() -> None:
    """Python's own error names the generator only."""
    pipe = make_pipe(FirstOfEach("generator"), TOKENIZE, Bucket(rows=2), Pad())
    with pytest.raises(StageError, match="^stage 1 `FirstOfEach`: `FirstOfEach` raised StopIteration"):
        list(pipe.predict(TEXTS))


def test_a_map_that_ends_early_is_an_error() -> None:
    """A StopIteration inside Python's `map` looks like the end, so the numbers are compared."""
    pipe = make_pipe(FirstTogether(), TOKENIZE, Bucket(rows=2), Pad())
    for run in (pipe, pipe.predict):
        with pytest.raises(
            CompositionError, match="stage 1 `FirstTogether`: it returned 2 outputs for 3 inputs; First"
        ):
            list(run(TEXTS))


def test_a_stream_that_ends_early_is_an_error_in_prediction() -> None:
    """In training a stream may leave values out; a prediction is due for each."""
    pipe = make_pipe(FirstOfEach("map"), TOKENIZE, Bucket(rows=2), Pad())
    with pytest.raises(CompositionError, match=r"row 2 of 3 was not predicted; a stage of FirstOfEach >> Tokenize"):
        list(pipe.predict(TEXTS))


class FirstInput(Stage[Example[str], str]):
    """Raises a StopIteration for every example."""

    @override
    def __call__(self, value: Example[str], /) -> str:
        return next(iter(()))


class IndexOut(Stage[str, str]):
    """Raises an IndexError for a text without a second word."""

    @override
    def __call__(self, value: str, /) -> str:
        return value.split()[1]


def test_index_error_in_a_stage_is_an_error() -> None:
    """Of the same class, with a note that names the stage."""
    pipe = make_pipe(IndexOut(), TOKENIZE, Bucket(rows=2), Pad())
    for run in (pipe, pipe.predict):
        with pytest.raises(IndexError) as raised:
            list(run(TEXTS))
        assert "It was raised in stage 1 `IndexOut`." in raised.value.__notes__


class Batches(Stage[list[Row[Ids]], list[Row[Ids]]]):
    """Changes the rows of every batch."""

    def __init__(self, change: str) -> None:
        self.change = change

    @override
    def __call__(self, value: list[Row[Ids]], /) -> list[Row[Ids]]:
        if self.change == "lost":
            return value[1:]
        if self.change == "doubled":
            return [*value, value[0]]
        if self.change == "swapped":
            ids = [row.row_id for row in value]
            return [attrs.evolve(row, row_id=number + 5) for row, number in zip(value, ids, strict=True)]
        return value[::-1]


@pytest.mark.parametrize("change", ["lost", "doubled", "swapped"])
def test_a_stage_between_bucket_and_pad_must_keep_the_rows(change: str) -> None:
    """In prediction each row has one prediction; in training a stage may drop or repeat rows."""
    pipe = make_pipe(FromIds(), Bucket(rows=3), Batches(change), Pad())
    with pytest.raises(CompositionError, match=r"^stage 3 `Batches`: Batches returned rows \[.*\] for rows \[.*\]"):
        list(pipe.predict([[1], [2, 3], [4, 5, 6]]))
    assert len(list(pipe([[1], [2, 3], [4, 5, 6]]))) == 1


def test_a_stage_between_bucket_and_pad_may_sort_rows() -> None:
    """Their row ids are sorted with them."""
    inputs = [[1], [2, 3], [4, 5, 6]]
    data = FromIds(), Bucket(rows=3)
    model = classifier(9, 2, embedding_dim=3, hidden_size=4)
    plain: Any = data[0] >> data[1] >> Pad() >> model
    turned: Any = data[0] >> data[1] >> Batches("sorted") >> Pad() >> model
    assert list(turned.predict(inputs)) == list(plain.predict(inputs))


class FilledPad(Stage[list[Row[Ids]], Padded[Ids]]):
    """Pads, and adds an empty row."""

    @override
    def __call__(self, value: list[Row[Ids]], /) -> Padded[Ids]:
        return Pad()([*value, Row(Ids(value[0].sequence.values[:0]), row_id=FILLER)])


def test_fillers_are_not_counted() -> None:
    """They belong to no input."""
    pipe = make_pipe(FromIds(), Bucket(rows=2), FilledPad())
    assert len(list(pipe.predict([[1], [2], [3]]))) == 3


class Repeating(Stream[Row[Ids], list[Row[Ids]]]):
    """Yields each row once, but one more often in prediction."""

    @override
    def __call__(self, values: Iterable[Row[Ids]], /) -> Iterator[list[Row[Ids]]]:
        rows = list(values)
        yield from ([row] for row in rows)
        yield [Row(rows[-1].sequence, row_id=len(rows))]


def test_a_row_that_was_not_an_input_is_an_error() -> None:
    """A prediction too many is not silently the last one."""
    pipe = make_pipe(FromIds(), Repeating(), Pad())
    with pytest.raises(CompositionError, match="stage 2 `Repeating`: it returned 4 rows for 3|row 3 was predicted"):
        list(pipe.predict([[1], [2], [3]]))


def test_prediction_ignores_targets() -> None:
    """Unknown, missing and malformed ones too, of examples and of rows."""
    labels = Labels(["neg", "pos"])
    tokenize = TokenizeWords.train([["a", "b"]])
    model = classifier(tokenize.vocab_size, labels, embedding_dim=3, hidden_size=4)
    after = Bucket(rows=4) >> Pad(labels=labels) >> model
    pipe: Any = tokenize >> after
    words = [["a"], ["b", "a"], ["b"]]
    plain = list(pipe.predict(words))
    for targets in (["pos", "mixed", None], [float("nan"), "", b"pos"], [["pos"], ["x", "y", "z"], 99]):
        assert (
            list(pipe.predict([untyped(Example)(row, target) for row, target in zip(words, targets, strict=True)]))
            == plain
        )
    rows = [attrs.evolve(tokenize(row), target="mixed") for row in words]
    assert list(after.predict(rows)) == plain


@pytest.mark.parametrize("values", ["text", b"text"])
def test_one_text_instead_of_texts_is_an_error(values: object) -> None:
    """Its letters would be inputs, for every way to run a pipe."""
    pipe = make_pipe(First(), TOKENIZE, Bucket(rows=2), Pad())
    for run in (pipe, pipe.predict, pipe.predict_batches, TOKENIZE.map, First().map, untyped(Tokenize.train)):
        with pytest.raises(TextError, match="got one text|bytes"):
            list(cast("Iterable[object]", untyped(run)(values)))


def test_errors_about_a_row_of_a_source_name_file_and_line(tmp_path: Path) -> None:
    """Wherever the error is raised: for a target in Pad, or for an id in Embed."""
    file = tmp_path / "reviews.csv"
    file.write_text("text,y\na,pos\nb,neg\na b,mixed\n")
    labels = Labels(["neg", "pos"])
    data: StreamChain[Any, Any] = TOKENIZE >> Bucket(rows=4) >> Pad(labels=labels)
    with pytest.raises(LabelError, match=r"target of row 2 .* Row 2 is .*reviews\.csv, line 4\.") as raised:
        list(data(Csv(file, target="y")))
    assert str(raised.value.details["where"]).endswith("reviews.csv, line 4")
    model = classifier(TOKENIZE.vocab_size - 1, 2, embedding_dim=3, hidden_size=2)
    pipe = TOKENIZE >> Bucket(rows=4) >> Pad() >> model
    with pytest.raises(ValuesError, match=r"holds id .*reviews\.csv, line [234]\."):
        list(pipe.predict(Csv(file, target="y")))


def test_errors_that_name_no_row_have_no_location(tmp_path: Path) -> None:
    """A wrong line would be worse than none."""
    file = tmp_path / "reviews.csv"
    file.write_text("text,y\na,pos\n")
    pipe = make_pipe(FirstInput(), TOKENIZE, Bucket(rows=4), Pad())
    with pytest.raises(StageError) as raised:
        list(pipe(Csv(file, target="y")))
    assert "where" not in raised.value.details


def read_two(error: Exception) -> Iterator[str]:
    """Yield a text, and raise an error."""
    yield "a"
    raise error


@pytest.mark.parametrize("predicts", [True, False])
@pytest.mark.parametrize("kind", [ValueError, LabelError])
def test_an_error_of_the_input_names_its_record_and_no_stage(kind: type[ValueError], *, predicts: bool) -> None:
    """The first stage reads the input, but is not at fault, nor is the plugin that its part comes from."""
    tokenize = Tokenize.train(["a"])
    pipe = tokenize >> Bucket(rows=1) >> Pad() >> classifier(tokenize.vocab_size, 2, embedding_dim=2, hidden_size=2)
    inputs = read_two(kind("no such text"))
    with pytest.raises(kind) as raised:
        list(pipe.predict(inputs) if predicts else pipe(inputs))
    assert str(raised.value) == "no such text"
    assert raised.value.__notes__ == ["It was raised by the input, at record 1."]
