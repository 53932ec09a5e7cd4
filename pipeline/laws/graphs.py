"""The laws of graphs: what declares `exportable` can be exported and compiled, and gives the same."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim

from pipeline.data.batches import Padded
from pipeline.data.order import ints
from pipeline.data.rows import Vectors
from pipeline.data.states import States
from pipeline.laws.compare import same
from pipeline.laws.law import FaultError, Law, law
from pipeline.laws.run import PlainModule, Tried, may_be_empty, prepared, size_of
from pipeline.laws.samples import drawn, padded
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling


class _OfTensors(nn.Module):
    """A part in a module of values and lengths, as a script would export it."""

    def __init__(self, part: Tried) -> None:
        super().__init__()
        self.part = part

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        part = self.part
        if isinstance(part, PlainModule):
            given: Tensor = part(values, lengths)
            return (given,)
        batch = Padded(Vectors, values, lengths)
        if isinstance(part, Encoder):
            states = part(batch)
            return states.padded().values, states.final
        if isinstance(part, Pooling):
            return (part(States.from_padded(values, lengths)),)
        rows = batch.fill_padding(0).values
        return (part(rows.flip(-1), rows, batch.order.mask(batch.width).unsqueeze(1)),)


def _batches(part: Tried) -> list[Padded[Vectors]]:
    """Batches of other sizes and widths, the first to make a graph of."""
    shortest = 0 if may_be_empty(part) else 1
    return [padded(drawn(lengths, size_of(part))) for lengths in ((4, 2, 3), (2, 6, shortest, 5, 5), (3, 3))]


def _alike(ours: Callable[..., tuple[Tensor, ...]], module: _OfTensors, batch: Padded[Vectors], of: str) -> None:
    """Make sure that a graph gives what its module gives, in every cell of real steps."""
    found, wanted = (_real(run(batch.values, batch.lengths), batch) for run in (ours, module))
    same(found, wanted, f"{of} on rows of lengths {ints(batch.lengths)}")


def _real(given: tuple[Tensor, ...], batch: Padded[Vectors]) -> list[Tensor]:
    shape = batch.values.shape[:2]
    return [each[batch.order.mask(batch.width)] if each.shape[:2] == shape else each for each in given]


@contextmanager
def _explained(what: str) -> Generator[None]:
    """Say what usually stands behind an error of torch's, which speaks of symbols."""
    try:
        yield
    except FaultError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        msg = (
            f"{what} failed, usually at a number that is read from a tensor (.item(), int(...), if on values), at "
            f"len(tensor) where a graph wants shape[0], or at a loop over time in Python; else do not declare "
            f"exportable. {type(error).__name__}: {said}"
        )
        raise FaultError(msg) from error


_compile: Callable[..., Callable[..., tuple[Tensor, ...]]] = getattr(torch, "compile")  # noqa: B009
"""Torch leaves its type open."""


@law
def torch_export_gives_the_same(make: Callable[[], Tried]) -> None:
    """What declares `exportable` can be exported, strictly and not, once for batches of any size and width."""
    part = prepared(make)
    if not part.exportable:
        return
    first, *others = _batches(part)
    module = _OfTensors(part)
    rows, time = Dim("rows"), Dim("time")
    for strict in (False, True):
        with _explained(f"exporting (strict={strict})"):
            exported = torch.export.export(
                module,
                (first.values, first.lengths),
                dynamic_shapes={"values": {0: rows, 1: time}, "lengths": {0: rows}},
                strict=strict,
            ).module()
        for batch in (first, *others):
            with _explained(f"what was exported (strict={strict})"):
                _alike(exported, module, batch, f"exported (strict={strict})")


@law
def torch_compile_gives_the_same(make: Callable[[], Tried]) -> None:
    """What declares `exportable` can be compiled into one graph, without its needing a compiler for machine code."""
    part = prepared(make)
    if not part.exportable:
        return
    module = _OfTensors(part)
    try:
        compiled = _compile(module, fullgraph=True, backend="eager", dynamic=True)
        for batch in _batches(part):
            with _explained("compiling"):
                _alike(compiled, module, batch, "compiled")
    finally:
        torch.compiler.reset()


GRAPHS: tuple[Law[Encoder | Attention | Pooling | PlainModule], ...] = (
    torch_compile_gives_the_same,
    torch_export_gives_the_same,
)
"""The laws of graphs: the slow ones."""
