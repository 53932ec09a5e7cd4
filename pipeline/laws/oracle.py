"""Helpers for tests of one's own: a plain loop to compare with, and what must come back unchanged."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.data.batches import Padded
from pipeline.data.rows import Ids, Vectors
from pipeline.laws.compare import gradients, same
from pipeline.laws.law import FaultError, told
from pipeline.laws.run import Part
from pipeline.laws.samples import Rows, padded
from pipeline.parts.tokenizer import Tokenizer


def equals_oracle(part: Part, oracle: Callable[[Tensor], Tensor], rows: Rows, weights: Sequence[Tensor] = ()) -> None:
    """A batch gives what a plain loop gives row by row: values, and gradients of the rows and of the weights.

    Args:
        part: what is tested; `encoded`, `attended` and `pooled` make one.
        oracle: one row (time x feature) to its result, written as plainly as can be.
        rows: what to try it on; best in float64, an empty one among them.
        weights: the parameters that both share.

    Raises:
        LawBrokenError: if a value or a gradient differs by more than rounding.

    Example:
        >>> rows = [torch.ones(time, 2, dtype=torch.float64) for time in (3, 0, 1)]
        >>> equals_oracle(lambda batch: list(batch.fill_padding(0).values.sum(1)), lambda row: row.sum(0), rows)
    """
    leaves = [row.detach().requires_grad_() for row in rows]
    # Neither side's own errors are the other's fault.
    ours, plain = part(padded(leaves)), [oracle(leaf) for leaf in leaves]
    inputs = [*leaves, *weights]
    with told("equals_oracle"):
        same(ours, plain, "values differ from the plain loop's")
        same(gradients(ours, inputs), gradients(plain, inputs), "gradients differ from the plain loop's")


def packing_is_inverse(batch: Padded[Ids] | Padded[Vectors]) -> None:
    """Packing and unpacking give back the real steps, the lengths and the width.

    Raises:
        LawBrokenError: if they do not.
    """
    back = batch.packed().padded()
    mask = batch.order.mask(batch.width)
    alike = back.values.shape == batch.values.shape and bool((back.values[mask] == batch.values[mask]).all())
    with told("packing_is_inverse"):
        if not alike or not torch.equal(back.lengths, batch.lengths) or back.values[~mask].count_nonzero():
            raise FaultError("other values, lengths or width came back from packing and unpacking.")


def decoding_is_inverse(tokenizer: Tokenizer, text: str) -> None:
    """Decoding gives the text back, as far as a tokenizer promises: its decoded text has the same tokens.

    Raises:
        LawBrokenError: if it has others.
    """
    with told("decoding_is_inverse"):
        ids = list(tokenizer.encode([text])[0].ids)
        decoded = tokenizer.decode(ids)
        again = list(tokenizer.encode([decoded])[0].ids)
        if ids != again:
            msg = f"{text!r} has tokens {ids}, but the text that they decode to, {decoded!r}, has {again}."
            raise FaultError(msg, text=text)
