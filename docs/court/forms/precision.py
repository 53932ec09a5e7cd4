"""Forms in a precision below float64: float32, bfloat16, and float32 under autocast to bfloat16."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from court.forms.form import Form

ROUNDINGS: Final = 16
"""The allowed difference, in multiples of the precision's `eps`, which is the distance of two neighboring numbers.

Most laws take rows of up to 20 steps, of which a recurrent layer rounds each about three times; two layers of a
transformer round about as often. Errors of 60 roundings, of random signs, add up to the square root of 60, which is 8.
Weights and normalization enlarge an error on its way, here up to twice. One number serves all parts, laws and
precisions: for bfloat16 it is 0.125, and for float32 0.0000019."""


class InPrecision(nn.Module):
    """A module in a precision of its own, whatever dtype the laws ask for.

    Args:
        module: the module, with parameters in any precision.
        dtype: the precision of its parameters and of its input.
        autocast: whether it runs under autocast to bfloat16.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, *, autocast: bool) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype
        self.autocast = autocast

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The laws move modules to float64. This one stays in its precision.
        return self

    @override
    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return the results in float64."""
        if values.is_floating_point():
            values = values.to(self.dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            result: Tensor = self.module(values, lengths)
        return result.double()

    def make_exact(self) -> nn.Module:
        """Return the same module in float64, with the rounded weights."""
        return Exact(copy.deepcopy(self.module).double(), self.dtype)


class Exact(nn.Module):
    """A module in float64 that gets the rounded input of a form."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    @override
    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return the results."""
        if values.is_floating_point():
            values = values.to(self.dtype).double()
        result: Tensor = self.module(values, lengths)
        return result


def list_precisions(make: Callable[[], nn.Module]) -> Sequence[Form]:
    """Return the forms of a module in lower precision."""
    return [
        Form(name=name, make=partial(_make, make, dtype, autocast), rounding=ROUNDINGS * torch.finfo(least).eps)
        for name, dtype, autocast, least in (
            ("float32", torch.float32, False, torch.float32),
            ("bfloat16", torch.bfloat16, False, torch.bfloat16),
            ("autocast", torch.float32, True, torch.bfloat16),
        )
    ]


def _make(make: Callable[[], nn.Module], dtype: torch.dtype, autocast: bool) -> nn.Module:
    return InPrecision(make(), dtype, autocast=autocast)
