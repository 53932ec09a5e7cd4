"""Trace a module of tensors into a program of torch, and translate it to ONNX."""

import logging
import warnings
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pipeline.core.contexts import preserve_random_state
from pipeline.data.rectangles import keep_rectangles
from pipeline.errors import ExportError
from pipeline.extras import import_extra
from pipeline.text import format_error

_LENGTH: int = 400
"""The longest part of torch's own message that is repeated."""


_UNLIMITED: int = 2**40


class Named(Protocol):
    """An input or an output: its name, and the names of its dynamic axes."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def axes(self) -> Sequence[str]: ...  # noqa: D102


class _TranslatedPart(Protocol):
    def onnx_functions(self) -> Mapping[str, Callable[..., object]]: ...


def trace_module(
    module: nn.Module, example: Sequence[Tensor], axes: Sequence[Sequence[str]], empty_axes: Collection[str] = ()
) -> ExportedProgram:
    """Return the program of a module for any size of its dynamic axes.

    Args:
        module: takes tensors, and returns a tuple of tensors.
        example: its inputs.
        axes: the names of the first axes of each input; empty for one of fixed size.
        empty_axes: the names of the axes whose size may be 0.

    Raises:
        ExportError: if torch cannot trace the module.
    """
    dims: dict[str, object] = {
        name: Dim(name, min=0 if name in empty_axes else 1) for each in axes for name in each if name
    }
    shapes = (tuple({axis: dims[name] for axis, name in enumerate(each) if name} for each in axes),)
    with _explain_errors("traced"), keep_rectangles(), torch.no_grad():
        # Not strict: Python runs the stages, whose objects need no support by the compiler.
        return torch.export.export(module, tuple(example), dynamic_shapes=shapes, strict=False)


def translate_program(
    program: ExportedProgram, module: nn.Module, inputs: Sequence[Named], outputs: Sequence[Named]
) -> Any:  # noqa: ANN401
    """Return the program in ONNX.

    Args:
        program: from `trace_module`.
        module: the module; its parts may bring functions for operators of their own, by a method `onnx_functions`.
        inputs: the inputs.
        outputs: the outputs.

    Raises:
        ExportError: if an operator has no translation.
        MissingExtraError: if the extra `export` is not installed.
    """
    import_extra("onnxscript", extra="export", why="export to ONNX")
    table = {_find_operator(name): made for name, made in _list_functions(module).items()}
    convert: Callable[..., Any] = getattr(torch.onnx, "export")  # noqa: B009 - torch leaves its type open
    with _explain_errors("translated to ONNX"), _silence("torch.onnx", "onnxscript"):
        found = convert(
            program,
            dynamo=True,
            verbose=False,
            input_names=[each.name for each in inputs],
            output_names=[each.name for each in outputs],
            custom_translation_table=table,
        )
        # Torch's exporter computes small constants only. Here all weights are put in ONNX's order in advance.
        optimizer = import_extra("onnxscript.optimizer", extra="export", why="export to ONNX")
        optimizer.fold_constants(found.model, input_size_limit=_UNLIMITED, output_size_limit=_UNLIMITED)
        optimizer.remove_unused_nodes(found.model)
        _name_axes(found.model.graph, {each.name: each.axes for each in (*inputs, *outputs)})
    return found


def _name_axes(graph: Any, axes: Mapping[str, Sequence[str]]) -> None:  # noqa: ANN401 - a class of onnxscript's
    """Give the dynamic axes their names; torch calls them by its symbols, such as s77."""
    import_ir = import_extra("onnx_ir", extra="export", why="export to ONNX")
    names: dict[str, str] = {}
    for value in graph.inputs:
        pairs = zip(value.shape, axes[value.name], strict=False)
        names |= {str(size): name for size, name in pairs if name}
    nodes = (value for node in graph.all_nodes() for value in node.outputs)
    for value in (*graph.inputs, *nodes):
        if value.shape is not None:
            named = [names.get(str(size), size) if not isinstance(size, int) else size for size in value.shape]
            value.shape = import_ir.Shape(named)


@contextmanager
def _silence(*loggers: str) -> Generator[None]:
    """Silence reports on each step, and on packages that are not needed."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _list_functions(module: nn.Module) -> Mapping[str, Callable[..., object]]:
    found: dict[str, Callable[..., object]] = {}
    for part in module.modules():
        if hasattr(part, "onnx_functions"):
            found.update(cast("_TranslatedPart", part).onnx_functions())
    return found


def _find_operator(name: str) -> object:
    """Return the operator with a name such as `pipeline::recurrent_layer`."""
    space, _, operator = name.partition("::")
    found: object = torch.ops
    for attribute in (space, operator, "default"):
        found = getattr(found, attribute)
    return found


@contextmanager
def _explain_errors(action: str) -> Generator[None]:
    """Silence torch's warnings on tracing, restore what it draws at random, and say what its errors mean."""
    with preserve_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ExportError:
            raise
        except Exception as error:
            msg = (
                f"the model cannot be {action}: {format_error(error, _LENGTH)}. Usually a stage or part of your own "
                "reads a number from a tensor, uses len(tensor) instead of shape[0], or loops over time; find it by "
                "exporting a shorter chain."
            )
            raise ExportError(msg) from error
