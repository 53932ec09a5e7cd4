"""Vectors as the states of an encoder, for parts that take states."""

from typing import final

from typing_extensions import override

from court.libraries.ours.inputs import SIZE
from pipeline import Batch, ModuleStage, States, Vectors
from pipeline.extend import MaybeCausal, Spec


@final
class AsStates(ModuleStage[Batch[Vectors], States[MaybeCausal]]):
    """Take vectors for hidden vectors, so that a part is judged by itself."""

    @override
    def build(self, spec: Spec, /) -> Spec:
        return Spec(size=SIZE, causal=True)

    @override
    def forward(self, value: Batch[Vectors]) -> States[MaybeCausal]:
        """Return the vectors as states."""
        return States.from_padded(value.padded().values, value.lengths)
