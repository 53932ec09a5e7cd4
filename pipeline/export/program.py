"""A graph of an export: written to a file as a program, and run from there."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast, final

import attrs
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pipeline.export.check import Run
from pipeline.export.graph import trace_module, translate_program
from pipeline.export.inputs import Input
from pipeline.export.outputs import Output
from pipeline.extras import import_extra


@final
@attrs.frozen(eq=False)
class Graph:
    """A module of tensors, with what describes them.

    Attributes:
        module: the module; it returns a tuple.
        example: tensors that it takes, whose dynamic axes all have different sizes.
        inputs: the descriptions of what it takes.
        outputs: the descriptions of what it returns.
        infix: follows the name of the exported model in that of the file.
        empty_axes: the names of the axes that may be empty.
    """

    module: nn.Module
    example: Sequence[Tensor]
    inputs: Sequence[Input]
    outputs: Sequence[Output]
    infix: str = ""
    empty_axes: Collection[str] = ()

    def write(self, file: Path) -> Run:
        """Write the graph as a program, in ONNX or of torch, and return a function that runs the written file."""
        program = trace_module(self.module, self.example, [each.axes for each in self.inputs], self.empty_axes)
        if file.suffix == ".pt2":
            return _write_torch(program, file)
        translate_program(program, self.module, self.inputs, self.outputs).save(str(file))
        return run_onnx(file)


def _write_torch(program: ExportedProgram, file: Path) -> Run:
    _drop_unused_weights(program)
    save: Callable[..., None] = getattr(torch.export, "save")  # noqa: B009 - torch leaves its type open
    save(program, file)
    load: Callable[..., ExportedProgram] = getattr(torch.export, "load")  # noqa: B009
    loaded = cast("Callable[..., Sequence[Tensor]]", load(file).module())

    @torch.no_grad()
    def run(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return loaded(*tensors)

    return run


def _drop_unused_weights(program: ExportedProgram) -> None:
    """Empty the weights that no node reads: torch stores all those of the module, such as a decoder's embeddings."""
    names = program.graph_signature.inputs_to_parameters
    for node in program.graph.nodes:
        if node.op == "placeholder" and not node.users and node.name in names:
            weight = program.state_dict[names[node.name]]
            program.state_dict[names[node.name]] = nn.Parameter(weight.new_zeros(0), requires_grad=False)


_from_numpy: Callable[[object], Tensor] = getattr(torch, "from_numpy")  # noqa: B009 - torch leaves its type open


def run_onnx(file: Path) -> Run:
    """Return a function that runs a file in ONNX.

    Raises:
        MissingExtraError: if onnxruntime is not installed.
    """
    runtime: Any = import_extra("onnxruntime", extra="export", why="a model in ONNX")
    session = runtime.InferenceSession(str(file))
    names = [each.name for each in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [_from_numpy(array) for array in session.run(None, arrays)]

    return run
