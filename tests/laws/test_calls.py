"""Test that a module is called by its convention, and that what it returns is found."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from pipeline.data.tensors import to_ints
from pipeline.errors import OptionError
from pipeline.laws.calls import CalledModule, Convention, to_token_ids
from pipeline.laws.law import FaultError

VALUES = torch.arange(1.0, 13.0).reshape(2, 3, 2)
LENGTHS = torch.tensor([3, 2])
REAL = torch.tensor([[True, True, True], [True, True, False]])


def return_values(values: object, *_: object) -> object:
    """Return the first argument."""
    return values


def sum_rows(rows: Sequence[Tensor], *_: object) -> list[Tensor]:
    """Return the sum of each row."""
    return [row.sum(0) for row in rows]


def select_inner(output: Any) -> Tensor:
    """Return a tensor of a tuple in a tuple."""
    found: Tensor = output[1][1]
    return found


class Recorder(nn.Module):
    """Remembers its arguments, and returns a given output."""

    def __init__(self, make: Callable[..., object] = return_values) -> None:
        super().__init__()
        self.make = make
        self.given: tuple[Any, ...] = ()
        self.named: dict[str, Any] = {}

    def forward(self, *given: Any, **named: Any) -> object:
        """Remember the arguments."""
        self.given, self.named = given, named
        return self.make(*given, *named.values())


def call(convention: Convention, make: Callable[..., object] = return_values) -> tuple[Recorder, Tensor]:
    """Call a module by a convention; return it and the result."""
    module = Recorder(make)
    return module, CalledModule(module, convention)(VALUES, LENGTHS)


@pytest.mark.parametrize(
    ("name", "second"),
    [("lengths", LENGTHS), ("mask", REAL), ("padding_mask", ~REAL), ("attention_mask", REAL.long())],
)
@pytest.mark.parametrize("batch_first", [True, False])
def test_padded_values_come_with_lengths_or_a_mask(name: Any, second: Tensor, *, batch_first: bool) -> None:
    """Masks are batch x time; values and results may be time first."""
    module, result = call(Convention(name, batch_first=batch_first))
    values, other = module.given
    assert torch.equal(values, VALUES if batch_first else VALUES.transpose(0, 1))
    assert torch.equal(other, second)
    assert other.dtype is second.dtype
    assert torch.equal(result, VALUES)


def test_arguments_may_be_passed_by_name() -> None:
    """In the order of values and mask."""
    module, _ = call(Convention("mask", names=["inputs_embeds", "attention_mask"]))
    assert module.given == ()
    assert [*module.named] == ["inputs_embeds", "attention_mask"]
    assert torch.equal(module.named["attention_mask"], REAL)


def test_packed_sequences_go_in_and_come_out() -> None:
    """Rows keep their order."""
    module, result = call(Convention("packed"))
    assert isinstance(module.given[0], PackedSequence)
    assert torch.equal(result[REAL], VALUES[REAL])
    assert result.shape == VALUES.shape


def test_nested_tensors_and_lists_of_rows_go_in_and_come_out() -> None:
    """Without padding."""
    for name in ("nested", "rows"):
        module, result = call(Convention(name))
        assert [len(row) for row in module.given[0]] == [3, 2]
        assert torch.equal(result[REAL], VALUES[REAL])
        assert result.shape == VALUES.shape
    _, result = call(Convention("rows"), sum_rows)
    assert torch.equal(result, torch.stack([VALUES[0].sum(0), VALUES[1, :2].sum(0)]))


def test_values_alone_have_zeros_in_the_padding() -> None:
    """Such a module cannot know the lengths."""
    module, _ = call(Convention("values"))
    assert torch.equal(module.given[0], VALUES * REAL.unsqueeze(-1))


def test_padding_may_be_finite() -> None:
    """Real steps are unchanged, even if they are NaN; so is finite padding."""
    values = VALUES.clone()
    values[1, 2], values[0, 0, 0] = torch.tensor([torch.nan, 7.0]), torch.nan
    module = Recorder()
    CalledModule(module, Convention(nan_in_padding=False))(values, LENGTHS)
    given = module.given[0]
    assert given[1, 2].isfinite().all()
    assert given[1, 2, 1] == 7
    assert torch.equal(given[0].isnan(), values[0].isnan())


def test_ids_are_drawn_from_the_whole_vocabulary() -> None:
    """0 is padding, and NaN an id as any other; equal numbers give equal ids."""
    convention = Convention(vocab_size=20, padding_id=3)
    drawn = torch.randn(50, 20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn[0, 0], drawn[0, 1] = 0, torch.nan
    ids = to_token_ids(drawn, convention)
    assert ids.dtype is torch.int64
    assert to_ints(ids[0, :2]) == [3, 19]
    assert set(to_ints(ids[1:].flatten())) == set(range(1, 19))
    infinite = torch.full((1, 1, 1), torch.inf)
    assert to_token_ids(infinite, convention).item() == 19


def test_a_function_may_call_the_module() -> None:
    """With padded values and lengths."""
    module = Recorder()

    def own(module: nn.Module, values: Tensor, lengths: Tensor) -> object:
        return module(values * 2, lengths)

    assert torch.equal(CalledModule(module, Convention(own))(VALUES, LENGTHS), VALUES * 2)


@pytest.mark.parametrize(
    ("output", "result"),
    [
        (VALUES, None),
        ((VALUES, torch.zeros(1)), None),
        ({"states": VALUES, "other": 0}, None),
        (SimpleNamespace(states=VALUES), None),
        ([{"states": (VALUES, 0)}], None),
        ({"other": 0, "states": VALUES}, "states"),
        (SimpleNamespace(other=0, states=VALUES), "states"),
        ((0, VALUES), 1),
        ((0, (0, VALUES)), select_inner),
    ],
)
def test_the_result_is_found_in_the_output(output: object, result: Any) -> None:
    """The first tensor, or what is selected."""
    _, found = call(Convention(result=result), lambda *_: output)
    assert torch.equal(found, VALUES)


@pytest.mark.parametrize(
    ("output", "result", "message"),
    [
        ({"states": VALUES}, "pooled", "the output must have 'pooled'"),
        ((VALUES,), 3, "the output must have 3"),
        ("text", None, "must return a tensor, a PackedSequence or a list of tensors"),
        (None, None, "must return a tensor"),
    ],
)
def test_other_outputs_are_rejected(output: object, result: Any, message: str) -> None:
    """With what is there."""
    with pytest.raises(FaultError, match=message):
        call(Convention(result=result), lambda *_: output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"call": "masks"}, "call must be"),
        ({"call": "mask", "names": ["values"]}, r"names must be the 2 names of the arguments, got \['values'\]"),
        ({"vocab_size": 2}, "vocab_size must be 3 or more, got 2"),
    ],
)
def test_wrong_options_are_rejected(options: dict[str, Any], message: str) -> None:
    """Each has a rule."""
    with pytest.raises(OptionError, match=message):
        Convention(**options)
