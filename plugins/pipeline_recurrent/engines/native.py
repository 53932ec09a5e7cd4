"""The native engine: a compiled kernel on the packed layout, where there is one."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Final, Protocol, cast, final

import torch
from typing_extensions import override

from pipeline.data.batches import Carry
from pipeline.data.order import Order
from pipeline_recurrent.engines.engine import Layered
from pipeline_recurrent.engines.packed import Packed
from pipeline_recurrent.engines.run import Answer, Cell, Run, Steps, Weights
from pipeline_recurrent.engines.why import unusual_dtype


class _Compiled(Protocol):
    """What `pipeline_recurrent.native` offers."""

    available: Callable[[], str | None]
    instructions: Callable[[], str]
    layer: Callable[..., Answer]


_PACKED: Final = Packed()
"""Whose operations have second derivatives."""


def compiled() -> _Compiled | str:
    """The compiled kernels, or why there are none."""
    # By name and late: it is not installed where no compiler was found.
    try:
        found = cast("_Compiled", import_module("pipeline_recurrent.native"))
    except ImportError:
        return "it was not compiled when this library was installed"
    reason = found.available()
    return found if reason is None else reason.removesuffix(".")


@final
class Native(Layered):
    """Product and gates of a step in one pass over the registers."""

    name = "native"

    @override
    def refusal(self, run: Run) -> str | None:
        if run.steps.device.type != "cpu":
            return f"it runs on a CPU, but the values are on {run.steps.device}"
        if run.dtype is not torch.float32:
            return unusual_dtype(run) or f"it computes in float32, but the values are {run.dtype}"
        found = compiled()
        return found if isinstance(found, str) else unusual_dtype(run)

    @override
    def layer(
        self,
        cell: Cell,
        x: Steps,
        order: Order,
        weights: Sequence[Weights],
        initial: Carry | None,
    ) -> Answer:
        found = compiled()
        assert not isinstance(found, str)
        return found.layer(cell, x, order, weights, initial, again=partial(_PACKED.layer, cell))
