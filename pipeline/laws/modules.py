"""Laws about any `nn.Module`, also one that does not use this library."""

from collections.abc import Callable
from typing import Final, Literal

from torch import nn

from pipeline.laws.common import COMMON_LAWS
from pipeline.laws.law import Law, check_laws, reject_instance
from pipeline.laws.parts import PlainModule
from pipeline.laws.rows import (
    causal_steps_do_not_look_ahead,
    no_gradient_reaches_padding,
    padding_values_have_no_effect,
)
from pipeline.laws.weights import evaluation_is_deterministic

MODULE_LAWS: Final[tuple[Law[PlainModule], ...]] = (
    evaluation_is_deterministic,
    padding_values_have_no_effect,
    no_gradient_reaches_padding,
    causal_steps_do_not_look_ahead,
    *COMMON_LAWS,
)
"""Every law of a plain module, the quick ones first. They take the module inside a `PlainModule`."""


def check_module(
    make: Callable[[], nn.Module],
    *,
    input_size: int,
    each: Literal["step", "row"] | None = None,
    causal: bool = False,
    empty_rows: bool = True,
    exportable: bool = False,
) -> None:
    """Check modules that are called as `module(values, lengths)` against `MODULE_LAWS`.

    Values are batch x time x feature; row i has lengths[i] real steps, which come first; lengths are int64 on the CPU.
    The module may be a whole model: anything that returns a tensor that padding and batchmates must not change.

    `make` takes no arguments and creates a new module at every call. The options describe these modules, as those of
    `PlainModule` do.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
        OptionError: if `make` is a module instead of a function that creates one.

    Example:
        >>> class Mean(nn.Module):
        ...     def forward(self, values, lengths):
        ...         return values.mean(1)
        >>> check_module(Mean, input_size=3)
        Traceback (most recent call last):
        pipeline.laws.law.LawBrokenError: 9 of 32 laws of modules are broken; ...
    """
    reject_instance(make, "check_module")

    def make_part() -> PlainModule:
        return PlainModule(
            make(), input_size=input_size, each=each, causal=causal, empty_rows=empty_rows, exportable=exportable
        )

    check_laws(MODULE_LAWS, make_part, "modules", "MODULE_LAWS")
