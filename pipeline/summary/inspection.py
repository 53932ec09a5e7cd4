"""Run one input through every stage, and show the type, shape and first values of each output."""

from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any, Final, cast

import attrs
from torch import Tensor, nn
from typing_extensions import override

from pipeline.core.stage import StageBase, is_stream
from pipeline.data.batches import is_batch
from pipeline.data.kinds import Kind
from pipeline.data.rows import Example, Row, is_row
from pipeline.data.states import States
from pipeline.errors import CompositionError
from pipeline.summary.types import Observed, observe
from pipeline.tables import Column, ShownAsTable, Table

# Values shown of each tensor. Six numbers fit on a line of 100 characters, beside the other columns.
_MAX_VALUES: Final = 6

# torch does not annotate `tolist`.
_to_list: Callable[[Tensor], list[int | float]] = methodcaller("tolist")


@attrs.frozen
class StageOutput:
    """The output of one stage for the inspected input.

    Attributes:
        stage: the stage's name in the chain; `input` for the input itself.
        type: the type of the output.
        shape: each axis by name, with its size.
        values: the first few values.
    """

    stage: str
    type: str
    shape: str
    values: str


@attrs.frozen
class Inspection(ShownAsTable):
    """The output of every stage for one input; printed, it is a table.

    Attributes:
        outputs: the input, then the output of each stage.
        result: the output of the last stage.
    """

    outputs: Sequence[StageOutput]
    result: object = attrs.field(repr=False)

    @override
    def table(self) -> Table:
        """Return the table. Where a terminal is narrow, values are cut, so that each stage keeps to one line."""
        columns = [Column(heading, overflow="never") for heading in ("stage", "output", "shape")]
        rows = [[output.stage, output.type, output.shape, output.values] for output in self.outputs]
        return Table([*columns, Column("values", overflow="cut")], rows)


def inspect_stages(value: object, parts: Mapping[str, StageBase]) -> Inspection:
    """Pass one input through every stage, and record the output of each.

    Raises:
        CompositionError: if a stream does not return exactly one output for the input.
    """
    device = next((p.device for part in parts.values() if isinstance(part, nn.Module) for p in part.parameters()), None)
    outputs = [_describe_output("input", value)]
    for name, part in parts.items():
        if is_stream(part):
            returned = list(part.predict_batches([value]))
            if len(returned) != 1:
                msg = (
                    f"stage {name!r} must return one output for one input, got {len(returned)}; "
                    "inspect an input that it does not drop or split."
                )
                raise CompositionError(msg, stage=name, returned=len(returned))
            value = returned[0]
        else:
            moved = value.to(device) if device is not None and is_batch(value) else value
            value = cast("Any", part)(moved)
        outputs.append(_describe_output(name, value))
    return Inspection(outputs, value)


def _describe_output(stage: str, value: object) -> StageOutput:
    if isinstance(value, Example):
        return attrs.evolve(_describe_output(stage, cast("Example[object]", value).input), type="Example")
    if isinstance(value, list):
        rows = cast("list[object]", value)
        only = _describe_output(stage, rows[0]) if len(rows) == 1 else StageOutput(stage, "items", "", _shorten(rows))
        return attrs.evolve(only, type=f"list of {len(rows)} {only.type}")
    if is_row(value):
        return _describe_row(stage, value)
    # A batch with fields has no values of its own: their names are shown instead.
    shown = ", ".join(value.fields) if is_batch(value) and value.fields is not None else None
    tensor = _get_tensor(value)
    if isinstance(tensor, Tensor):
        return _describe_tensor(stage, observe(value, None), tensor, shown)
    shape = f"{len(value)} characters" if isinstance(value, str) else ""
    return StageOutput(stage, type(value).__name__, shape, _shorten(value))


def _describe_row(stage: str, value: Row[Kind]) -> StageOutput:
    # Observe the sequence instead of its tensor: the annotation in its class names the axes.
    observed = attrs.evolve(observe(value.sequence, None), type=f"Row[{type(value.sequence).__name__}]")
    values: object = getattr(value.sequence, "values", None)
    if isinstance(values, Tensor):
        return _describe_tensor(stage, observed, values)
    return StageOutput(stage, observed.type, f"time={len(value)}", _shorten(value.sequence))


def _get_tensor(value: object) -> object:
    # First, because a tensor has a method `values` as well: that of sparse tensors.
    if isinstance(value, Tensor):
        return value
    return value.steps.values if isinstance(value, States) else getattr(value, "values", None)


def _describe_tensor(stage: str, observed: Observed, tensor: Tensor, shown: str | None = None) -> StageOutput:
    shape = " ".join(f"{name or 'axis'}={size}" for name, size in observed.axes)
    if shown is not None:
        return StageOutput(stage, observed.type, shape, shown)
    first = _to_list(tensor.detach().flatten()[:_MAX_VALUES].cpu())
    numbers = [f"{number:.2f}" if isinstance(number, float) else str(number) for number in first]
    return StageOutput(
        stage, observed.type, shape, " ".join(numbers) + (" ..." if tensor.numel() > _MAX_VALUES else "")
    )


def _shorten(value: object, width: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."
