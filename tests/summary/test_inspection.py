"""Tests of following one input through a chain."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import methodcaller

import pytest
import torch
from rich.console import Console
from torch import Tensor
from typing_extensions import override

from pipeline import (
    Classify,
    EachStep,
    Embed,
    Encode,
    Example,
    FromFeatures,
    ModuleStage,
    Pack,
    Pad,
    Padded,
    Pool,
    Pooled,
    Row,
    States,
    Stream,
    Vectors,
)
from pipeline.errors import CompositionError
from pipeline.summary.inspection import Inspection, inspect_stages
from support.records import Word, make_words

html: Callable[[object], str] = methodcaller("_repr_html_")
"""The HTML that a notebook shows."""


class Values(ModuleStage[Pooled, Tensor]):
    """A stage that returns a tensor without named axes."""

    @override
    def forward(self, value: Pooled) -> Tensor:
        """Return the pooled vectors."""
        return value.values


class Repeat(Stream[object, object]):
    """A stream that returns each input a number of times."""

    def __init__(self, times: int) -> None:
        self.times = times

    @override
    def __call__(self, values: Iterable[object], /) -> Iterator[object]:
        """Yield each input."""
        return (value for value in values for _ in range(self.times))


def show(inspection: Inspection) -> list[tuple[str, str, str, str]]:
    """Return the cells of the table."""
    return [(output.stage, output.type, output.shape, output.values) for output in inspection.outputs]


def test_each_stage_shows_type_shape_and_first_values() -> None:
    """Values are cut after six numbers, and axes without a name are called axis."""
    states = States.from_padded(torch.arange(8.0).reshape(1, 2, 4), torch.tensor([2]))
    inspection = (Pool("max") >> Values()).inspect(states)
    assert show(inspection) == [
        ("input", "States", "batch=1 time=2 hidden=4", "0.00 1.00 2.00 3.00 4.00 5.00 ..."),
        ("pool", "Pooled", "batch=1 hidden=4", "4.00 5.00 6.00 7.00"),
        ("values", "Tensor", "axis=1 axis=4", "4.00 5.00 6.00 7.00"),
    ]
    assert isinstance(inspection.result, Tensor)
    assert str(inspection).splitlines()[2] == "pool    Pooled  batch=1 hidden=4         4.00 5.00 6.00 7.00"


def test_rows_examples_and_lists() -> None:
    """A list of one is shown like its item, a longer one by its length."""
    example = Example(torch.ones(2, 3), target=1)
    inspection = inspect_stages(example, {"from_features": FromFeatures()})
    assert [(stage, kind, shape) for stage, kind, shape, _ in show(inspection)] == [
        ("input", "Example", "axis=2 axis=3"),
        ("from_features", "Row[Vectors]", "time=2 feature=3"),
    ]
    row = Row(Vectors(torch.ones(2, 3)))
    assert show(inspect_stages([row], {}))[0][1:3] == ("list of 1 Row[Vectors]", "time=2 feature=3")
    assert show(inspect_stages([row, row], {}))[0][1:3] == ("list of 2 items", "")


@pytest.mark.parametrize("times", [0, 2])
def test_a_stream_must_return_one_output(times: int) -> None:
    """A stream that drops or repeats the input cannot be inspected."""
    with pytest.raises(
        CompositionError, match=f"stage 'repeat' must return one output for one input, got {times}; inspect"
    ):
        inspect_stages("a", {"repeat": Repeat(times)})


def test_a_narrow_terminal_cuts_values() -> None:
    """Each stage keeps to one line."""
    batch = Padded(Vectors, torch.ones(2, 3, 4), torch.tensor([3, 1]))
    console = Console(width=50, color_system=None)
    with console.capture() as capture:
        console.print(inspect_stages(batch, {}))
    _, line = capture.get().splitlines()
    assert line.startswith("input  Padded[Vectors]  batch=2 time=3 feature=4")


def test_html_has_the_same_cells() -> None:
    """The HTML for notebooks has a heading and a row per stage."""
    states = partial(States.from_padded, torch.ones(1, 2, 3), torch.tensor([2]))
    page = html((Pool("max") >> Classify(2, input_size=3)).inspect(states()))
    assert page.count("<tr") == 4
    assert "batch=1 hidden=3" in page


def test_fields_of_a_batch_are_listed() -> None:
    """A batch with fields has no values of its own; inner rows are part of its type."""
    batch = Pad(Word)([make_words(["ab", "c"]), make_words(["d"])])
    spell = EachStep(Embed(26, 3) >> Encode("gru", hidden_size=2) >> Pool("max"))
    outputs = (Pack(Word) >> Word.characters >> spell).inspect(batch).outputs
    assert [(each.type, each.shape) for each in outputs] == [
        ("Padded[Word]", "batch=2 time=2"),
        ("Packed[Word]", "steps=3"),
        ("Packed[Nested[Ids]]", "steps=3"),
        ("Packed[Vectors]", "steps=3 feature=2"),
    ]
    assert outputs[0].values == "word, characters"
