"""Pooled vectors in the order of the inputs."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import Tensor
from typing_extensions import override

from pipeline.core.running import Observer
from pipeline.core.stream_chain import StreamChain
from pipeline.data.rows import FILLER
from pipeline.data.states import Pooled
from pipeline.data.tensors import to_ints
from pipeline.errors import CompositionError
from pipeline.inference.in_order import Run, run_in_order

A = TypeVar("A")
C = TypeVar("C")


class _LastPooled(Observer):
    """Keeps the last pooled vectors of each batch."""

    def __init__(self) -> None:
        self.pooled: Pooled | None = None

    @override
    def see_output(self, number: int, stage: object, value: object, output: object) -> None:
        if isinstance(output, Pooled):
            self.pooled = output


def compute_vectors(pipe: StreamChain[A, C], run: Run[C], inputs: Iterable[A]) -> Iterator[Tensor]:
    """Yield one vector per input; see `StreamChain.vectors`."""
    last = _LastPooled()

    def unpack(_: C) -> Iterator[tuple[int, Tensor]]:
        pooled, last.pooled = last.pooled, None
        if pooled is None:
            msg = f"vectors needs a stage that returns pooled vectors, like Pool, but no stage of {pipe!r} does."
            raise CompositionError(msg)
        for row_id, vector in zip(to_ints(pooled.row_ids), pooled.values.cpu(), strict=True):
            if row_id != FILLER:
                yield row_id, vector

    return run_in_order(pipe, run, inputs, unpack, last)
