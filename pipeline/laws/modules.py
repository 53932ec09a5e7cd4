"""The laws of modules of one's own, which know nothing of this library: `module(values, lengths)`."""

from collections.abc import Callable
from typing import Final, Literal

from torch import nn

from pipeline.laws.encoders import causal_steps_do_not_look_ahead
from pipeline.laws.graphs import GRAPHS
from pipeline.laws.inertness import EVERY_ROW, no_gradient_reaches_padding, padding_is_inert
from pipeline.laws.law import Law, check, refuse_parts
from pipeline.laws.run import PlainModule
from pipeline.laws.upkeep import UPKEEP, evaluation_is_deterministic

MODULE_LAWS: Final[tuple[Law[PlainModule], ...]] = (
    evaluation_is_deterministic,
    padding_is_inert,
    no_gradient_reaches_padding,
    *EVERY_ROW,
    causal_steps_do_not_look_ahead,
    *UPKEEP,
    *GRAPHS,
)
"""Every law of a module of one's own, the quick ones first; it is handed to them in a `PlainModule`."""


def check_module(
    make: Callable[[], nn.Module],
    *,
    input_size: int,
    each: Literal["step", "row"] | None = None,
    causal: bool = False,
    empty_rows: bool = True,
    exportable: bool = False,
) -> None:
    """Hold modules that are called as `module(values, lengths)` against `MODULE_LAWS`.

    Values are batch x time x feature floats, of which row i has lengths[i] real steps, those first; lengths are int64
    on the CPU. Such a module may be a whole model: whatever gives a tensor that should not depend on padding and mates.

    Args:
        make: takes nothing and makes a new module at every call.
        input_size: how many features a step has.
        each: whether the module gives something for each step (batch x time x anything) or for each row (batch x
            anything); if left out, a result of three axes or more whose second is as long as the values' is for each
            step.
        causal: whether step t of what it gives depends on steps up to t alone.
        empty_rows: whether a row may have no steps.
        exportable: whether `torch.export` and `torch.compile(fullgraph=True)` take it.

    Raises:
        LawBrokenError: if they break any law; it tells of all of them.
        OptionError: if `make` is a module, and no function that makes one.

    Example:
        >>> class Mean(nn.Module):
        ...     def forward(self, values, lengths):
        ...         return values.mean(1)
        >>> check_module(Mean, input_size=3)
        Traceback (most recent call last):
        pipeline.laws.law.LawBrokenError: 6 of 18 laws of modules broken; ...
    """
    refuse_parts(make, "check_module")

    def made() -> PlainModule:
        return PlainModule(
            make(), input_size=input_size, each=each, causal=causal, empty_rows=empty_rows, exportable=exportable
        )

    check(MODULE_LAWS, made, "modules")
