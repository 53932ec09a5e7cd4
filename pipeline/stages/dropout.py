"""Dropout for every data type that holds vectors."""

from typing import TYPE_CHECKING, Literal, TypeVar, cast, final

import attrs
from torch import Tensor, nn
from typing_extensions import TypeIs, override

from pipeline.checks.options import check_probability
from pipeline.core.stage import Spec, TypePreserving
from pipeline.data.batches import Batch, Padded, derive_packed, derive_padded, is_batch
from pipeline.data.kinds import Hidden
from pipeline.data.states import MaybeCausal, Pooled, States
from pipeline.errors import OptionError, ShapeError
from pipeline.functional.dropout import draw_mask, drop

A = TypeVar("A", bound=Batch[Hidden] | States[MaybeCausal] | Pooled)


@final
class Dropout(nn.Module, TypePreserving[Batch[Hidden] | States[MaybeCausal] | Pooled]):
    """During training, zero values at random and scale up the others; in evaluation mode, change nothing.

    Args:
        p: the probability that a value is zeroed.
        per: `step` draws a mask for every step; `row` draws one mask per row and uses it at all of its steps, so that a
            recurrent encoder sees the same units throughout a row.

    Raises:
        OptionError: if `p` is not in 0 <= p < 1, or `per` is something else.

    Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting"
    (`step`); Gal and Ghahramani 2016, "A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks", arXiv:1512.05287 (`row`).

    Example:
        >>> import torch
        >>> dropout = Dropout(0.5, per="row")
        >>> states = States.from_padded(torch.ones(1, 9, 2), torch.tensor([9]))
        >>> len(dropout(states).steps.values.unique(dim=0))
        1
    """

    stepwise = True  # in evaluation mode, in which `Chain.step` runs

    def __init__(self, p: float = 0.5, *, per: Literal["step", "row"] = "step") -> None:
        super().__init__()
        check_probability("p", p)
        if per not in ("step", "row"):
            msg = f"per must be 'step' or 'row', got {per!r}; choose one of these."
            raise OptionError(msg, per=per)
        self.p = p
        self.per = per

    if TYPE_CHECKING:

        @override
        def __call__(self, value: A, /) -> A: ...

    @override
    def build(self, spec: Spec, /) -> Spec:
        # Before an encoder this has no effect: the encoder replaces `outdated` by its own.
        return attrs.evolve(spec, outdated="Dropout") if self.p else spec

    def forward(self, value: A) -> A:
        """Return the value with some of its numbers zeroed.

        Raises:
            ShapeError: if it does not hold vectors.
        """
        if not _has_vectors(value):
            got = f"a {type(value).__name__} without any"
            msg = f"the input of Dropout must hold vectors, got {got}; put it after Embed."
            raise ShapeError(msg)
        if not self.training or self.p == 0:
            return value
        return cast("A", self._drop(value))

    def _drop(
        self, value: Batch[Hidden] | States[MaybeCausal] | Pooled
    ) -> Batch[Hidden] | States[MaybeCausal] | Pooled:
        if isinstance(value, States):
            return value.with_values(self._drop_steps(value.steps), stage="Dropout")
        if isinstance(value, Pooled):
            return attrs.evolve(value, values=drop(value.values, self.p))
        return self._drop_steps(value)

    def _drop_steps(self, steps: Batch[Hidden]) -> Batch[Hidden]:
        values = steps.values
        if self.per == "step":
            return _replace_values(steps, drop(values, self.p))
        mask = draw_mask(values, (steps.lengths.shape[0], values.shape[-1]), self.p)
        by_step = (
            mask.unsqueeze(1)
            if isinstance(steps, Padded)
            else mask.index_select(0, steps.order.locate_steps(values)[0])
        )
        return _replace_values(steps, values * by_step)


def _replace_values(steps: Batch[Hidden], values: Tensor) -> Batch[Hidden]:
    """Return the steps with other values of the same shape. Not with attrs.evolve, which torch.compile cannot trace."""
    if isinstance(steps, Padded):
        return derive_padded(steps.kind, values, steps, steps.initial_carry)
    return derive_packed(steps.kind, values, steps, steps.initial_carry)


def _has_vectors(value: object) -> TypeIs[Batch[Hidden] | States[MaybeCausal] | Pooled]:
    return isinstance(value, States | Pooled) or (is_batch(value) and issubclass(value.kind, Hidden))
