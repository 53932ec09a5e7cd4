"""A model as a module of plain tensors, which torch can export."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from pipeline.core.running import run_stages
from pipeline.core.stage import StageBase
from pipeline.export.check import Run, compare
from pipeline.export.forms import GraphSet
from pipeline.export.inputs import BatchInputs
from pipeline.export.outputs import describe_outputs, read_outputs, rename_outputs
from pipeline.export.program import Graph


@final
class RowsModule(nn.Module):
    """The stages of a model, from tensors to tensors.

    Args:
        stages: the stages by name.
        inputs: says what the tensors are.
    """

    def __init__(self, stages: Mapping[str, StageBase], inputs: BatchInputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.stages: list[StageBase] = list(stages.values())
        self.modules_of_stages: nn.ModuleList = nn.ModuleList(
            stage for stage in self.stages if isinstance(stage, nn.Module)
        )

    @override
    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, in the order of `read_outputs`."""
        return tuple(read_outputs(self.run(tensors)).values())

    def run(self, tensors: Sequence[Tensor]) -> Any:  # noqa: ANN401 - a model may return anything
        """Return the model's own output."""
        named = {each.name: tensor for each, tensor in zip(self.inputs.inputs, tensors, strict=True)}
        return run_stages(enumerate(self.stages, start=1), self.inputs.make_batch(named))

    @torch.no_grad()
    def compute(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of the model as it runs without a graph."""
        return list(self(*tensors))


@final
class RowsGraph(GraphSet):
    """The graph of a model that takes whole rows.

    Args:
        stages: the stages by name.
        inputs: says what the tensors are.
    """

    def __init__(self, stages: Mapping[str, StageBase], inputs: BatchInputs) -> None:
        self._inputs = inputs
        self._module = RowsModule(stages, inputs)
        example = inputs.make_example()
        with torch.no_grad():
            described = describe_outputs(self._module.run(example))
        outputs = rename_outputs(described, [each.name for each in inputs.inputs])
        self.graphs: Sequence[Graph] = [Graph(self._module, example, inputs.inputs, outputs)]

    @override
    def compare(self, runs: Sequence[Run], batches: int, tolerance: float) -> float:
        return compare(self._inputs, self._module.compute, runs[0], batches, tolerance)
