"""Run an encoder step by step: it starts from the carry that it returned for the steps before."""

from collections.abc import Callable
from typing import Any, Self, TypeVar, final

import attrs
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from pipeline.core.stepping import Memory
from pipeline.data.batches import Batch, Carry
from pipeline.data.kinds import Kind
from pipeline.data.states import MaybeCausal, States
from pipeline.data.trees import as_pytree
from pipeline.errors import CompositionError
from pipeline.parts.encoder import Encoder

B = TypeVar("B", bound=Batch[Kind])
St = TypeVar("St", bound=States[MaybeCausal])


@final
@as_pytree
@attrs.frozen(eq=False)
class EncoderCarry(Memory):
    """The recurrent state of each row.

    Attributes:
        carry: the final state that the encoder returned, from which it starts the next steps.
    """

    carry: Carry

    @override
    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        return attrs.evolve(self, carry=tuple(state.index_select(1, rows.to(state.device)) for state in self.carry))


def step_encoder(
    encoder: Encoder[Any], name: str, run: Callable[[B], St], value: B, memory: EncoderCarry | None
) -> tuple[St, EncoderCarry]:
    """Return the states of the next steps of each row, and the encoder's carry; for `step` of a stage.

    Args:
        encoder: the encoder.
        name: its name, for errors.
        run: returns the states of a batch.
        value: the next steps of each row.
        memory: what the call before returned; None at the beginning of the rows.

    Raises:
        CompositionError: if the encoder is not causal, or is not stateful.
    """
    lacks = "stateful" if encoder.causal else "causal"
    if not getattr(encoder, lacks):
        why = "its steps depend on later ones" if lacks == "causal" else "it does not start from a carry"
        msg = (
            f"encoder {name!r} must be {lacks} to run step by step, but {why}; choose one that declares {lacks}, such "
            'as "lstm".'
        )
        raise CompositionError(msg, encoder=name)
    states = run(value if memory is None else attrs.evolve(value, initial_carry=memory.carry))
    if states.carry is None:
        msg = f"encoder {name!r} declares stateful, but returned no carry; return States(..., carry=...)."
        raise CompositionError(msg, encoder=name)
    return states, EncoderCarry(states.carry)
