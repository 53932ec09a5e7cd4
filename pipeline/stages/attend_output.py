"""How an attention stage combines each step's context with its state."""

from typing import Literal, TypeAlias

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.data.batches import Batch, Packed
from pipeline.data.kinds import Hidden
from pipeline.data.states import S, States
from pipeline.functional.segments import compact

Output: TypeAlias = Literal["context", "concat", "tanh", "key_value_predict"]
"""What an attention stage returns per step: its context, its context and its state side by side, or both combined."""


def make_output_layer(output: Output, size: int | None) -> nn.Linear | None:
    """Return the layer that combines contexts of this size with states; None without one, or if the size is unknown."""
    has_layer = output in {"tanh", "key_value_predict"}
    return nn.Linear(2 * size, size, bias=False) if has_layer and size is not None else None


def count_features(output: Output, size: int | None) -> int | None:
    """Return the number of features of an output, for contexts of this size.

    Example:
        >>> count_features("context", 8), count_features("concat", 8)
        (8, 16)
    """
    return 2 * size if output == "concat" and size is not None else size


def combine(
    output: Output, layer: nn.Linear | None, states: States[S], contexts: Batch[Hidden], stage: str
) -> States[S]:
    """Return states with the output of each step, in their own layout, for every output but `context`.

    Args:
        output: what to return per step.
        layer: the layer of `output="tanh"`.
        states: the states that attended.
        contexts: the context of each of their steps.
        stage: the name of the stage, for errors of `Pool("final")`.
    """
    # Padding is neither joined nor multiplied, unless there is no other layout.
    steps = compact(states.steps)
    steps = steps if isinstance(steps, Packed) else states.padded()
    context = (contexts.packed() if isinstance(steps, Packed) else contexts.padded()).values
    state, final = steps.values, states.final
    if output == "key_value_predict":
        state, final = split_parts(state)[2], split_parts(final)[2]
    both = torch.cat([context, state], -1)
    joined = _restore(steps.with_values(both if layer is None else torch.tanh(layer(both))), states)
    final = final if layer is not None else _join_zeros(final)
    return attrs.evolve(states, steps=joined, final=final, outdated=f"{stage} changed the steps after the encoder")


def split_parts(
    states: Float[Tensor, "*step hidden"],
) -> tuple[Float[Tensor, "*step part"], Float[Tensor, "*step part"], Float[Tensor, "*step part"]]:
    """Return the key, the value and the part that predicts, a third of each state, for `key_value_predict`."""
    key, value, predict = states.chunk(3, -1)
    return key, value, predict


def _restore(steps: Batch[Hidden], states: States[S]) -> Batch[Hidden]:
    return steps.packed() if isinstance(states.steps, Packed) else steps.padded()


def _join_zeros(final: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch both"]:
    """Return the final states in the place of states: the final state of a row has no context."""
    return torch.cat([torch.zeros_like(final), final], -1)
