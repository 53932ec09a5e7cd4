"""The pools that have no weights. Each looks at real steps alone, and gives zeros for a row of none."""

from typing import final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from pipeline.parts.pooling import Pooling
from pipeline.sequences.states import Sight, States, at_rows


@final
class FinalPool(Pooling):
    """What the encoder ended each row with.

    For two directions, the forward state at the last real step and the backward state at the first, merged.
    """

    @override
    def forward(self, states: States[Sight]) -> Float[Tensor, "batch hidden"]:
        return states.final


@final
class LastPool(Pooling):
    """Each row's last real step. Of a bidirectional encoder, its backward half has seen one step only: see `final`."""

    @override
    def forward(self, states: States[Sight]) -> Float[Tensor, "batch hidden"]:
        return at_rows(states.values, states.order, states.order.last)


@final
class FirstPool(Pooling):
    """Each row's first step."""

    @override
    def forward(self, states: States[Sight]) -> Float[Tensor, "batch hidden"]:
        return at_rows(states.values, states.order, states.order.first)


@final
class SumPool(Pooling):
    """The sum of each row's steps."""

    @override
    def forward(self, states: States[Sight]) -> Float[Tensor, "batch hidden"]:
        return sum_by_row(states)


@final
class MeanPool(Pooling):
    """The average of each row's steps.

    Source: Conneau et al. 2017, "Supervised Learning of Universal Sentence Representations", arXiv:1705.02364.
    """

    @override
    def forward(self, states: States[Sight]) -> Float[Tensor, "batch hidden"]:
        return sum_by_row(states) / states.order.lengths_on_device.clamp(min=1).unsqueeze(-1)


@final
class MaxPool(Pooling):
    """The largest of each feature over a row's steps; where several are equal, they share the gradient.

    Source: Collobert et al. 2011, "Natural Language Processing (Almost) from Scratch", arXiv:1103.0398.
    """

    @override
    def forward(self, states: States[Sight]) -> Float[Tensor, "batch hidden"]:
        values = states.values
        rows = states.order.row.unsqueeze(-1).expand_as(values)
        empty = values.new_zeros(len(states.lengths), values.shape[1])
        return empty.scatter_reduce(0, rows, values, reduce="amax", include_self=False)


def sum_by_row(states: States[Sight]) -> Float[Tensor, "batch hidden"]:
    """Each row's steps, added up: packed, there is no padding to mask."""
    empty = states.values.new_zeros(len(states.lengths), states.values.shape[1])
    return empty.index_add(0, states.order.row, states.values)
