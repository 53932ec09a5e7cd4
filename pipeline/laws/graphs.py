"""Laws about graphs: a part that declares `exportable` can be exported and compiled, with the same results."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim

from pipeline.data.batches import Padded
from pipeline.data.kinds import Vectors
from pipeline.data.states import States
from pipeline.data.tensors import to_ints
from pipeline.laws.law import FaultError, Law, check_equal, law
from pipeline.laws.parts import (
    AnyModule,
    PlainModule,
    allows_empty_rows,
    choose_input_size,
    draw_rows,
    make_batch,
    prepare,
)
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling
from pipeline.text import format_error


class _TensorModule(nn.Module):
    """Adapter that gives a part tensors for arguments and results, because `torch.export` takes nothing else."""

    def __init__(self, part: AnyModule) -> None:
        super().__init__()
        self.part = part

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        part = self.part
        if isinstance(part, PlainModule):
            result: Tensor = part(values, lengths)
            return (result,)
        batch = Padded(Vectors, values, lengths)
        if isinstance(part, Encoder):
            states = part(batch)
            return states.padded().values, states.final
        if isinstance(part, Pooling):
            return (part(States.from_padded(values, lengths)),)
        rows = batch.fill_padding(0).values
        return (part(rows.flip(-1), rows, batch.order.mask(batch.width).unsqueeze(1)),)


def _make_batches(part: AnyModule) -> list[Padded[Vectors]]:
    """Return batches of different sizes and widths. The first one is traced, the others show whether it generalizes."""
    shortest = 0 if allows_empty_rows(part) else 1
    return [
        make_batch(draw_rows(lengths, choose_input_size(part)))
        for lengths in ((4, 2, 3), (2, 6, shortest, 5, 5), (3, 3))
    ]


def _check_graph(
    graph: Callable[..., tuple[Tensor, ...]], module: _TensorModule, batch: Padded[Vectors], which: str
) -> None:
    """Check that a graph gives the results of its module, padding aside."""
    found, wanted = (_select_real(run(batch.values, batch.lengths), batch) for run in (graph, module))
    check_equal(found, wanted, f"{which} on rows of lengths {to_ints(batch.lengths)}")


def _select_real(results: tuple[Tensor, ...], batch: Padded[Vectors]) -> list[Tensor]:
    shape = batch.values.shape[:2]
    return [result[batch.order.mask(batch.width)] if result.shape[:2] == shape else result for result in results]


@contextmanager
def _explain_errors(action: str) -> Generator[None]:
    """Add the usual cause to an error from torch, whose own message is about symbolic shapes."""
    try:
        yield
    except FaultError:
        raise
    except Exception as error:
        msg = (
            f"{action} failed; usually because a number is read from a tensor (.item(), int(...), if on values), "
            "because len(tensor) is used where a graph needs shape[0], or because of a Python loop over time. Fix "
            f"that, or do not declare exportable. {format_error(error, 300)}"
        )
        raise FaultError(msg) from error


# torch.compile has no complete annotation.
_compile: Callable[..., Callable[..., tuple[Tensor, ...]]] = getattr(torch, "compile")  # noqa: B009


@law
def exported_part_is_equal(make: Callable[[], AnyModule]) -> None:
    """If `exportable` is declared, one export, strict or not, works for batches of any size and width."""
    part = prepare(make)
    if not part.exportable:
        return
    first, *others = _make_batches(part)
    module = _TensorModule(part)
    # Dynamic axes. The lengths' axis must be the same symbol as the batch axis of the values.
    rows, time = Dim("rows"), Dim("time")
    for strict in (False, True):
        with _explain_errors(f"exporting (strict={strict})"):
            exported = torch.export.export(
                module,
                (first.values, first.lengths),
                dynamic_shapes={"values": {0: rows, 1: time}, "lengths": {0: rows}},
                strict=strict,
            ).module()
        # Other sizes than the traced one: a graph that stored a size as a constant fails here.
        for batch in (first, *others):
            with _explain_errors(f"running the exported part (strict={strict})"):
                _check_graph(exported, module, batch, f"exported (strict={strict})")


@law
def compiled_part_is_equal(make: Callable[[], AnyModule]) -> None:
    """If `exportable` is declared, the part compiles into one graph. No compiler for machine code is needed."""
    part = prepare(make)
    if not part.exportable:
        return
    module = _TensorModule(part)
    # The backend "eager" runs the traced graph without generating code, so no C++ compiler is needed.
    try:
        compiled = _compile(module, fullgraph=True, backend="eager", dynamic=True)
        for batch in _make_batches(part):
            with _explain_errors("compiling"):
                _check_graph(compiled, module, batch, "compiled")
    finally:
        torch.compiler.reset()


GRAPH_LAWS: tuple[Law[Encoder | Attention | Pooling | PlainModule], ...] = (
    compiled_part_is_equal,
    exported_part_is_equal,
)
"""The laws about graphs, which are slow."""
