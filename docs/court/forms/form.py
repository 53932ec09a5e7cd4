"""A form: how a module is made in another precision, or by another runtime, and how much its results may differ."""

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs
from torch import Tensor, nn


class FormedModule(Protocol):
    """A module in another form."""

    def __call__(self, values: Tensor, lengths: Tensor, /) -> Tensor:
        """Return the results in float64: batch x time x anything, or batch x anything."""
        ...

    def make_exact(self) -> nn.Module:
        """Return a module that computes the same in float64, from the same weights and the same rounded input."""
        ...


@attrs.frozen(kw_only=True)
class Form:
    """One form of a module.

    Attributes:
        name: the name of the form, which heads its column.
        make: creates the module in this form; it is a `FormedModule` and an `nn.Module`. An error says why it cannot.
        rounding: the relative difference that is allowed where results need not be bitwise equal.
        unsupported: for laws that do not apply, the reason.
    """

    name: str
    make: Callable[[], nn.Module]
    rounding: float
    unsupported: Mapping[str, str] = attrs.field(factory=dict[str, str])
