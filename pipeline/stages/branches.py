"""What stages with several branches share: names of their children, errors that name the branch, joined outputs."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pipeline.core.stage import Spec, StageBase
from pipeline.data.batches import Batch, Packed, Padded
from pipeline.data.kinds import Kind, Vectors
from pipeline.errors import CompositionError


def add_child(module: nn.Module, name: str, child: nn.Module) -> None:
    """Register a child module under a name that users chose, with `_` after it if the module has such an attribute."""
    module.add_module(f"{name}_" if hasattr(module, name) else name, child)


def build_branch(stage: StageBase, spec: Spec, branch: str) -> Spec:
    """Build the stage of a branch for its input, and return the spec of its output.

    Raises:
        CompositionError: naming the branch.
    """
    try:
        return stage.build(spec)
    except CompositionError as error:
        msg = f"in {branch}: {error}"
        raise CompositionError(msg, **error.details) from error


def join_features(
    source: Batch[Kind], batches: Sequence[Batch[Vectors]], join: Callable[[list[Tensor]], Tensor]
) -> Batch[Vectors]:
    """Return the values of batches of the same rows, joined by a function, in the layout of `source`."""
    metadata, carry, order = source.metadata, source.initial_carry, source.order
    if isinstance(source, Padded):
        values = join([batch.padded().fill_padding(0).values for batch in batches])
        return Padded(Vectors, values, source.lengths, metadata=metadata, initial_carry=carry, order=order)
    values = join([batch.packed().values for batch in batches])
    return Packed(
        Vectors, values, source.lengths, width=source.width, metadata=metadata, initial_carry=carry, order=order
    )
