"""Attention of the steps of some rows to the steps of others: cross-attention."""

from typing import Self, final

import attrs
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pipeline.core.stepping import Memory
from pipeline.data.states import MaybeCausal, States
from pipeline.data.trees import as_pytree
from pipeline.errors import ShapeError
from pipeline.functional.products import round_factors
from pipeline.parts.attention import Attention
from pipeline.stages.query_chunks import MEMORY, QueryChunks, concatenate


@final
@as_pytree
@attrs.frozen(eq=False)
class AttendedSteps(Memory):
    """The steps of each row that queries attend to, projected once.

    A decoder makes them of the encoded rows before its first step, and selects rows of them for its beams.

    Attributes:
        keys: the projected keys; zeros in the padding before the projection.
        values: what contexts are means of.
        mask: True for real steps.
    """

    keys: Float[Tensor, "batch key inner"]
    values: Float[Tensor, "batch key inner_value"]
    mask: Bool[Tensor, "batch key"]

    @classmethod
    def make(cls, attention: Attention, states: States[MaybeCausal]) -> Self:
        """Project the steps of encoded rows."""
        steps, mask = states.padded().values, states.mask
        if attention.overrides_mixing:
            return cls(steps, steps, mask)
        _, keys = attention.project(steps[:, :0], steps)
        values = attention.project_values(steps)
        # All steps of a row together, before they are divided into chunks.
        return cls(keys, round_factors(values, -2) if attention.deterministic else values, mask)

    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        """Return the steps of some rows; an index may occur several times."""
        on_device = rows.to(self.keys.device)
        return attrs.evolve(
            self,
            keys=self.keys.index_select(0, on_device),
            values=self.values.index_select(0, on_device),
            mask=self.mask.index_select(0, on_device),
        )


def attend_across(
    attention: Attention,
    query: Float[Tensor, "batch query hidden"],
    attended: AttendedSteps,
    *,
    memory: int = MEMORY,
) -> Float[Tensor, "batch query hidden"]:
    """Return the context of each query: from all real steps of the attended row; zeros if that is empty.

    Args:
        attention: scores and mixes.
        query: the vectors of the steps that attend. Padding must be finite, and gets a context as well.
        attended: the steps that they attend to; `AttendedSteps.make` makes them of states.
        memory: the memory budget of scores, in bytes, as for `Attend`.

    Raises:
        ShapeError: if the numbers of rows differ.

    Source: Bahdanau, Cho and Bengio 2015, "Neural Machine Translation by Jointly Learning to Align and Translate",
    arXiv:1409.0473; with `MultiHead`, the encoder-decoder attention of Vaswani et al. 2017, arXiv:1706.03762.

    Example:
        >>> import torch
        >>> from pipeline_attention import Dot
        >>> states = States.from_padded(torch.ones(1, 3, 2), torch.tensor([2]))
        >>> dot = Dot(2)
        >>> attend_across(dot, torch.zeros(1, 4, 2), AttendedSteps.make(dot, states)).shape
        torch.Size([1, 4, 2])
    """
    if query.shape[0] != attended.mask.shape[0]:
        msg = (
            f"query must have the rows of the attended steps, {attended.mask.shape[0]}, got {query.shape[0]}; encode "
            "both sides of the same rows."
        )
        raise ShapeError(msg, rows=query.shape[0], attended=attended.mask.shape[0])
    calls_forward = attention.overrides_mixing
    function = attention if calls_forward else attention.mix
    projected = query if calls_forward else attention.project(query, query[:, :0])[0]
    chunks = QueryChunks.of(attention, projected, keys=attended.mask.shape[1], block=None, memory=memory)
    found: list[Tensor] = []
    for q, k, v, mask in chunks.split_rows(projected, attended.keys, attended.values, attended.mask.unsqueeze(1)):
        parts = (k,) if calls_forward else (k, v)
        contexts = [chunks.run(function, q[:, some], *parts, mask) for some in chunks.split_queries(q.shape[1])]
        found.append(concatenate(contexts, 1))
    means = concatenate(found, 0)
    return means if calls_forward else attention.project_contexts(means)
