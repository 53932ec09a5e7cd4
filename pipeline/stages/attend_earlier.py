"""AttendEarlier: each step's context is a weighted mean of the earlier steps of its row."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, final, overload

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from pipeline.core.stage import Spec, TypePreserving
from pipeline.core.stepping import Stepping
from pipeline.data.states import MaybeCausal, S, States
from pipeline.functional.attention import causal_dot_product_attention
from pipeline.functional.earlier_attention import attend_earlier_in_blocks, supports_blocks
from pipeline.functional.products import round_factors
from pipeline.functional.segments import restore_order, sort_by_length
from pipeline.parts.attention import Attention
from pipeline.stages.attend_output import Output
from pipeline.stages.attention_stage import BLOCK_STEPS, AttentionStage, Keys, check_window
from pipeline.stages.memories import EarlierSteps
from pipeline.stages.query_chunks import MEMORY, QueryChunks, concatenate


@final
class AttendEarlier(
    AttentionStage,
    TypePreserving[States[MaybeCausal]],
    Stepping[States[MaybeCausal], States[MaybeCausal], EarlierSteps],
):
    """Let every step attend to the earlier steps of its row, or to a window of them: not to itself or later steps.

    The first step has no earlier one, and attends to itself only.

    Args:
        attention: an attention, or the name of a registered one.
        output: what a step becomes, as for `Attend`.
        window: the number of earlier steps that a step may attend to; None for all.
        memory: the memory budget of scores, as for `Attend`.
        name: the stage's name in its chain.
        options: options of the attention, if it is given by name. `input_size` may be left out; it is then taken from
            the stage before.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the attention does not take an option.
        OptionError: if `output` is another word, or `window` or `memory` is below 1.

    Example:
        >>> states = States.from_padded(torch.ones(1, 3, 2), torch.tensor([3]))
        >>> AttendEarlier("dot", input_size=2).weights(states)[0].tolist()
        [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
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
        return attrs.evolve(spec, size=size, outdated=type(self).__name__)

    @override
    def make_mask(self, states: States[MaybeCausal]) -> Bool[Tensor, "#batch #query key"]:
        time = torch.arange(states.width, device=states.steps.values.device)
        return self._may_attend(time, time)

    @override
    def _get_keys(self, real: Bool[Tensor, "batch time"], queries: slice) -> Keys:
        # No key after the last query, and none before the first query's window.
        first = 0 if self.window is None else max(0, queries.start - self.window)
        time = torch.arange(first, queries.stop, device=real.device)
        return Keys(slice(first, queries.stop), self._may_attend(time[queries.start - first :], time))

    def _may_attend(self, query: Int64[Tensor, " query"], key: Int64[Tensor, " key"]) -> Bool[Tensor, "1 query key"]:
        """Return whether the step at one time may attend to the step at another."""
        query = query.unsqueeze(1)
        distance = query - key
        # No mask for padding: every step before a real step is real.
        is_earlier = (distance > 0) if self.window is None else (distance > 0) & (distance <= self.window)
        is_first = query + key == 0
        return (is_earlier | is_first).unsqueeze(0)

    @override
    def _get_chunks(self, attention: Attention, values: Float[Tensor, "batch time hidden"]) -> QueryChunks:
        width = values.shape[1]
        keys = width if self.window is None else min(width, BLOCK_STEPS + self.window)
        return QueryChunks.of(attention, values, keys=keys, block=BLOCK_STEPS, memory=self.memory)

    @override
    def _attend(self, states: States[S]) -> States[S]:
        steps, order = states.steps, states.steps.order
        attention = self.get_part(steps.values.shape[-1])
        if not (attention.uses_fused_attention and supports_blocks(steps.values) and order.steps):
            return super()._attend(states)
        compared, mixed = self.split(sort_by_length(states))
        sizes = order.batch_size_list
        query, key = attention.project(compared, compared)
        values = attention.project_values(mixed)
        if attention.num_heads > 1:
            # The heads of a row are rows of its length.
            query, key, values = (attention.split_heads(each) for each in (query, key, values))
            sizes = [attention.num_heads * size for size in sizes]
        found = attend_earlier_in_blocks(query, key, values, sizes, window=self.window, memory=self.memory)
        contexts = restore_order(attention.join_heads(found), states)
        if attention.projects_values:
            contexts = contexts.with_values(attention.project_contexts(contexts.values))
        return self.finish(states, contexts)

    @override
    def _attend_in_chunks(
        self, attention: Attention, values: Float[Tensor, "batch time hidden"], states: States[MaybeCausal]
    ) -> Float[Tensor, "batch time hidden"]:
        # On a GPU few calls matter more than skipped scores, and torch's fused kernel supports the causal mask.
        if self.window is None and attention.uses_fused_attention and values.device.type != "cpu":
            compared, values = self.split(values)
            parts = (*attention.project(compared, compared), attention.project_values(values))
            query, key, mixed = (attention.split_heads(each) for each in parts)
            return attention.project_contexts(attention.join_heads(causal_dot_product_attention(query, key, mixed)))
        return super()._attend_in_chunks(attention, values, states)

    if TYPE_CHECKING:

        @override
        def __call__(self, value: States[S], /) -> States[S]: ...

    def forward(self, value: States[S]) -> States[S]:
        """Return each step's output, whose context is from the earlier steps of its row.

        Raises:
            CompositionError: if the attention's input size is not known yet.
            ShapeError: if the states have another size than the attention's input size.
        """
        return self._attend(value)

    @override
    def step(
        self, value: States[MaybeCausal], memory: EarlierSteps | None, /
    ) -> tuple[States[MaybeCausal], EarlierSteps]:
        """Return the outputs of the next steps of each row, and the memory of the steps that later ones may attend to.

        Without a `window` the memory grows with each step, and so does the time that a step takes.

        Raises:
            CompositionError: if the attention's input size is not known yet.
            ShapeError: if the states have another size than the attention's input size.
        """
        rows = value.padded()
        values, attention = rows.values, self.get_part(rows.values.shape[-1])
        compared, mixed = self.split(values)
        query, key = compared, compared
        if not attention.overrides_mixing:
            query, key = attention.project(compared, compared)
            mixed = attention.project_values(mixed)
        keys = None if key is mixed else key
        before = EarlierSteps.make_empty(mixed, keys) if memory is None else memory
        earlier = before.append(mixed, keys, value.lengths, self.window)
        if memory is None or not value.order.steps:
            return self(value), earlier
        contexts = self._attend_to(attention, query, earlier, value.lengths)
        return self.finish(value, rows.with_values(contexts)), earlier

    def _attend_to(
        self, attention: Attention, query: Float[Tensor, "batch time inner"], earlier: EarlierSteps, lengths: Tensor
    ) -> Float[Tensor, "batch time hidden"]:
        """Return the contexts of the newest steps, whose queries are given, from the stored steps."""
        mask = earlier.mask(lengths, self.window)
        stored = mask.shape[2]
        values = earlier.values[:, :stored]
        if attention.deterministic:
            # Positions without a step hold any numbers, on which the rounding must not depend.
            values = round_factors(values.masked_fill(~mask.any(1).unsqueeze(2), 0), -2)
        keys = earlier.values[:, :stored] if earlier.keys is None else earlier.keys[:, :stored]
        chunks = QueryChunks.of(attention, query, keys=stored, block=None, memory=self.memory)
        found: list[Tensor] = []
        for some, k, v, allowed in chunks.split_rows(query, keys, values, mask):
            parts = [(some[:, queries], allowed[:, queries]) for queries in chunks.split_queries(query.shape[1])]
            contexts = [
                attention(part, k, only) if attention.overrides_mixing else attention.mix(part, k, v, only)
                for part, only in parts
            ]
            found.append(concatenate(contexts, 1))
        means = concatenate(found, 0)
        return means if attention.overrides_mixing else attention.project_contexts(means)
