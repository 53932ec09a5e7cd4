"""Targets for a language model."""

from typing import final

import attrs
from typing_extensions import override

from pipeline.sequences.order import ints
from pipeline.sequences.rows import Ids, Row
from pipeline.stage import Flow, Stage


@final
class Shift(Stage[Row[Ids], Row[Ids]]):
    """Give every step the id that follows it as its target; the last step has none.

    Example:
        >>> import torch
        >>> Shift()(Row(Ids(torch.tensor([5, 6, 7])))).target
        [6, 7, None]
    """

    @override
    def fit(self, flow: Flow, /) -> Flow:
        return flow

    @override
    def __call__(self, value: Row[Ids], /) -> Row[Ids]:
        """The same row, its targets the ids one step on."""
        following = ints(value.sequence.values[1:])
        return attrs.evolve(value, target=[*following, *([None] if len(value) else [])])
