"""Test that parts can be created with small options, without changing anything else."""

import random
import warnings
from collections.abc import Callable
from importlib.metadata import distribution
from typing import TYPE_CHECKING, Annotated, Literal, NewType, Optional, overload

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.registry import discover_plugins
from pipeline.registry.sampling import make_sample, preserve_global_state, sample_options
from support.untyped import seed

if TYPE_CHECKING:
    from decimal import Decimal

OURS = discover_plugins([distribution("ragged-pipeline")])
Size = NewType("Size", int)


class Overloaded:
    """Like the library's encoders: the type checker sees other signatures than Python."""

    @overload
    def __init__(self, input_size: int, *, wide: Literal[True]) -> None: ...
    @overload
    def __init__(self, input_size: int, *, wide: bool) -> None: ...
    def __init__(self, input_size: int, *, wide: bool) -> None:
        self.made = (input_size, wide)


def every(
    a: int,
    b: float,
    c: bool,
    d: Literal["x", "y"],
    e: Annotated[int, "positive"],
    f: Size,
    g: str | None,
    h: None | int,  # noqa: RUF036
    i: Optional[float],  # noqa: UP045
    j: "int",
    k: None,
) -> None:
    """Have a parameter of each type that has a value."""


def unfound(input_size: int, rate: "float", total: "Decimal | None" = None) -> None:
    """Have an annotation that cannot be evaluated; the others stay strings."""


def starred(*args: int, size: int, **options: int) -> None:
    """Have parameters that need no value."""


def by_place(size: int, /) -> None:
    """Have a parameter that cannot be passed by keyword."""


def given_by_place(input_size: int, /) -> None:
    """Have a parameter by position, next to one that is known."""


def by_place_with_default(size: int = 3, /, *, other: int) -> None:
    """Have a positional parameter with a default."""


unannotated: Callable[..., object] = eval("lambda input_size, hidden_size: None")  # noqa: S307
"""A factory without annotations."""

SAMPLES: list[tuple[Callable[..., object], dict[str, object] | None]] = [
    (Overloaded, {"input_size": 7, "wide": False}),
    (
        every,
        {"a": 4, "b": 0.5, "c": False, "d": "x", "e": 4, "f": 4, "g": None, "h": 4, "i": 0.5, "j": 4, "k": None},
    ),
    (unfound, {"input_size": 7, "rate": 0.5}),
    (starred, {"size": 4}),
    (by_place, None),
    (given_by_place, None),
    (by_place_with_default, {"other": 4}),
    (unannotated, None),
    (nn.Identity, {}),
    (int, {}),
]


@pytest.mark.parametrize(("factory", "wanted"), SAMPLES)
def test_required_options_get_small_values(factory: Callable[..., object], wanted: dict[str, object] | None) -> None:
    """Given values come first, then annotations; options that the factory does not take are left out."""
    options = sample_options(factory, {"input_size": 7, "texts": ["a"]})
    assert options == wanted
    assert [type(value) for value in (options or {}).values()] == [type(value) for value in (wanted or {}).values()]


def test_strings_are_not_guessed() -> None:
    """A required string has no sample value, and neither has another type without an obvious one."""

    def named(name: str) -> str:
        return name

    def many(names: list[int]) -> list[int]:
        return names

    assert sample_options(named, {}) is None
    assert sample_options(many, {}) is None
    assert sample_options(named, {"name": "gru"}) == {"name": "gru"}
    assert make_sample(named, {}) is None


def test_own_parts_can_be_sampled() -> None:
    """Every encoder, attention and pool can be created on the device that needs no memory."""
    modules = [offer for catalogue, offer in OURS.parts() if catalogue.kind in {"encoder", "attention", "pool"}]
    assert len(modules) > 10
    for offer in modules:
        part = make_sample(offer.factory, {"input_size": 4})
        assert isinstance(part, nn.Module), offer.name
        assert all(weight.is_meta for weight in part.parameters())


def drawing(input_size: int) -> nn.Module:
    """Draw random numbers on the CPU, whatever the device, and warn."""
    torch.rand(2, device="cpu")
    random.random()
    np.random.rand()  # noqa: NPY002
    warnings.warn("a stranger's", stacklevel=1)
    return nn.Linear(input_size, 3)


def test_random_generators_are_restored() -> None:
    """The generators are those of torch, Python and numpy."""

    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(1)), random.random(), float(np.random.rand())  # noqa: NPY002

    seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    wanted = drawn(), drawn()
    seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    first = drawn()
    assert make_sample(drawing, {"input_size": 4}) is not None
    assert (first, drawn()) == wanted


def test_random_generators_are_restored_after_an_error() -> None:
    """The state is also restored if the factory raises an error."""
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), preserve_global_state():
        torch.cat([torch.rand(2), torch.rand(2, 2)])
    assert torch.equal(torch.get_rng_state(), before)


def test_factory_may_reject_the_options() -> None:
    """A factory that rejects its sample options gives None."""

    def rejecting(input_size: int) -> int:
        msg = f"{input_size} is too small"
        raise ValueError(msg)

    assert sample_options(rejecting, {}) == {"input_size": 4}
    assert make_sample(rejecting, {}) is None
