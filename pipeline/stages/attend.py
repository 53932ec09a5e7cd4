"""Attention stages: each step's context is a weighted mean of the steps that it may attend to."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, final, overload

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from pipeline.checks.hints import describe
from pipeline.checks.switches import checks_enabled
from pipeline.core.stage import ModuleStage, Spec, TypePreserving
from pipeline.core.stepping import Stepping
from pipeline.data.batches import Layout
from pipeline.data.states import MaybeCausal, S, States
from pipeline.errors import OptionError, ShapeError
from pipeline.functional.attention import (
    attend_earlier_in_blocks,
    causal_dot_product_attention,
    supports_blocks,
)
from pipeline.functional.products import round_factors
from pipeline.functional.segments import restore_order, sort_by_length
from pipeline.parts.attention import Attention
from pipeline.stages.attend_output import Output
from pipeline.stages.attention_holder import AttentionHolder
from pipeline.stages.memories import EarlierSteps
from pipeline.stages.query_chunks import MEMORY, QueryChunks, concatenate

# In AttendEarlier, a block of queries shares its keys, so about half of the scores within the block are masked and
# wasted. Fewer queries per block waste less, but make more and smaller matrix products.
_BLOCK: Final = 128


class _Keys(NamedTuple):
    """The steps that serve some queries as keys, and which of them each query may attend to."""

    steps: slice
    mask: Bool[Tensor, "#batch #query key"]


def check_window(window: int | None) -> int | None:
    """Return the number of steps that a step may attend to; None for all.

    Raises:
        OptionError: if it is below 1.
    """
    if window is not None and window < 1:
        msg = f"window must be 1 or more, got {window}; pass None to attend to all of them."
        raise OptionError(msg, window=window)
    return window


class AttentionStage(AttentionHolder):
    """The base class of `Attend` and `AttendEarlier`: it processes queries in chunks.

    Subclasses say which steps may be attended.
    """

    layouts: tuple[Layout, ...] = ("padded",)
    """The layouts that it reads without a copy."""

    @abstractmethod
    def make_mask(self, states: States[MaybeCausal]) -> Bool[Tensor, "#batch #query key"]:
        """Return which steps each step may attend to."""

    @abstractmethod
    def _get_keys(self, real: Bool[Tensor, "batch time"], queries: slice) -> _Keys:
        """Return the steps that some queries may attend to; others are left out of the keys.

        Args:
            real: the mask of the rows: which steps are not padding.
            queries: the steps that attend.
        """

    @abstractmethod
    def _get_chunks(self, attention: Attention, values: Float[Tensor, "batch time hidden"]) -> QueryChunks:
        """Return the size of the chunks to process."""

    def weights(self, states: States[MaybeCausal]) -> Float[Tensor, "batch query key"]:
        """Return the weight of each step (key) in each step's context (query), padded; zeros for padding."""
        values = states.padded().values
        attention = self.get_part(values.shape[-1])
        mask = self.make_mask(states).expand(values.shape[0], values.shape[1], -1)
        values, _ = self.split(values)
        chunks = self._get_chunks(attention, values)
        queries = chunks.split_queries(values.shape[1])
        rows = [
            concatenate([chunks.run(attention.weights, some[:, q], some, allowed[:, q]) for q in queries], 1)
            for some, allowed in chunks.split_rows(values, mask)
        ]
        return concatenate(rows, 0).masked_fill(~states.mask.unsqueeze(-1), 0)

    def _attend(self, states: States[S]) -> States[S]:
        """Return the output of each step; final states are not changed."""
        rows = states.padded()
        values = rows.values
        attention = self.get_part(values.shape[-1])
        # In a compiled graph the sizes are symbolic, so Python cannot loop over chunks.
        attend = self._attend_at_once if torch.compiler.is_compiling() else self._attend_in_chunks
        contexts = attend(attention, values, states)
        wanted = (*values.shape[:2], attention.input_size)
        if checks_enabled() and contexts.shape != wanted:
            msg = (
                f"attention {self.part_name!r} must return one context per query, batch x query x hidden of "
                f"{wanted}, got {describe(contexts)}; fix its forward."
            )
            raise ShapeError(msg, part=self.part_name)
        return self.finish(states, rows.with_values(contexts))

    def _attend_at_once(
        self, attention: Attention, values: Float[Tensor, "batch time hidden"], states: States[MaybeCausal]
    ) -> Float[Tensor, "batch time hidden"]:
        return self.compute_contexts(attention, values, values, self.make_mask(states))

    def _attend_in_chunks(
        self, attention: Attention, values: Float[Tensor, "batch time hidden"], states: States[MaybeCausal]
    ) -> Float[Tensor, "batch time hidden"]:
        calls_forward = attention.overrides_mixing
        steps, values = self.split(values)
        query, key = (steps, steps) if calls_forward else attention.project(steps, steps)
        chunks = self._get_chunks(attention, steps)
        values = values if calls_forward else attention.project_values(values)
        if attention.deterministic and not calls_forward:
            # All steps of a row together, because the division into chunks depends on the longest row.
            values = round_factors(values, -2)
        found: list[Tensor] = []
        for q, k, v, real in chunks.split_rows(query, key, values, states.mask):
            contexts: list[Tensor] = []
            # Only keys that some query of the chunk may attend to: in AttendEarlier about half of all pairs.
            for queries in chunks.split_queries(values.shape[1]):
                keys, mask = self._get_keys(real, queries)
                if calls_forward:
                    contexts.append(chunks.run(attention, q[:, queries], k[:, keys], mask))
                else:
                    contexts.append(chunks.run(attention.mix, q[:, queries], k[:, keys], v[:, keys], mask))
            found.append(concatenate(contexts, 1))
        means = concatenate(found, 0)
        return means if calls_forward else attention.project_contexts(means)


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
    def _get_keys(self, real: Bool[Tensor, "batch time"], queries: slice) -> _Keys:
        if self.window is None:
            return _Keys(slice(0, real.shape[1]), real.unsqueeze(1))
        first, last = max(0, queries.start - self.window), min(real.shape[1], queries.stop + self.window)
        query = torch.arange(queries.start, queries.stop, device=real.device).unsqueeze(1)
        is_near = (query - torch.arange(first, last, device=real.device)).abs() <= self.window
        return _Keys(slice(first, last), real[:, first:last].unsqueeze(1) & is_near)

    @override
    def _get_chunks(self, attention: Attention, values: Float[Tensor, "batch time hidden"]) -> QueryChunks:
        keys, block = values.shape[1], None
        if self.window is not None:
            # As in AttendEarlier: the queries of a block share their keys.
            keys, block = min(keys, _BLOCK + 2 * self.window), _BLOCK
        return QueryChunks.of(attention, values, keys=keys, block=block, memory=self.memory)

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """Return each step's output, whose context is from all steps of its row.

        Raises:
            CompositionError: if the attention's input size is not known yet.
            ShapeError: if the states have another size than the attention's input size.
        """
        return self._attend(value)


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
    def _get_keys(self, real: Bool[Tensor, "batch time"], queries: slice) -> _Keys:
        # No key after the last query, and none before the first query's window.
        first = 0 if self.window is None else max(0, queries.start - self.window)
        time = torch.arange(first, queries.stop, device=real.device)
        return _Keys(slice(first, queries.stop), self._may_attend(time[queries.start - first :], time))

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
        keys = width if self.window is None else min(width, _BLOCK + self.window)
        return QueryChunks.of(attention, values, keys=keys, block=_BLOCK, memory=self.memory)

    @override
    def _attend(self, states: States[S]) -> States[S]:
        attention = self.get_part(states.steps.values.shape[-1])
        if not (attention.uses_fused_attention and supports_blocks(states.steps.values) and states.order.steps):
            return super()._attend(states)
        rows, sizes = sort_by_length(states), states.order.batch_size_list
        compared, mixed = self.split(rows)
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
