"""Export a model to a file, compared with the model before the file is moved into place."""

import copy
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast, final, get_args

import attrs
import torch
from torch import nn

from pipeline.checks.options import check_choice, check_int, check_number, check_path
from pipeline.core.stage import StageBase
from pipeline.data.kinds import Kind, get_kind_class
from pipeline.errors import ExportError, OptionError
from pipeline.export import runner
from pipeline.export.check import reject_unexportable
from pipeline.export.decoder import find_decoder
from pipeline.export.files import compute_digest, reject_files_of_others, reject_step_of_others, write_beside
from pipeline.export.forms import GraphSet
from pipeline.export.inputs import BatchInputs, Input
from pipeline.export.module import RowsGraph
from pipeline.export.options import ExportOptions, Form
from pipeline.export.outputs import Output
from pipeline.export.search import SearchGraphs
from pipeline.export.sizes import find_kind
from pipeline.export.step import StepGraph
from pipeline.export.texts import TextInput
from pipeline.extras import import_extra
from pipeline.saving.json_files import write_json
from pipeline.stages.pad import Pad

FORMAT: Final = 1
"""The number of the format of the description."""

_SUFFIXES: Final = (".onnx", ".pt2")


@final
@attrs.frozen
class ExportedGraph:
    """One written graph.

    Attributes:
        file: its file.
        inputs: the tensors that it takes.
        outputs: the tensors that it returns.
    """

    file: Path
    inputs: Sequence[Input]
    outputs: Sequence[Output]

    def __str__(self) -> str:
        """Return the file, and the names and axes of inputs and outputs."""
        takes, gives = (
            ", ".join(f"{each.name} ({' x '.join(axis or '_' for axis in each.axes)})" for each in tensors)
            for tensors in (self.inputs, self.outputs)
        )
        return f"{self.file}: {takes} -> {gives}"


@final
@attrs.frozen
class Exported:
    """The result of an export: its files and the comparison.

    Attributes:
        files: the model first, then the files beside it.
        graphs: the graph of the model; of a decoder also that of one step.
        difference: the largest difference from the model on the compared batches.
        batches: the number of these batches.
    """

    files: Sequence[Path]
    graphs: Sequence[ExportedGraph]
    difference: float
    batches: int

    @property
    def inputs(self) -> Sequence[Input]:
        """The tensors that the model takes: those of its first graph."""
        return self.graphs[0].inputs

    @property
    def outputs(self) -> Sequence[Output]:
        """The tensors that the first graph returns."""
        return self.graphs[0].outputs

    def __str__(self) -> str:
        """Return a line on the model: names and axes of its inputs and outputs, and the difference."""
        graphs = "; ".join(map(str, self.graphs))
        return f"{graphs}; {self.batches} random batches, largest difference {self.difference:.1e}"


def export_model(stages: Mapping[str, StageBase], file: str | os.PathLike[str], options: ExportOptions) -> Exported:
    """Export the stages of a pipe or of a model; see `Chain.export`."""
    check_path("file", file)
    path = Path(file)
    check_choice("the suffix of file", path.suffix, _SUFFIXES)
    if unknown := sorted(set(options) - set(ExportOptions.__annotations__)):
        msg = f"export has no option {unknown[0]!r}; its options are {', '.join(ExportOptions.__annotations__)}."
        raise OptionError(msg, option=unknown[0])
    form: Form = options.get("form", "rows")
    check_choice("form", form, get_args(Form))
    batches = check_int("batches", options.get("batches", 100), minimum=1)
    tolerance = check_number("tolerance", options.get("tolerance", 1e-5), minimum=0)
    sizes = _check_sizes(options.get("sizes"))
    _check_kind(options.get("kind"))
    reject_files_of_others(path)
    data, model = _split(stages)
    reject_unexportable(model)
    pad = cast("Pad[Kind] | None", data[-1] if data else None)
    kind = options.get("kind") or (find_kind(list(model.values())) if pad is None else pad.kind)
    if path.suffix == ".onnx":
        import_extra("onnxscript", extra="export", why="export to ONNX")
        import_extra("onnxruntime", extra="export", why="the comparison of the exported model")
    # A copy on the CPU: the model is not changed, whatever tracing does.
    copied = _copy_for_export(model)
    inputs = BatchInputs(kind, list(copied.values()), sizes, _find_dtype(copied))
    graph_set = _make_graphs(form, copied, inputs)
    graphs = [
        ExportedGraph(path.with_stem(f"{path.stem}{each.infix}"), each.inputs, each.outputs)
        for each in graph_set.graphs
    ]
    if len(graphs) > 1:
        reject_step_of_others(path)
    with write_beside(path) as folder:
        runs = [each.write(folder / to.file.name) for each, to in zip(graph_set.graphs, graphs, strict=True)]
        difference = graph_set.compare(runs, batches, tolerance)
        text = TextInput() if pad is None else TextInput.of(data)
        _describe(folder, path, form, graph_set, text, model)
        names = [path.name, *sorted(each.name for each in folder.iterdir() if each.name != path.name)]
    return Exported([path.with_name(name) for name in names], graphs, difference, batches)


def _check_sizes(sizes: object) -> Mapping[str, int]:
    if sizes is None:
        return {}
    if not isinstance(sizes, Mapping):
        msg = f"sizes must be a mapping from names of inputs to numbers, got {sizes!r:.200}; write {{'vectors': 3}}."
        raise OptionError(msg, sizes=sizes)
    given = cast("Mapping[str, object]", sizes)
    return {name: check_int(f"sizes[{name!r}]", size, minimum=1) for name, size in given.items()}


def _check_kind(kind: object) -> None:
    base = get_kind_class(kind)
    if kind is not None and not (isinstance(base, type) and issubclass(base, Kind)):
        msg = f"kind must be a kind of rows, such as Ids or Vectors, got {kind!r:.200}; pass the class."
        raise OptionError(msg, kind=kind)


def _make_graphs(form: Form, stages: Mapping[str, StageBase], inputs: BatchInputs) -> GraphSet:
    decoder = find_decoder(stages)
    if form == "rows":
        return RowsGraph(stages, inputs) if decoder is None else SearchGraphs(stages, decoder, inputs)
    if decoder is None:
        return StepGraph(stages, inputs)
    msg = (
        f"form='step' is for causal models, got one that ends in {type(decoder).__name__}; use form='rows', which "
        "writes the graph of one step beside that of the source."
    )
    raise ExportError(msg)


def _split(stages: Mapping[str, StageBase]) -> tuple[list[StageBase], dict[str, StageBase]]:
    """Return the data stages, up to `Pad`, and the model's stages by name."""
    items = list(stages.items())
    at = next((place + 1 for place, (_, stage) in enumerate(items) if isinstance(stage, Pad)), 0)
    if at == len(items):
        msg = "the pipe has no stage after Pad to export; join it with a model."
        raise ExportError(msg)
    return [stage for _, stage in items[:at]], dict(items[at:])


def _copy_for_export(model: Mapping[str, StageBase]) -> dict[str, StageBase]:
    """Return copies of stages, in evaluation mode and on the CPU; stages that share weights share them in the copy."""
    copied = copy.deepcopy(dict(model))
    for stage in copied.values():
        if isinstance(stage, nn.Module):
            stage.requires_grad_(requires_grad=False).eval().cpu()
    return copied


def _find_dtype(model: Mapping[str, StageBase]) -> torch.dtype:
    weights = (weight for stage in model.values() if isinstance(stage, nn.Module) for weight in stage.parameters())
    return next((weight.dtype for weight in weights if weight.is_floating_point()), torch.float32)


def _describe(
    folder: Path, path: Path, form: Form, graphs: GraphSet, text: TextInput, model: Mapping[str, StageBase]
) -> None:
    """Write what a program needs to know of the model, its tokenizers, and a script that uses them."""
    every_step = bool(getattr(list(model.values())[-1], "every_step", False))
    first = graphs.graphs[0]
    search, tokenizers = graphs.describe_search(folder, path), text.write(folder, path.stem)
    description = {
        "format": FORMAT,
        "form": form,
        "file": path.name,
        "files": {each.name: compute_digest(each) for each in sorted(folder.iterdir())},
        "inputs": [attrs.asdict(each) for each in first.inputs],
        "outputs": [{**attrs.asdict(each), "every_step": every_step} for each in first.outputs],
        "search": search,
        "tokenizers": tokenizers,
        "max_length": text.max_length,
        "too_long": text.too_long,
    }
    write_json(folder / f"{path.stem}.json", description)
    if path.suffix == ".onnx" and form == "rows":
        shutil.copyfile(runner.__file__, folder / f"{path.stem}.py")
