"""Make the targets of a language model."""

from typing import cast, final

import attrs
from typing_extensions import override

from pipeline.core.stage import Spec, Stage
from pipeline.data.kinds import Ids, Kind
from pipeline.data.rows import Row
from pipeline.data.tensors import to_ints
from pipeline.errors import ShapeError


@final
class Shift(Stage[Row[Ids], Row[Ids]]):
    """Give every step the next id as its target; the last step has no target.

    Example:
        >>> import torch
        >>> Shift()(Row(Ids(torch.tensor([5, 6, 7])))).target
        [6, 7, None]
    """

    stepwise = True

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def __call__(self, value: Row[Ids], /) -> Row[Ids]:
        """Return the row with its ids, shifted by one step, as targets.

        Raises:
            ShapeError: if the row does not hold ids.
        """
        sequence = cast("Kind", value.sequence)
        if not isinstance(sequence, Ids):
            msg = (
                f"row {value.row_id} must hold Ids, since Shift makes the next id the target, got "
                f"{type(sequence).__name__}; use Tokenize or FromIds before it."
            )
            raise ShapeError(msg, row=value.row_id)
        following = to_ints(sequence.values[1:])
        return attrs.evolve(value, target=[*following, *([None] if len(value) else [])])
