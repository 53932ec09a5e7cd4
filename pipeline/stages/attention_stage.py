"""Base class of attention stages: it computes the contexts of chunks of queries."""

from abc import abstractmethod
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.checks.hints import describe
from pipeline.checks.options import check_optional_int
from pipeline.checks.switches import checks_enabled
from pipeline.data.batches import Layout
from pipeline.data.states import MaybeCausal, S, States
from pipeline.errors import ShapeError
from pipeline.functional.products import round_factors
from pipeline.parts.attention import Attention
from pipeline.stages.attention_holder import AttentionHolder
from pipeline.stages.query_chunks import QueryChunks, concatenate

# In AttendEarlier, a block of queries shares its keys, so about half of the scores within the block are masked and
# wasted. Fewer queries per block waste less, but make more and smaller matrix products.
BLOCK_STEPS: Final = 128


class Keys(NamedTuple):
    """The steps that serve some queries as keys, and which of them each query may attend to."""

    steps: slice
    mask: Bool[Tensor, "#batch #query key"]


def check_window(window: int | None) -> int | None:
    """Return the number of steps that a step may attend to; None for all.

    Raises:
        OptionError: if it is no integer, or is below 1.
    """
    return check_optional_int("window", window, minimum=1, advice="pass None to attend to all of them")


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
    def _get_keys(self, real: Bool[Tensor, "batch time"], queries: slice) -> Keys:
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
