"""A stage, a head and a policy for `pipeline`."""

from collections.abc import Mapping
from typing import final

import attrs
import torch
from torch import nn

from pipeline.extend import (
    CompositionError,
    HeadFactory,
    ModuleStage,
    Policy,
    PolicyFactory,
    Pooled,
    Scores,
    Spec,
    StageFactory,
    States,
    hookimpl,
)

__all__ = ["Binary", "Highway", "PowersOfTwo", "pipeline_heads", "pipeline_policies", "pipeline_stages"]


@final
class Highway(ModuleStage[States, States]):
    """Mix each hidden vector with a transformed copy of itself.

    Source: Srivastava, Greff and Schmidhuber 2015, "Highway Networks", arXiv:1505.00387.
    """

    layouts = ("packed",)

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.linear = None if size is None else nn.Linear(size, 2 * size)

    @property
    def is_lazy(self) -> bool:
        """Whether the weights are not created yet."""
        return self.linear is None

    def build(self, spec: Spec, /) -> Spec:
        """Create the weights if the size was left out, and pass the size on."""
        if self.linear is None and spec.size is not None:
            self.linear = nn.Linear(spec.size, 2 * spec.size)
        if self.linear is not None and spec.size not in {None, self.linear.in_features}:
            msg = f"the input must have size {self.linear.in_features}, got {spec.size}; leave the size out."
            raise CompositionError(msg)
        return attrs.evolve(spec, outdated="Highway")

    def forward(self, value: States) -> States:
        """Return the mixed vectors; the final states stay those of the encoder."""
        if self.linear is None:
            raise CompositionError("Highway does not know its size yet; join it after the stage that feeds it.")
        steps = value.packed()
        gate, copy = self.linear(steps.values).chunk(2, dim=1)
        gate = torch.sigmoid(gate)
        mixed = gate * torch.relu(copy) + (1 - gate) * steps.values
        return value.with_values(steps.with_values(mixed), stage="Highway")


@final
class Binary(ModuleStage[Pooled, Scores[bool]]):
    """Score two classes with a single number: the log-odds of True."""

    def __init__(self, input_size: int | None = None) -> None:
        super().__init__()
        self.linear = None if input_size is None else nn.Linear(input_size, 1)

    @property
    def is_lazy(self) -> bool:
        """Whether the weights are not created yet."""
        return self.linear is None

    def build(self, spec: Spec, /) -> Spec:
        """Create the weights if the size was left out."""
        if self.linear is None and spec.size is not None:
            self.linear = nn.Linear(spec.size, 1)
        if self.linear is not None and spec.size not in {None, self.linear.in_features}:
            msg = f"the input must have size {self.linear.in_features}, got {spec.size}; leave input_size out."
            raise CompositionError(msg)
        return Spec()

    def forward(self, value: Pooled) -> Scores[bool]:
        """Return the scores of both classes."""
        if self.linear is None:
            raise CompositionError("Binary does not know its input size yet; join it after Pool.")
        odds = self.linear(value.values)
        return Scores(torch.cat([torch.zeros_like(odds), odds], dim=1), [False, True], metadata=value.metadata)


@final
@attrs.frozen
class PowersOfTwo(Policy):
    """A budget of padded steps whose batches have 1, 2, 4, 8, ... rows."""

    max_padded_steps: int

    def max_rows(self, longest: int) -> int:
        """Return the largest power of two that fits."""
        return 1 << ((self.max_padded_steps // longest).bit_length() - 1)

    def max_length(self) -> int:
        """Return the most steps of a row."""
        return self.max_padded_steps


@hookimpl
def pipeline_stages() -> Mapping[str, StageFactory]:
    """Return the stage, by name."""
    return {"highway": Highway}


@hookimpl
def pipeline_heads() -> Mapping[str, HeadFactory]:
    """Return the head, by name."""
    return {"binary": Binary}


@hookimpl
def pipeline_policies() -> Mapping[str, PolicyFactory]:
    """Return the policy, by name."""
    return {"powers_of_two": PowersOfTwo}
