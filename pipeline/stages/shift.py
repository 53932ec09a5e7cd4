"""Targets for a language model."""

from typing import cast, final

import attrs
from typing_extensions import override

from pipeline.core.stage import Spec, Stage
from pipeline.data.order import ints
from pipeline.data.rows import Ids, Kind, Row
from pipeline.errors import ShapeError


@final
class Shift(Stage[Row[Ids], Row[Ids]]):
    """Give every step the id that follows it as its target; the last step has none.

    Example:
        >>> import torch
        >>> Shift()(Row(Ids(torch.tensor([5, 6, 7])))).target
        [6, 7, None]
    """

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def __call__(self, value: Row[Ids], /) -> Row[Ids]:
        """The same row, its targets the ids one step on.

        Raises:
            ShapeError: if the row holds no ids.
        """
        sequence = cast("Kind", value.sequence)
        if not isinstance(sequence, Ids):
            msg = (
                f"row {value.row_id} holds {type(sequence).__name__}, but Shift takes Ids: the next id is the "
                "target; number the tokens first."
            )
            raise ShapeError(msg, row=value.row_id)
        following = ints(sequence.values[1:])
        return attrs.evolve(value, target=[*following, *([None] if len(value) else [])])
