"""Each step's context: the steps of its row, mixed by how well they answer it."""

from abc import abstractmethod
from typing import TYPE_CHECKING, final

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from pipeline.borders.checked import described
from pipeline.borders.switches import at_border
from pipeline.errors import OptionError, ShapeError
from pipeline.parts.attention import Attention
from pipeline.parts.capabilities import Layout
from pipeline.registry import registry
from pipeline.registry.catalogue import Catalogue
from pipeline.sequences.states import S, Sight, States
from pipeline.stage import Flow, Keeps, ModuleStage
from pipeline.stages.slot import Slot


class _Attending(Slot[Attention]):
    """What both ways to attend share: an attention, and a mask."""

    attention: Attention | None
    layouts: tuple[Layout, ...] = ("padded",)
    """Which states it reads as they come; of others it makes a copy first."""

    @override
    def catalogue(self) -> Catalogue[Attention]:
        return registry().attentions

    @abstractmethod
    def mask(self, states: States[Sight]) -> Bool[Tensor, "#batch query key"]:
        """Which steps each step may attend to."""

    def weights(self, states: States[Sight]) -> Float[Tensor, "batch query key"]:
        """The share of each step (key) in each step's context (query), in padded layout; zeros for padding."""
        values = states.padded().values
        weights = self.ready(values.shape[-1]).weights(values, values, self.mask(states))
        return weights.masked_fill(~states.mask.unsqueeze(-1), 0)

    def contexts(self, states: States[S]) -> States[S]:
        """The states with each step's context in its place; final states are left as they are."""
        rows = states.padded()
        values = rows.values
        found = self.ready(values.shape[-1])(values, values, self.mask(states))
        if at_border() and found.shape != values.shape:
            msg = (
                f"attention {self.called!r} must give a context for every query, batch x query x hidden of "
                f"{tuple(values.shape)}, but gave {described(found)}; mend its forward."
            )
            raise ShapeError(msg, part=self.called)
        return states.holding(rows.holding(found))


@final
class Attend(_Attending, ModuleStage[States[Sight], States[Sight]]):
    """Every step attends to its whole row: what comes out has seen the future.

    Args:
        attention: an attention, or the name of a registered one.
        name: what the stage is called in its chain.
        options: for a name: what the attention takes. Its `input_size` may be left out, and is learned
            from the stage before.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the attention does not take an option.

    Example:
        >>> states = States.from_padded(torch.ones(1, 3, 2), torch.tensor([2]))
        >>> Attend("dot", input_size=2).weights(states)[0].tolist()
        [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """

    def __init__(self, attention: Attention | str = "dot", *, name: str | None = None, **options: object) -> None:
        super().__init__(attention, "attention", name, options)

    @override
    def fit(self, flow: Flow, /) -> Flow:
        attention = self.learn(flow.size)
        return Flow(flow.size if attention is None else attention.input_size, causal=False)

    @override
    def mask(self, states: States[Sight]) -> Bool[Tensor, "#batch query key"]:
        return states.mask.unsqueeze(1)

    @override
    def forward(self, value: States[Sight]) -> States[Sight]:
        """Each step's context, from all steps of its row.

        Raises:
            CompositionError: if the attention still waits for its input size.
            ShapeError: if the states are of another size than it reads.
        """
        return self.contexts(value)


@final
class AttendEarlier(_Attending, Keeps[States[Sight]]):
    """Every step attends to the earlier steps of its row, or to a window of them: never to itself or the future.

    The first step has none, and attends to itself alone.

    Args:
        attention: an attention, or the name of a registered one.
        window: how many steps back a step may attend; None for all.
        name: what the stage is called in its chain.
        options: for a name: what the attention takes. Its `input_size` may be left out, and is learned
            from the stage before.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the attention does not take an option.
        OptionError: if the window is below 1.

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
        name: str | None = None,
        **options: object,
    ) -> None:
        super().__init__(attention, "attention", name, options)
        if window is not None and window < 1:
            msg = f"window must be 1 or more, but {window} arrived; None lets a step attend to all earlier ones."
            raise OptionError(msg, window=window)
        self.window = window

    @override
    def fit(self, flow: Flow, /) -> Flow:
        attention = self.learn(flow.size)
        return flow if attention is None else attrs.evolve(flow, size=attention.input_size)

    @override
    def mask(self, states: States[Sight]) -> Bool[Tensor, "#batch query key"]:
        time = torch.arange(states.width, device=states.steps.values.device)
        behind = time.unsqueeze(1) - time
        # Padding needs no mask of its own here: all that is earlier than a real step is real.
        mask = (behind > 0) if self.window is None else (behind > 0) & (behind <= self.window)
        mask[:1, :1] = True
        return mask.unsqueeze(0)

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
