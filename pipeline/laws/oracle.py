"""Checks for your own tests: comparison with a plain loop over rows (the oracle), and round trips."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.data.batches import Padded
from pipeline.data.kinds import Ids, Vectors
from pipeline.laws.law import FaultError, check_equal, compute_gradients, report_as_law
from pipeline.laws.parts import BatchFunction, RowTensors, make_batch
from pipeline.parts.tokenizer import Tokenizer


def check_against_oracle(
    part: BatchFunction, oracle: Callable[[Tensor], Tensor], rows: RowTensors, weights: Sequence[Tensor] = ()
) -> None:
    """Check that a batch gives the results of a plain loop over its rows: values, and gradients of rows and weights.

    Args:
        part: the part under test; `adapt_encoder`, `adapt_attend` and `adapt_pool` make one.
        oracle: computes one row's result (time x feature to anything), written as plainly as possible.
        rows: the rows to try; best in float64, with an empty one among them.
        weights: the parameters that both sides use.

    Raises:
        LawBrokenError: if a value or a gradient differs by more than rounding.

    Example:
        >>> rows = [torch.ones(time, 2, dtype=torch.float64) for time in (3, 0, 1)]
        >>> check_against_oracle(lambda batch: list(batch.fill_padding(0).values.sum(1)), lambda row: row.sum(0), rows)
    """
    leaves = [row.detach().requires_grad_() for row in rows]
    # Outside the block below: an error that a side raises itself is not a difference.
    found, wanted = part(make_batch(leaves)), [oracle(leaf) for leaf in leaves]
    inputs = [*leaves, *weights]
    with report_as_law("check_against_oracle"):
        check_equal(found, wanted, "values differ from the oracle's")
        gradients = compute_gradients(wanted, inputs)
        check_equal(compute_gradients(found, inputs), gradients, "gradients differ from the oracle's")


def check_packing_round_trip(batch: Padded[Ids] | Padded[Vectors]) -> None:
    """Check that packing and unpacking restore the real steps, the lengths and the width.

    Raises:
        LawBrokenError: if they do not.
    """
    back = batch.packed().padded()
    mask = batch.order.mask(batch.width)
    equal = back.values.shape == batch.values.shape and bool((back.values[mask] == batch.values[mask]).all())
    with report_as_law("check_packing_round_trip"):
        if not equal or not torch.equal(back.lengths, batch.lengths) or back.values[~mask].count_nonzero():
            raise FaultError("packing and unpacking changed the values, the lengths or the width.")


def check_decoding_round_trip(tokenizer: Tokenizer, text: str) -> None:
    """Check that a decoded text has the tokens of the original text, which is what a tokenizer promises.

    Raises:
        LawBrokenError: if it has other tokens.
    """
    with report_as_law("check_decoding_round_trip"):
        ids = list(tokenizer.encode([text])[0].ids)
        decoded = tokenizer.decode(ids)
        again = list(tokenizer.encode([decoded])[0].ids)
        if ids != again:
            msg = f"{text!r} has tokens {ids}, but they decode to {decoded!r}, which has tokens {again}."
            raise FaultError(msg, text=text)
