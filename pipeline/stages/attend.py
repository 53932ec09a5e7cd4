"""Each step's context: the steps of its row, mixed by how well they answer it."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, final

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from pipeline.checks.shapes import described
from pipeline.checks.switches import at_border
from pipeline.core.stage import ModuleStage, Spec, TypePreserving
from pipeline.data.states import MaybeCausal, S, States
from pipeline.errors import OptionError, ShapeError
from pipeline.functional.causal_attention import in_blocks, mixed_earlier
from pipeline.functional.longest_first import ranked, unranked
from pipeline.functional.product_attention import mixed_before_by_product
from pipeline.parts.attention import Attention
from pipeline.parts.capabilities import Layout
from pipeline.registry import registry
from pipeline.registry.catalogue import Catalogue
from pipeline.stages.part_stage import PartStage
from pipeline.stages.pieces import MEMORY, Share, checked_memory, joined

_BLOCK: Final = 128
"""How many steps look back at a time: the fewer, the less is worked out of what they may not see, and the slower."""


class _Reach(NamedTuple):
    """The keys that some queries may reach, and which of them each may attend to."""

    keys: slice
    mask: Bool[Tensor, "#batch #query key"]


class _Attending(PartStage[Attention]):
    """What both ways to attend share: an attention, and queries in pieces. Which steps may be attended, each says."""

    attention: Attention | None
    layouts: tuple[Layout, ...] = ("padded",)
    """Which states it reads as they come; of others it makes a copy first."""

    def __init__(
        self, attention: Attention | str, memory: int, name: str | None, options: Mapping[str, object]
    ) -> None:
        super().__init__(attention, "attention", name, options)
        self.memory: int = checked_memory(memory)

    @override
    def catalogue(self) -> Catalogue[Attention]:
        return registry().attentions

    @abstractmethod
    def mask(self, states: States[MaybeCausal]) -> Bool[Tensor, "#batch #query key"]:
        """Which steps each step may attend to."""

    @abstractmethod
    def reach(self, real: Bool[Tensor, "batch time"], queries: slice) -> _Reach:
        """Which steps of some rows some steps may attend to; others need not be among the keys.

        Args:
            real: which steps are no padding.
            queries: which steps attend.
        """

    @abstractmethod
    def share(self, attention: Attention, values: Float[Tensor, "batch time hidden"]) -> Share:
        """How many of them to take at a time."""

    def weights(self, states: States[MaybeCausal]) -> Float[Tensor, "batch query key"]:
        """The share of each step (key) in each step's context (query), in padded layout; zeros for padding."""
        values = states.padded().values
        attention = self.get_part(values.shape[-1])
        mask = self.mask(states).expand(values.shape[0], values.shape[1], -1)
        share = self.share(attention, values)
        queries = share.by_queries(values.shape[1])
        rows = [
            joined([share.run(attention.weights, some[:, steps], some, allowed[:, steps]) for steps in queries], 1)
            for some, allowed in share.by_rows(values, mask)
        ]
        return joined(rows, 0).masked_fill(~states.mask.unsqueeze(-1), 0)

    def contexts(self, states: States[S]) -> States[S]:
        """The states with each step's context in its place; final states are left as they are."""
        rows = states.padded()
        values = rows.values
        attention = self.get_part(values.shape[-1])
        # In a graph a size is a symbol, which no loop can count to.
        mix = self.at_once if torch.compiler.is_compiling() else self.in_pieces
        found = mix(attention, values, states)
        if at_border() and found.shape != values.shape:
            msg = (
                f"attention {self.part_name!r} must give a context for every query, batch x query x hidden of "
                f"{tuple(values.shape)}, but gave {described(found)}; mend its forward."
            )
            raise ShapeError(msg, part=self.part_name)
        return states.with_values(rows.with_values(found))

    def at_once(
        self, attention: Attention, values: Float[Tensor, "batch time hidden"], states: States[MaybeCausal]
    ) -> Float[Tensor, "batch time hidden"]:
        """Each step's context, from one call."""
        return attention(values, values, self.mask(states))

    def in_pieces(
        self, attention: Attention, values: Float[Tensor, "batch time hidden"], states: States[MaybeCausal]
    ) -> Float[Tensor, "batch time hidden"]:
        """Each step's context, a piece at a time."""
        own = attention.mixes_its_own_way
        query, key = (values, values) if own else attention.project(values, values)
        share = self.share(attention, values)
        found: list[Tensor] = []
        for asks, there, held, real in share.by_rows(query, key, values, states.mask):
            pieces: list[Tensor] = []
            for steps in share.by_queries(values.shape[1]):
                keys, mask = self.reach(real, steps)
                if own:
                    pieces.append(share.run(attention, asks[:, steps], there[:, keys], mask))
                else:
                    pieces.append(share.run(attention.mix, asks[:, steps], there[:, keys], held[:, keys], mask))
            found.append(joined(pieces, 1))
        return joined(found, 0)


@final
class Attend(_Attending, ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """Every step attends to its whole row: what comes out has seen the future.

    Args:
        attention: an attention, or the name of a registered one.
        memory: how many bytes scores may take at once. If all of them take more, queries are taken in pieces, whose
            scores are worked out again for the gradients. An attention whose score is an inner product forms none here,
            and a few at a time in `AttendEarlier`.
        name: what the stage is called in its chain.
        options: for a name: what the attention takes. Its `input_size` may be left out, and is learned
            from the stage before.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the attention does not take an option.
        OptionError: if the memory is below 1.

    Example:
        >>> states = States.from_padded(torch.ones(1, 3, 2), torch.tensor([2]))
        >>> Attend("dot", input_size=2).weights(states)[0].tolist()
        [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """

    def __init__(
        self, attention: Attention | str = "dot", *, memory: int = MEMORY, name: str | None = None, **options: object
    ) -> None:
        super().__init__(attention, memory, name, options)

    @override
    def build(self, spec: Spec, /) -> Spec:
        attention = self.make_part(spec.size)
        return Spec(spec.size if attention is None else attention.input_size, causal=False)

    @override
    def mask(self, states: States[MaybeCausal]) -> Bool[Tensor, "#batch #query key"]:
        return states.mask.unsqueeze(1)

    @override
    def reach(self, real: Bool[Tensor, "batch time"], queries: slice) -> _Reach:
        return _Reach(slice(0, real.shape[1]), real.unsqueeze(1))

    @override
    def share(self, attention: Attention, values: Float[Tensor, "batch time hidden"]) -> Share:
        return Share.of(attention, values, keys=values.shape[1], block=None, memory=self.memory)

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """Each step's context, from all steps of its row.

        Raises:
            CompositionError: if the attention still waits for its input size.
            ShapeError: if the states are of another size than it reads.
        """
        return self.contexts(value)


@final
class AttendEarlier(_Attending, TypePreserving[States[MaybeCausal]]):
    """Every step attends to the earlier steps of its row, or to a window of them: never to itself or the future.

    The first step has none, and attends to itself alone.

    Args:
        attention: an attention, or the name of a registered one.
        window: how many steps back a step may attend; None for all.
        memory: how many bytes scores may take at once, as for `Attend`.
        name: what the stage is called in its chain.
        options: for a name: what the attention takes. Its `input_size` may be left out, and is learned
            from the stage before.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the attention does not take an option.
        OptionError: if the window or the memory is below 1.

    Example:
        >>> states = States.from_padded(torch.ones(1, 3, 2), torch.tensor([3]))
        >>> AttendEarlier("dot", input_size=2).weights(states)[0].tolist()
        [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    """

    def __init__(
        self,
        attention: Attention | str = "dot",
        *,
        window: int | None = None,
        memory: int = MEMORY,
        name: str | None = None,
        **options: object,
    ) -> None:
        super().__init__(attention, memory, name, options)
        if window is not None and window < 1:
            msg = f"window must be 1 or more, but {window} arrived; None lets a step attend to all earlier ones."
            raise OptionError(msg, window=window)
        self.window = window

    @override
    def build(self, spec: Spec, /) -> Spec:
        attention = self.make_part(spec.size)
        return spec if attention is None else attrs.evolve(spec, size=attention.input_size)

    @override
    def mask(self, states: States[MaybeCausal]) -> Bool[Tensor, "#batch #query key"]:
        time = torch.arange(states.width, device=states.steps.values.device)
        return self.allowed(time, time)

    @override
    def reach(self, real: Bool[Tensor, "batch time"], queries: slice) -> _Reach:
        first = 0 if self.window is None else max(0, queries.start - self.window)
        time = torch.arange(first, queries.stop, device=real.device)
        return _Reach(slice(first, queries.stop), self.allowed(time[queries.start - first :], time))

    def allowed(self, query: Int64[Tensor, " query"], key: Int64[Tensor, " key"]) -> Bool[Tensor, "1 query key"]:
        """Whether a step of one time may attend to one of another."""
        query = query.unsqueeze(1)
        behind = query - key
        # Padding needs no mask of its own here: all that is earlier than a real step is real.
        earlier = (behind > 0) if self.window is None else (behind > 0) & (behind <= self.window)
        return (earlier | (query + key == 0)).unsqueeze(0)

    @override
    def share(self, attention: Attention, values: Float[Tensor, "batch time hidden"]) -> Share:
        width = values.shape[1]
        keys = width if self.window is None else min(width, _BLOCK + self.window)
        return Share.of(attention, values, keys=keys, block=_BLOCK, memory=self.memory)

    @override
    def contexts(self, states: States[S]) -> States[S]:
        attention = self.get_part(states.steps.values.shape[-1])
        if not (attention.forms_no_scores and in_blocks(states.steps.values) and states.order.steps):
            return super().contexts(states)
        rows = ranked(states)
        query, key = attention.project(rows, rows)
        found = mixed_earlier(query, key, rows, states.order.sizes, window=self.window, memory=self.memory)
        return unranked(found, states)

    @override
    def in_pieces(
        self, attention: Attention, values: Float[Tensor, "batch time hidden"], states: States[MaybeCausal]
    ) -> Float[Tensor, "batch time hidden"]:
        # A GPU wants few calls: there torch's kernel knows the triangle.
        if self.window is None and attention.forms_no_scores and values.device.type != "cpu":
            return mixed_before_by_product(*attention.project(values, values), values)
        return super().in_pieces(attention, values, states)

    if TYPE_CHECKING:

        @override
        def __call__(self, value: States[S], /) -> States[S]: ...

    def forward(self, value: States[S]) -> States[S]:
        """Each step's context, from the earlier steps of its row.

        Raises:
            CompositionError: if the attention still waits for its input size.
            ShapeError: if the states are of another size than it reads.
        """
        return self.contexts(value)
