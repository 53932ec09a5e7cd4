"""Carry the states of an encoder from window to window, for truncated back-propagation through time."""

from collections.abc import Sequence
from typing import Final, Protocol, cast, final

import attrs
from torch import Tensor
from typing_extensions import override

from pipeline.core.running import NumberedStage, Observer
from pipeline.data.batches import Batch, Carry
from pipeline.data.kinds import Kind
from pipeline.data.states import MaybeCausal, States
from pipeline.errors import CompositionError
from pipeline.parts.encoder import Encoder
from pipeline.stages.encode import Encode


@final
class CarriedStates(Observer):
    """Gives each batch of windows the states that the encoder had at the end of the batch before.

    Args:
        encode: the number of the encoding stage in its pipe.
    """

    def __init__(self, encode: int) -> None:
        self._encode: Final = encode
        self.carry: Carry | None = None

    def start(self, batch: Batch[Kind]) -> Batch[Kind]:
        """Return the batch with the states of the batch before; rows that continue none start from zeros."""
        if self.carry is None:
            return batch
        continues = batch.metadata.continues.to(self.carry[0].device, non_blocking=True).unsqueeze(1)
        # Filled, not multiplied by 0: a row that ended in NaN must not affect the row that starts at its index.
        carry = tuple(state.masked_fill(~continues, 0) for state in self.carry)
        return attrs.evolve(batch, initial_carry=carry)

    @override
    def see_output(self, number: int, stage: object, value: object, output: object) -> None:
        if number == self._encode and isinstance(output, States):
            found = output.carry
            self.carry = None if found is None else tuple(map(_detach, found))


class _Encoding(Protocol):
    encoder: Encoder[MaybeCausal] | None


def _detach(state: Tensor) -> Tensor:
    return state.detach()


def find_carrying_stage(stages: Sequence[NumberedStage]) -> int | None:
    """Return the number of the encoding stage whose states can be carried; None without such a stage.

    Raises:
        CompositionError: if there are several encoding stages: only the first one would get states.
    """
    # The cast is for pyright, to which the type arguments are unknown; Any would not do for mypy.
    encoding = [(number, cast("_Encoding", stage)) for number, stage in stages if isinstance(stage, Encode)]
    if len(encoding) > 1:
        numbers = ", ".join(str(number) for number, _ in encoding)
        msg = (
            f"BPTTWindows carries the states of one encoder, got several, the stages {numbers}; stack the layers in "
            "one: Encode(..., num_layers=2)."
        )
        raise CompositionError(msg, stages=[number for number, _ in encoding])
    for number, stage in encoding:
        part = stage.encoder
        if part is not None and part.stateful and not part.bidirectional:
            return number
    return None
