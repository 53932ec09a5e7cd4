"""The laws themselves: a part that breaks one is caught by it, and one that breaks none passes."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pipeline import Ids, Packed, Padded, Tokenize, Vectors
from pipeline.testing import (
    LAWS,
    LawBrokenError,
    Part,
    amount_of_padding_is_inert,
    batch_mates_are_inert,
    decoding_is_inverse,
    equals_oracle,
    no_gradient_reaches_padding,
    order_is_inert,
    packing_is_inverse,
    padding_is_inert,
)
from untyped import loosely

ROWS = [torch.randn(time, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) for time in (4, 0, 1, 6)]


def totals(batch: Padded[Vectors]) -> list[Tensor]:
    """An honest part: the sum of each row's real steps."""
    return [row[:length].sum(0) for row, length in zip(batch.values, batch.lengths, strict=True)]


def mean_over_padding(batch: Padded[Vectors]) -> list[Tensor]:
    """What `out.mean(1)` does."""
    return list(batch.values.mean(1))


def last_column(batch: Padded[Vectors]) -> list[Tensor]:
    """What `out[:, -1]` does."""
    return list(batch.values[:, -1])


def times_the_mask(batch: Padded[Vectors]) -> list[Tensor]:
    """Masking by multiplication: NaN times zero is NaN."""
    return list((batch.values * batch.order.mask(batch.width).unsqueeze(-1)).sum(1))


def over_the_width(batch: Padded[Vectors]) -> list[Tensor]:
    """An average over the rectangle's width instead of the row's length."""
    return [total / batch.width for total in totals(batch)]


def less_the_batch_mean(batch: Padded[Vectors]) -> list[Tensor]:
    """A normalisation over the batch, as batch norm's."""
    whole = torch.stack(totals(batch))
    return list(whole - whole.mean(0))


def by_place(batch: Padded[Vectors]) -> list[Tensor]:
    """An answer that depends on where in the batch the row stands."""
    return [total * (place + 1) for place, total in enumerate(totals(batch))]


def leaking(batch: Padded[Vectors]) -> list[Tensor]:
    """Right values, whose gradient is one more than it should be, in the padding too."""

    def more(gradient: Tensor) -> Tensor:
        return gradient + 1

    values = batch.values.clone()
    if values.requires_grad:
        loosely(getattr(values, "register_hook"))(more)  # noqa: B009 - torch leaves its type open
    return totals(Padded(Vectors, values, batch.lengths))


BROKEN: list[tuple[Part, set[object]]] = [
    (totals, set()),
    (mean_over_padding, {padding_is_inert, no_gradient_reaches_padding, amount_of_padding_is_inert, batch_mates_are_inert}),
    (last_column, {padding_is_inert, no_gradient_reaches_padding, amount_of_padding_is_inert, batch_mates_are_inert}),
    (times_the_mask, {padding_is_inert}),
    (over_the_width, {amount_of_padding_is_inert, batch_mates_are_inert}),
    (less_the_batch_mean, {batch_mates_are_inert}),
    (by_place, {batch_mates_are_inert, order_is_inert}),
    (leaking, {no_gradient_reaches_padding}),
]  # fmt: skip


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("part", "breaks"), BROKEN)
def test_a_law_catches_those_that_break_it(part: Part, breaks: set[object], law: object) -> None:
    """And no others without cause."""
    assert callable(law)
    if law not in breaks:
        law(part, ROWS)
        return
    with pytest.raises(LawBrokenError, match="law broken: "):
        law(part, ROWS)


def test_the_oracle_catches_wrong_values_and_wrong_gradients() -> None:
    """Of rows and of weights; and of a result in another shape."""
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def scaled(batch: Padded[Vectors]) -> Sequence[Tensor]:
        return [total * weight for total in totals(batch)]

    equals_oracle(scaled, lambda row: row.sum(0) * weight, ROWS, [weight])
    with pytest.raises(LawBrokenError, match=r"a batch equals the plain loop \(values\); result 0"):
        equals_oracle(scaled, lambda row: row.sum(0), ROWS)
    with pytest.raises(LawBrokenError, match=r"\(gradients\)"):
        equals_oracle(scaled, lambda row: row.sum(0) * weight.detach(), ROWS, [weight])
    with pytest.raises(LawBrokenError, match=r"result 0 is \(3,\), wanted \(4, 3\)"):
        equals_oracle(totals, lambda row: row, ROWS)


def always_a(_: Sequence[int]) -> str:
    """A decoder that has one answer."""
    return "a"


def test_inverse_laws_catch_what_comes_back_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing that swaps steps, and a decoder that drops what it does not like."""
    batch = Padded(Ids, torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2]))
    packing_is_inverse(batch)
    tokenize = Tokenize.train(["a b"], "characters")
    decoding_is_inverse(tokenize, "b a")
    monkeypatch.setattr(tokenize.tokenizer, "decode", always_a)
    with pytest.raises(LawBrokenError, match="decoding is inverse to tokenizing; 'b a' gives"):
        decoding_is_inverse(tokenize, "b a")

    def swapped(packed: Packed[Ids]) -> Padded[Ids]:
        return Padded(Ids, batch.values.flip(0), packed.lengths)

    monkeypatch.setattr(Packed, "padded", swapped)
    with pytest.raises(LawBrokenError, match="packing is inverse to unpacking"):
        packing_is_inverse(batch)
