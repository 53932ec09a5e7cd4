"""Compare an exported model with the model itself, and name parts that cannot be exported."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pipeline.core.stage import StageBase
from pipeline.errors import ExportError
from pipeline.export.inputs import BatchInputs

Run: TypeAlias = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Computes the outputs for the inputs."""

_MAX_ROWS, _MAX_TIME = 8, 20


def reject_unexportable(stages: Mapping[str, StageBase]) -> None:
    """Reject models with a stage that is no module, or a part that declares it cannot be exported.

    A part declares `exportable`. If it can tell why it cannot be exported, it has a method `explain_not_exportable`.

    Raises:
        ExportError: naming the stage and the part.
    """
    for name, stage in stages.items():
        if not isinstance(stage, nn.Module):
            msg = f"stage {name!r} is {type(stage).__name__}, which is no module; end the exported model before it."
            raise ExportError(msg, stage=name)
        list_parts: Callable[[], Iterable[tuple[str, object]]] = getattr(stage, "named_modules")  # noqa: B009
        for path, part in list_parts():
            explain: Callable[[], str | None] = getattr(part, "explain_not_exportable", lambda: None)
            reason = explain()
            if reason is None and getattr(part, "exportable", True) is False:
                reason = "class does not declare exportable = True; declare it if torch can trace the class"
            if reason is not None:
                where = f"stage {name!r}" if not path else f"{path!r} of stage {name!r}"
                msg = (
                    f"{where}, {type(part).__name__}, cannot be exported, because its {reason}, or choose another part."
                )
                raise ExportError(msg, stage=name, part=type(part).__name__)


def compare(inputs: BatchInputs, expected: Run, found: Run, batches: int, tolerance: float, seed: int = 0) -> float:
    """Return the largest difference between two models on random ragged batches, with empty rows.

    Args:
        inputs: says what the models take.
        expected: the model itself.
        found: the exported one.
        batches: the number of batches.
        tolerance: the difference that is allowed, for numbers above 1 relative to them.
        seed: of the batches.

    Raises:
        ExportError: if a difference is larger than the tolerance, or the exported model fails.
    """
    worst = 0.0
    for shape, tensors in draw_batches(inputs, batches, seed):
        wanted = expected(tensors)
        try:
            got = found(tensors)
        except Exception as error:
            msg = f"the exported model fails on a batch of {shape}, where the model does not: {error}"
            raise ExportError(msg, shape=shape) from error
        for one, other in zip(wanted, got, strict=True):
            difference = measure(one, other)
            worst = max(worst, difference)
            if not difference <= tolerance:
                msg = (
                    f"the exported model gives other results than the model: they differ by {difference:.2g} on a "
                    f"batch of {shape}, and {tolerance:.2g} is allowed. Usually a stage or part of your own stores a "
                    "size or a number of the traced batch, or reads padding; if the model's numbers are large, allow "
                    "more: tolerance=..."
                )
                raise ExportError(msg, difference=difference, shape=shape)
    return worst


def measure(wanted: Tensor, got: Tensor) -> float:
    """Return the largest difference, for numbers above 1 relative to them; infinity for other shapes, or a NaN.

    Example:
        >>> measure(torch.tensor([0.0, 10.0]), torch.tensor([0.5, 11.0]))
        0.5
    """
    if wanted.ndim == got.ndim and wanted.ndim > 2:
        # Scores of steps are as wide as the longest row here, and as the batch there; the rest must be zeros.
        wanted = pad(wanted, (0, 0, 0, got.shape[1] - wanted.shape[1]))
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return float("inf")
    if not wanted.numel():
        return 0.0
    difference = ((wanted - got).abs() / wanted.abs().clamp(min=1)).nan_to_num(nan=torch.inf)
    return float(difference.max())


def draw_batches(inputs: BatchInputs, batches: int, seed: int) -> Iterator[tuple[Mapping[str, int], list[Tensor]]]:
    """Yield the shape and the tensors of random batches; of the first ones, one has a single step, one only empty rows.

    Args:
        inputs: says what the tensors are.
        batches: the number of batches.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    axes = list(dict.fromkeys(axis for each in inputs.inputs for axis in each.axes))
    for number in range(batches):
        limits = {axis: _MAX_ROWS if axis == "batch" else _MAX_TIME for axis in axes}
        drawn = torch.randint(1, 2**31, (len(axes),), generator=generator)
        shape = {axis: 1 + int(each) % limits[axis] for axis, each in zip(axes, drawn, strict=True)}
        if number == 0:
            shape = dict.fromkeys(axes, 1)
        tensors = inputs.draw(shape, generator)
        if number == 1:
            lengths = [each.name for each in inputs.inputs if each.role == "lengths"]
            tensors |= {name: torch.zeros_like(tensors[name]) for name in lengths}
        yield shape, list(tensors.values())
