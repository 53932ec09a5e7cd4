"""Each row's states to one vector."""

from typing import cast, final

import attrs
from typing_extensions import override

from pipeline.errors import CompositionError, OptionError, ShapeError
from pipeline.parts.pooling import Pooling
from pipeline.registry import registry
from pipeline.sequences.states import Pooled, Sight, States
from pipeline.stage import Flow, ModuleStage


@final
class Pool(ModuleStage[States[Sight], Pooled]):
    """One vector a row, from its real steps alone; zeros for a row of none.

    Args:
        how: a pooling, or the name of a registered one: `final` (the encoder's final state), `last` and
            `first` (that step's vector), `mean`, `max`, `sum`, and what plugins offer.
        name: what the stage is called in its chain.
        options: for a name: what the pooling takes. An `input_size` that it needs may be left out, and
            is learned from the stage before.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the pooling does not take an option.

    Example:
        >>> import torch
        >>> states = States.from_padded(torch.tensor([[[1.0], [3.0], [torch.nan]]]), torch.tensor([2]))
        >>> Pool("mean")(states).values.tolist()
        [[2.0]]
    """

    def __init__(self, how: Pooling | str, *, name: str | None = None, **options: object) -> None:
        super().__init__()
        self.name = name
        self._named = how if isinstance(how, str) else type(how).__name__
        self._options = options
        self.pooling: Pooling | None = None
        if isinstance(how, Pooling):
            if options:
                msg = f"options {sorted(options)} go with a registered name; {self._named} was made already."
                raise OptionError(msg)
            self.pooling = how
            return
        registry().pools.check(self._named, options)
        if "input_size" in options or not registry().pools.waits(self._named):
            self.pooling = self._made(cast("int | None", options.get("input_size")))

    @property
    def waits(self) -> bool:
        """Whether the pooling is not made yet, for want of its input size."""
        return self.pooling is None

    @override
    def fit(self, flow: Flow, /) -> Flow:
        if self.pooling is None:
            if flow.size is None:
                return Flow()
            self.pooling = self._made(flow.size)
        if flow.size is not None and self.pooling.input_size not in (None, flow.size):
            msg = (
                f"states of {flow.size} come in, but pooling {self._named!r} reads "
                f"input_size={self.pooling.input_size}; make the two equal."
            )
            raise CompositionError(msg, size=flow.size, input_size=self.pooling.input_size)
        size = flow.size if flow.size is not None else self.pooling.input_size
        return attrs.evolve(flow, size=None if size is None else self.pooling.output_size(size))

    @override
    def forward(self, value: States[Sight]) -> Pooled:
        """One vector a row.

        Raises:
            CompositionError: if the pooling still waits for its input size.
            ShapeError: if the states are of another size than it reads.
        """
        size = value.values.shape[1]
        if self.pooling is None:
            msg = (
                f"pooling {self._named!r} does not know its input size yet; join Pool behind an encoder, "
                f'or say it: Pool("{self._named}", input_size={size}).'
            )
            raise CompositionError(msg, pooling=self._named)
        if self.pooling.input_size not in (None, size):
            msg = f"pooling {self._named!r} reads states of {self.pooling.input_size}, but states of {size} arrived."
            raise ShapeError(msg, size=size, input_size=self.pooling.input_size)
        return Pooled(self.pooling(value), riders=value.riders)

    def _made(self, size: int | None) -> Pooling:
        options = self._options if size is None else {**self._options, "input_size": size}
        return registry().pools.make(self._named, **options)
