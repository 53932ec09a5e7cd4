"""Poolings without weights. Each uses real steps only; an empty row gives zeros."""

from typing import final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from pipeline.data.batches import Batch
from pipeline.data.kinds import Hidden
from pipeline.data.states import MaybeCausal, States, first_by_row, last_by_row
from pipeline.functional.segments import max_by_row, mean_by_row, sum_by_row
from pipeline.parts.pooling import Pooling


@final
class FinalPool(Pooling):
    """The encoder's final state of each row.

    For a bidirectional encoder: the forward state at the last real step and the backward state at the first, merged.
    """

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.final


@final
class LastPool(Pooling):
    """The hidden vector of each row's last real step.

    For a bidirectional encoder, its backward half comes from that one step only. `final` has read the whole row in both
    directions.
    """

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return last_by_row(states.steps)


@final
class FirstPool(Pooling):
    """Each row's first step."""

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return first_by_row(states.steps)


@final
class SumPool(Pooling):
    """The sum of each row's steps."""

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return sum_by_row(_get_steps(self, states))


@final
class MeanPool(Pooling):
    """The mean of each row's steps.

    Source: Conneau et al. 2017, "Supervised Learning of Universal Sentence Representations from Natural Language
    Inference Data", arXiv:1705.02364.
    """

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return mean_by_row(_get_steps(self, states))


@final
class MaxPool(Pooling):
    """The maximum of each feature over a row's steps; equal maxima share the gradient.

    Source: Collobert et al. 2011, "Natural Language Processing (Almost) from Scratch", arXiv:1103.0398.
    """

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return max_by_row(states.steps)


def _get_steps(pooling: Pooling, states: States[MaybeCausal]) -> Batch[Hidden]:
    """Return the steps; packed, if the bits of a sum may not depend on whether other rows have the same length."""
    return states.packed() if pooling.deterministic else states.steps
