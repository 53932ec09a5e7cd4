"""Laws about plain modules, which know nothing of this library: `module(values, lengths)`."""

from collections.abc import Callable
from typing import Final, Literal

from torch import nn

from pipeline.laws.graphs import GRAPH_LAWS
from pipeline.laws.law import Law, check_laws, reject_instance
from pipeline.laws.modules import UPKEEP_LAWS, evaluation_is_deterministic
from pipeline.laws.parts import PlainModule
from pipeline.laws.rows import (
    ROW_LAWS,
    causal_steps_do_not_look_ahead,
    no_gradient_reaches_padding,
    padding_values_have_no_effect,
)

MODULE_LAWS: Final[tuple[Law[PlainModule], ...]] = (
    evaluation_is_deterministic,
    padding_values_have_no_effect,
    no_gradient_reaches_padding,
    *ROW_LAWS,
    causal_steps_do_not_look_ahead,
    *UPKEEP_LAWS,
    *GRAPH_LAWS,
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

    Args:
        make: takes no arguments and creates a new module at every call.
        input_size: features per step of the input.
        each: "step" if the result is batch x time x anything, "row" if it is batch x anything. If left out, a result
            with three or more axes, of which the second is as long as the values', is taken for one per step.
        causal: True if step t of the result depends on steps up to t only.
        empty_rows: False if rows must have at least one step.
        exportable: True if `torch.export` and `torch.compile(fullgraph=True)` accept the module.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
        OptionError: if `make` is a module instead of a function that creates one.

    Example:
        >>> class Mean(nn.Module):
        ...     def forward(self, values, lengths):
        ...         return values.mean(1)
        >>> check_module(Mean, input_size=3)
        Traceback (most recent call last):
        pipeline.laws.law.LawBrokenError: 5 of 19 laws of modules are broken; ...
    """
    reject_instance(make, "check_module")

    def make_part() -> PlainModule:
        return PlainModule(
            make(), input_size=input_size, each=each, causal=causal, empty_rows=empty_rows, exportable=exportable
        )

    check_laws(MODULE_LAWS, make_part, "modules", "MODULE_LAWS")
