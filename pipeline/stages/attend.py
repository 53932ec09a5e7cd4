"""Attend: each step's context is a weighted mean of the steps of its row."""

from collections.abc import Mapping
from typing import final, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.states import MaybeCausal, States
from pipeline.parts.attention import Attention
from pipeline.stages.attend_output import Output
from pipeline.stages.attention_stage import BLOCK_STEPS, AttentionStage, Keys, check_window
from pipeline.stages.query_chunks import MEMORY, QueryChunks


@final
class Attend(AttentionStage, ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """Let every step attend to all steps of its row, or to those near it. The output is not causal.

    Args:
        attention: an attention, or the name of a registered one.
        window: the number of steps on either side that a step may attend to, besides itself; None for all steps.
        output: what a step becomes: its `context`; the context and the state side by side, with twice the features
            (`concat`); or Luong's attentional state (`tanh`), tanh(W [context; state]), a layer with weights. With
            `key_value_predict`, a third of each state is compared, contexts are means of the second third, and the
            output is tanh(W [context; last third]), of a third of the size.
        memory: the memory budget of scores, in bytes. If all scores need more, queries are processed in chunks, whose
            scores are recomputed in the backward pass. An attention whose score is an inner product stores no scores
            here, and those of one block at a time in `AttendEarlier`.
        name: the stage's name in its chain.
        options: options of the attention, if it is given by name. `input_size` may be left out; it is then taken from
            the stage before.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the attention does not take an option.
        OptionError: if `output` is another word, or `window` or `memory` is below 1.

    Source: Luong, Pham and Manning 2015, "Effective Approaches to Attention-based Neural Machine Translation",
    arXiv:1508.04025, equation 5 (`tanh`) and section 3.2 (`window`: their local-m). Their decoder also reads the output
    as a part of its next input; ours does not. Daniluk et al. 2017, "Frustratingly Short Attention Spans in Neural
    Language Modeling", arXiv:1702.04521 (`key_value_predict`, with `additive` scores in `AttendEarlier`).

    Example:
        >>> states = States.from_padded(torch.ones(1, 3, 2), torch.tensor([2]))
        >>> Attend("dot", input_size=2).weights(states)[0].tolist()
        [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """

    @overload
    def __init__(
        self,
        attention: Attention,
        *,
        output: Output = "context",
        window: int | None = None,
        memory: int = MEMORY,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        attention: str = "dot",
        *,
        output: Output = "context",
        window: int | None = None,
        memory: int = MEMORY,
        name: str | None = None,
        **options: object,
    ) -> None: ...
    def __init__(
        self,
        attention: Attention | str = "dot",
        *,
        output: Output = "context",
        window: int | None = None,
        memory: int = MEMORY,
        name: str | None = None,
        **options: object,
    ) -> None:
        super().__init__(attention, output, memory, name, options)
        self.window: int | None = check_window(window)

    @override
    def get_config(self) -> Mapping[str, object]:
        return {**super().get_config(), "window": self.window}

    @override
    def build(self, spec: Spec, /) -> Spec:
        attention = self.make_part(spec)
        size = self.count_features(spec, attention)
        return Spec(size, causal=False, outdated=type(self).__name__)

    @override
    def make_mask(self, states: States[MaybeCausal]) -> Bool[Tensor, "#batch #query key"]:
        mask = states.mask.unsqueeze(1)
        if self.window is None:
            return mask
        time = torch.arange(states.width, device=mask.device)
        return mask & ((time.unsqueeze(1) - time).abs() <= self.window)

    @override
    def _get_keys(self, real: Bool[Tensor, "batch time"], queries: slice) -> Keys:
        if self.window is None:
            return Keys(slice(0, real.shape[1]), real.unsqueeze(1))
        first, last = max(0, queries.start - self.window), min(real.shape[1], queries.stop + self.window)
        query = torch.arange(queries.start, queries.stop, device=real.device).unsqueeze(1)
        is_near = (query - torch.arange(first, last, device=real.device)).abs() <= self.window
        return Keys(slice(first, last), real[:, first:last].unsqueeze(1) & is_near)

    @override
    def _get_chunks(self, attention: Attention, values: Float[Tensor, "batch time hidden"]) -> QueryChunks:
        keys, block = values.shape[1], None
        if self.window is not None:
            # As in AttendEarlier: the queries of a block share their keys.
            keys, block = min(keys, BLOCK_STEPS + 2 * self.window), BLOCK_STEPS
        return QueryChunks.of(attention, values, keys=keys, block=block, memory=self.memory)

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """Return each step's output, whose context is from all steps of its row.

        Raises:
            CompositionError: if the attention's input size is not known yet.
            ShapeError: if the states have another size than the attention's input size.
        """
        return self._attend(value)
