"""Export a model to a file, compared with the model before the file is moved into place."""

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast, final, get_args

import attrs
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pipeline.checks.options import check_choice, check_int, check_path
from pipeline.core.stage import StageBase
from pipeline.data.kinds import Kind
from pipeline.errors import ExportError, OptionError
from pipeline.export import runner
from pipeline.export.check import Run, compare, reject_unexportable
from pipeline.export.graph import trace_module, translate_program
from pipeline.export.inputs import BatchInputs, Input
from pipeline.export.module import RowsModule
from pipeline.export.options import ExportOptions, Form
from pipeline.export.outputs import Output, describe_outputs, rename_outputs
from pipeline.export.sizes import find_kind
from pipeline.export.step import StepModule, compare_steps
from pipeline.export.texts import TextInput
from pipeline.extras import import_extra
from pipeline.saving.files import explain_os_errors
from pipeline.saving.json_files import write_json
from pipeline.stages.pad import Pad

FORMAT: Final = 1
"""The number of the format of the description."""

_SUFFIXES: Final = (".onnx", ".pt2")


@final
@attrs.frozen
class Exported:
    """The result of an export: its files and the comparison.

    Attributes:
        files: the model first, then the files beside it.
        inputs: the tensors that the model takes.
        outputs: the tensors that it returns.
        difference: the largest difference from the model on the compared batches.
        batches: the number of these batches.
    """

    files: Sequence[Path]
    inputs: Sequence[Input]
    outputs: Sequence[Output]
    difference: float
    batches: int

    def __str__(self) -> str:
        """Return a line on the model: names and axes of its inputs and outputs, and the difference."""
        takes, gives = (
            ", ".join(f"{each.name} ({' x '.join(axis or '_' for axis in each.axes)})" for each in tensors)
            for tensors in (self.inputs, self.outputs)
        )
        return (
            f"{self.files[0]}: {takes} -> {gives}; {self.batches} random batches, largest difference "
            f"{self.difference:.1e}"
        )


def export_model(stages: Mapping[str, StageBase], file: str | os.PathLike[str], options: ExportOptions) -> Exported:
    """Export the stages of a pipe or of a model; see `Chain.export`."""
    check_path("file", file)
    path = Path(file)
    check_choice("the suffix of file", path.suffix, _SUFFIXES)
    form: Form = options.get("form", "rows")
    check_choice("form", form, get_args(Form))
    batches = check_int("batches", options.get("batches", 100), minimum=1)
    tolerance = options.get("tolerance", 1e-5)
    if unknown := sorted(set(options) - set(ExportOptions.__annotations__)):
        msg = f"export has no option {unknown[0]!r}; its options are {', '.join(ExportOptions.__annotations__)}."
        raise OptionError(msg, option=unknown[0])
    _reject_files_of_others(path)
    data, model = _split(stages)
    reject_unexportable(model)
    pad = cast("Pad[Kind] | None", data[-1] if data else None)
    kind = options.get("kind") or (find_kind(list(model.values())) if pad is None else pad.kind)
    if path.suffix == ".onnx":
        import_extra("onnxscript", extra="export", why="export to ONNX")
        import_extra("onnxruntime", extra="export", why="the comparison of the exported model")
    # A copy on the CPU: the model is not changed, whatever tracing does.
    copied = _copy_for_export(model)
    inputs = BatchInputs(kind, list(copied.values()), options.get("sizes") or {}, _find_dtype(copied))
    with _write_beside(path) as folder:
        target = folder / path.name
        module: nn.Module
        if form == "step":
            step = StepModule(copied, inputs)
            described_inputs: Sequence[Input] = step.inputs
            module, outputs = step, rename_outputs(step.outputs, [each.name for each in step.inputs])
            run = _write_program(module, step.draw(), described_inputs, outputs, target)
            difference = compare_steps(step, run, batches, tolerance)
        else:
            rows = RowsModule(copied, inputs)
            example = list(inputs.draw(inputs.make_shape(), torch.Generator().manual_seed(0)).values())
            with torch.no_grad():
                described = describe_outputs(rows.run(example))
            described_inputs, module = inputs.inputs, rows
            outputs = rename_outputs(described, [each.name for each in described_inputs])
            run = _write_program(module, example, described_inputs, outputs, target)
            difference = compare(inputs, rows.compute, run, batches, tolerance)
        text = TextInput() if pad is None else TextInput.of(data)
        _describe(folder, path, form, described_inputs, outputs, text, model)
        names = [path.name, *sorted(each.name for each in folder.iterdir() if each.name != path.name)]
    return Exported([path.with_name(name) for name in names], described_inputs, outputs, difference, batches)


def _reject_files_of_others(path: Path) -> None:
    """Reject a name whose description or script would replace a file that no export wrote, such as the user's script.

    Raises:
        ExportError: naming the file.
    """
    script = path.with_name(f"{path.stem}.py") if path.suffix == ".onnx" else None
    for file, is_own in ((path.with_name(f"{path.stem}.json"), _is_description), (script, _is_script)):
        if file is not None and file.exists() and not is_own(file):
            msg = f"export writes {str(file)!r} beside the model, but this file is not of an export; "
            msg += "choose another name for the model, or move the file."
            raise ExportError(msg, file=str(file))


def _is_description(file: Path) -> bool:
    try:
        found: object = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"format", "inputs", "outputs"} <= set(cast("dict[str, object]", found))


def _is_script(file: Path) -> bool:
    # The first sentence only, since another version may have written the script.
    begin = b'"""Predict with an exported model.'
    return file.is_file() and file.read_bytes()[: len(begin)] == begin


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


def _write_program(
    module: nn.Module, example: Sequence[Tensor], inputs: Sequence[Input], outputs: Sequence[Output], file: Path
) -> Run:
    """Write a module as a program, and return a function that runs the written file."""
    program = trace_module(module, example, [each.axes for each in inputs])
    if file.suffix == ".pt2":
        save: Callable[..., None] = getattr(torch.export, "save")  # noqa: B009 - torch leaves its type open
        save(program, file)
        load: Callable[..., ExportedProgram] = getattr(torch.export, "load")  # noqa: B009
        loaded = cast("Callable[..., Sequence[Tensor]]", load(file).module())

        @torch.no_grad()
        def run(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
            return loaded(*tensors)

        return run
    translate_program(program, module, inputs, outputs).save(str(file))
    return run_onnx(file)


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


def _describe(
    folder: Path,
    path: Path,
    form: Form,
    inputs: Sequence[Input],
    outputs: Sequence[Output],
    text: TextInput,
    model: Mapping[str, StageBase],
) -> None:
    """Write what a program needs to know of the model, its tokenizers, and a script that uses them."""
    every_step = bool(getattr(list(model.values())[-1], "every_step", False))
    description = {
        "format": FORMAT,
        "form": form,
        "inputs": [attrs.asdict(each) for each in inputs],
        "outputs": [{**attrs.asdict(each), "every_step": every_step} for each in outputs],
        "tokenizers": text.write(folder, path.stem),
        "max_length": text.max_length,
        "too_long": text.too_long,
    }
    write_json(folder / f"{path.stem}.json", description)
    if path.suffix == ".onnx" and form == "rows":
        shutil.copyfile(runner.__file__, folder / f"{path.stem}.py")


@contextmanager
def _write_beside(path: Path) -> Generator[Path]:
    """Yield a temporary folder, and move its files beside `path`, that of this name last; none after an error."""
    with explain_os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield folder
        with explain_os_errors(path, "write"):
            for file in sorted(folder.iterdir(), key=lambda each: each.name == path.name):
                file.replace(path.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
