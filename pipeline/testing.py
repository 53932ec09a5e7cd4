"""The laws that every part obeys, as functions: for our tests, and for those of plugin authors.

A part under test is given as a function from a padded batch of vectors to one tensor a row; `encoded`,
`attended` and `pooled` make one of an encoder, an attention and a pool. Each law runs it on rows of
the caller's choice, which should hold an empty row and be of many lengths, and in float64, where the
only differences left are faults.

Example:
    >>> from pipeline_recurrent import GRU
    >>> rows = [torch.randn(time, 3, dtype=torch.float64) for time in (4, 0, 1, 6)]
    >>> gru = encoded(GRU(3, 5, bidirectional=True).double())
    >>> for law in LAWS:
    ...     law(gru, rows)
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.parts.encoder import Encoder
from pipeline.sequences.batches import Padded
from pipeline.sequences.order import ints
from pipeline.sequences.rows import Ids, Vectors
from pipeline.sequences.states import Sight, States
from pipeline.stages.attend import Attend, AttendEarlier
from pipeline.stages.pool import Pool
from pipeline.stages.tokenize import Tokenize

Rows: TypeAlias = Sequence[Float[Tensor, "time feature"]]
Part: TypeAlias = Callable[[Padded[Vectors]], Sequence[Tensor]]
"""What a law is tried on: a padded batch to one result a row, of any shape."""

Law: TypeAlias = Callable[[Part, Rows], None]

ROUNDING: Final = 1e-10
"""By how much batch mates, their order and the amount of padding may change a float64 result, relative to it."""

PADDINGS: Final = (0.0, math.nan, math.inf, 1e38)
"""What the padding is filled with, to see that nothing looks at it."""


class LawBrokenError(PipelineError, AssertionError):
    """A part that breaks a law; the message names the law and the row."""


def padded(rows: Rows, *, extra: int = 0, filling: float = 0.0) -> Padded[Vectors]:
    """Rows in one rectangle, `extra` steps wider than the longest, its padding filled."""
    width = max(len(row) for row in rows) + extra
    values = torch.stack([torch.nn.functional.pad(row, (0, 0, 0, width - len(row)), value=filling) for row in rows])
    return Padded(Vectors, values, torch.tensor([len(row) for row in rows]))


def encoded(encoder: Encoder[Sight]) -> Part:
    """An encoder as a part under test: each row's hidden vectors and, below them, its final state."""

    def apply(batch: Padded[Vectors]) -> Sequence[Tensor]:
        states = encoder(batch.packed())
        return [
            torch.cat([steps, final.unsqueeze(0)]) for steps, final in zip(_split(states), states.final, strict=True)
        ]

    return apply


def attended(stage: Attend | AttendEarlier) -> Part:
    """An attention as a part under test: each row's context vectors."""
    return lambda batch: _split(stage(States.from_padded(batch.values, batch.lengths)))


def pooled(stage: Pool) -> Part:
    """A pool as a part under test: each row's vector."""
    return lambda batch: list(stage(States.from_padded(batch.values, batch.lengths)).values)


def padding_is_inert(part: Part, rows: Rows) -> None:
    """What padding holds (0, NaN, infinity, 1e38) changes no bit of any result."""
    first = part(padded(rows, extra=2))
    for filling in PADDINGS:
        _same(
            "padding is inert",
            part(padded(rows, extra=2, filling=filling)),
            first,
            rounding=0,
            of=f"filled with {filling}",
        )


def no_gradient_reaches_padding(part: Part, rows: Rows) -> None:
    """Padding gets no gradient, and what it holds (NaN included) changes none of the real steps'."""
    wanted: Tensor | None = None
    for filling in PADDINGS:
        batch = padded(rows, extra=2, filling=filling)
        values = batch.values.detach().requires_grad_()
        (gradient,) = _gradients(part(Padded(Vectors, values, batch.lengths)), [values])
        if gradient[~batch.order.mask(batch.width)].count_nonzero():
            msg = f"law broken: no gradient reaches padding; filled with {filling}, it has one."
            raise LawBrokenError(msg, filling=filling)
        real = gradient[batch.order.mask(batch.width)]
        wanted = real if wanted is None else wanted
        _same("no gradient reaches padding", [real], [wanted], rounding=0, of=f"filled with {filling}")


def amount_of_padding_is_inert(part: Part, rows: Rows) -> None:
    """More padding changes rounding at most."""
    first = part(padded(rows))
    for extra in (1, 7):
        _same("the amount of padding is inert", part(padded(rows, extra=extra)), first, of=f"{extra} steps wider")


def batch_mates_are_inert(part: Part, rows: Rows) -> None:
    """A row by itself gives what it gives among others, up to rounding."""
    among = part(padded(rows))
    for index, row in enumerate(rows):
        _same("batch mates are inert", part(padded([row])), [among[index]], of=f"row {index} of {len(rows)}, alone")


def order_is_inert(part: Part, rows: Rows) -> None:
    """Rows in another order give the same results in that order, up to rounding."""
    first = part(padded(rows))
    turned = part(padded(rows[::-1]))
    _same("the order of rows is inert", turned[::-1], first, of="rows reversed")


LAWS: Final[Sequence[Law]] = (
    padding_is_inert,
    no_gradient_reaches_padding,
    amount_of_padding_is_inert,
    batch_mates_are_inert,
    order_is_inert,
)
"""Every law of a part on rows of vectors."""


def equals_oracle(part: Part, oracle: Callable[[Tensor], Tensor], rows: Rows, weights: Sequence[Tensor] = ()) -> None:
    """A batch gives what a plain loop gives row by row: values, and gradients of the rows and of the weights.

    Args:
        part: what is tested.
        oracle: one row (time x feature) to its result, written as plainly as can be.
        rows: what to try it on.
        weights: the parameters that both share.

    Raises:
        LawBrokenError: if a value or a gradient differs by more than rounding.
    """
    leaves = [row.detach().requires_grad_() for row in rows]
    ours, plain = part(padded(leaves)), [oracle(leaf) for leaf in leaves]
    _same("a batch equals the plain loop", ours, plain, of="values")
    inputs = [*leaves, *weights]
    _same("a batch equals the plain loop", _gradients(ours, inputs), _gradients(plain, inputs), of="gradients")


def packing_is_inverse(batch: Padded[Ids] | Padded[Vectors]) -> None:
    """Packing and unpacking give back the real steps, the lengths and the width.

    Raises:
        LawBrokenError: if they do not.
    """
    back = batch.packed().padded()
    mask = batch.order.mask(batch.width)
    alike = back.values.shape == batch.values.shape and bool((back.values[mask] == batch.values[mask]).all())
    if not alike or not torch.equal(back.lengths, batch.lengths) or back.values[~mask].count_nonzero():
        msg = "law broken: packing is inverse to unpacking; other values, lengths or width came back."
        raise LawBrokenError(msg)


def decoding_is_inverse(tokenize: Tokenize, text: str) -> None:
    """Decoding gives the text back, as far as the tokenizer promises: its decoded text has the same tokens.

    Raises:
        LawBrokenError: if it has others.
    """
    ids = ints(tokenize(text).sequence.values)
    again = ints(tokenize(tokenize.decode(ids)).sequence.values)
    if ids != again:
        msg = f"law broken: decoding is inverse to tokenizing; {text!r} gives {ids}, decoded and tokenized {again}."
        raise LawBrokenError(msg, text=text)


def _split(states: States[Sight]) -> list[Tensor]:
    steps = states.values.index_select(0, states.order.reading)
    return list(torch.split(steps, ints(states.lengths)))


def _gradients(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Gradients of a sum that weighs every number differently, so that no two of them can be swapped unseen."""
    flat = torch.cat([result.flatten() for result in results])
    total = (flat * torch.linspace(-1, 1, len(flat), dtype=flat.dtype)).sum()
    if not total.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def _same(law: str, ours: Sequence[Tensor], wanted: Sequence[Tensor], *, of: str, rounding: float = ROUNDING) -> None:
    for index, (one, other) in enumerate(zip(ours, wanted, strict=True)):
        scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
        if one.shape != other.shape or not bool(((one - other).abs() <= rounding * scale).all()):
            gap = float((one - other).detach().abs().max()) if one.shape == other.shape else math.nan
            msg = (
                f"law broken: {law} ({of}); result {index} is {tuple(one.shape)}, wanted {tuple(other.shape)}, and "
                f"differs by up to {gap:g} where {rounding * scale:g} is allowed."
            )
            raise LawBrokenError(msg, law=law, row=index, gap=gap)
