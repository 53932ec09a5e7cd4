"""Each row's states to one vector."""

from typing import final

import attrs
from typing_extensions import override

from pipeline.checks.shapes import described
from pipeline.checks.switches import at_border
from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.states import MaybeCausal, Pooled, States
from pipeline.errors import ShapeError
from pipeline.parts.pooling import Pooling
from pipeline.registry import registry
from pipeline.registry.catalogue import Catalogue
from pipeline.stages.part_stage import PartStage


@final
class Pool(PartStage[Pooling], ModuleStage[States[MaybeCausal], Pooled]):
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

    pooling: Pooling | None

    def __init__(self, pooling: Pooling | str, *, name: str | None = None, **options: object) -> None:
        super().__init__(pooling, "pooling", name, options)

    @override
    def catalogue(self) -> Catalogue[Pooling]:
        return registry().pools

    @override
    def build(self, spec: Spec, /) -> Spec:
        pooling = self.make_part(spec.size)
        size = None if pooling is None else spec.size or pooling.input_size
        return attrs.evolve(spec, size=None if pooling is None or size is None else pooling.output_size(size))

    @override
    def forward(self, value: States[MaybeCausal]) -> Pooled:
        """One vector a row.

        Raises:
            CompositionError: if the pooling still waits for its input size.
            ShapeError: if the states are of another size than it reads.
        """
        size = value.steps.values.shape[-1]
        pooling = self.get_part(size)
        found = pooling(value)
        if at_border():
            wanted = (len(value.lengths), pooling.output_size(size))
            if found.shape != wanted:
                msg = (
                    f"pool {self.part_name!r} must give one vector a row, batch x output_size of {wanted}, "
                    f"but gave {described(found)}; mend its forward, or its output_size."
                )
                raise ShapeError(msg, part=self.part_name)
        return Pooled(found, metadata=value.metadata)
