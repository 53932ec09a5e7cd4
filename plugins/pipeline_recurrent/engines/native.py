"""The native engine: a compiled kernel on the packed layout, where there is one."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast, final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from pipeline.sequences.batches import Carry
from pipeline.sequences.order import Order
from pipeline_recurrent.engines.engine import Layered
from pipeline_recurrent.engines.run import Answer, Cell, Run, Weights
from pipeline_recurrent.engines.why import unusual_dtype


class _Compiled(Protocol):
    """What `pipeline_recurrent.native` offers."""

    available: Callable[[], str | None]
    layer: Callable[[Cell, Tensor, Order, Sequence[Weights], Carry], Answer]


def _compiled() -> _Compiled | str:
    """The compiled kernels, or why there are none."""
    # By name and late: it is not installed where no compiler was found.
    try:
        found = cast("_Compiled", import_module("pipeline_recurrent.native"))
    except ImportError:
        return "it was not compiled when this library was installed"
    return found.available() or found


@final
class Native(Layered):
    """Product and gates of a step in one pass over the registers."""

    name = "native"

    @override
    def refusal(self, run: Run) -> str | None:
        if run.steps.device.type != "cpu":
            return f"it runs on a CPU, but the values are on {run.steps.device}"
        found = _compiled()
        return found if isinstance(found, str) else unusual_dtype(run)

    @override
    def layer(
        self,
        cell: Cell,
        x: Float[Tensor, "steps feature"],
        order: Order,
        weights: Sequence[Weights],
        initial: Carry | None,
    ) -> Answer:
        found = _compiled()
        assert not isinstance(found, str)
        # Its states are those of all rows, in reading order.
        rows = order.rows[: order.occupied]
        shape = (len(weights), len(order.lengths), weights[0][1].shape[-1])
        started = tuple(x.new_zeros(shape) for _ in range(2 if cell == "lstm" else 1))
        if initial is not None:
            started = tuple(zeros.index_copy(1, rows, state) for zeros, state in zip(started, initial, strict=True))
        steps, ended = found.layer(cell, x, order, weights, started)
        return steps, tuple(state.index_select(1, rows) for state in ended)
