"""What stages with several branches share: names of their children, errors that name the branch, joined outputs."""

from collections.abc import Callable, Mapping
from typing import Final, cast

import torch
from torch import Tensor, nn

from pipeline.checks.hints import describe
from pipeline.checks.switches import checks_enabled
from pipeline.core.stage import Spec, StageBase
from pipeline.data.batches import Batch, Padded, derive_vectors, is_batch
from pipeline.data.kinds import Hidden, Kind, Vectors
from pipeline.data.tensors import to_ints
from pipeline.errors import CompositionError, ShapeError

_LATER: Final = frozenset({"how", "into", "record", "weights"})
"""Attributes that stages with branches set after their branches."""


class Branching(nn.Module):
    """The base class of stages that hold several stages by name. Those with weights are child modules."""

    def __init__(self, branches: Mapping[str, StageBase]) -> None:
        super().__init__()
        # The name of the child module, or the stage itself: torch's tools replace, wrap and delete child modules.
        self._branches: dict[str, str | StageBase] = {}
        for name, stage in branches.items():
            if isinstance(stage, nn.Module):
                # Users choose the names, and may choose that of an attribute, such as `type`.
                child = f"{name}_" if hasattr(self, name) or name in _LATER else name
                self.add_module(child, stage)
                self._branches[name] = child
            else:
                self._branches[name] = stage
        setattr(self, "stepwise", all(getattr(each, "stepwise", False) for each in branches.values()))  # noqa: B010

    @property
    def branches(self) -> Mapping[str, StageBase]:
        """The stages by name. A child module that was replaced is so here too."""
        return {
            name: cast("StageBase", self._modules[branch]) if isinstance(branch, str) else branch
            for name, branch in self._branches.items()
        }


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


def check_vectors(outputs: Mapping[str, object], kind: type[Hidden] = Vectors) -> None:
    """Reject outputs of branches that are not vectors per step: other kinds, states, pooled vectors.

    Raises:
        ShapeError: naming the branch.
    """
    for name, output in outputs.items():
        if not is_batch(output) or not issubclass(output.kind, kind):
            got = f"a batch of {output.kind.__name__}" if is_batch(output) else describe(output)
            msg = f"branch {name!r} must return a batch of {kind.__name__}, got {got}; embed ids, encode later."
            raise ShapeError(msg, branch=name)


def join_features(
    source: Batch[Kind], batches: Mapping[str, Batch[Hidden]], join: Callable[[list[Tensor]], Tensor]
) -> Batch[Vectors]:
    """Return the values of batches of the same rows, joined by a function, in the layout of `source`.

    Raises:
        ShapeError: if a batch has other lengths or another width than `source`, so that its steps do not belong to the
            others, or the function does not return one vector per step.
    """
    for name, batch in batches.items() if checks_enabled() and not torch.compiler.is_compiling() else ():
        if batch.lengths is not source.lengths and not torch.equal(batch.lengths, source.lengths):
            msg = (
                f"branch {name!r} must return one vector per step, so rows of {to_ints(source.lengths)} steps, got "
                f"rows of {to_ints(batch.lengths)} steps; pool sides before they are joined."
            )
            raise ShapeError(msg, branch=name)
        if isinstance(source, Padded) and batch.width != source.width:
            msg = (
                f"branch {name!r} must keep the width of {source.width} steps, got {batch.width}; "
                "make its output with batch.with_values(values)."
            )
            raise ShapeError(msg, branch=name)
    if isinstance(source, Padded):
        values = [batch.padded().fill_padding(0).values for batch in batches.values()]
    else:
        values = [batch.packed().values for batch in batches.values()]
    return derive_vectors(join(values), source, source.initial_carry)
