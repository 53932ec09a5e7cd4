"""One input on its way through every stage: what it became, its shape, its first values."""

from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any, cast

import attrs
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from pipeline.core.stage import StageBase, is_stream
from pipeline.data.batches import is_batch
from pipeline.data.rows import Example, is_row, values_of
from pipeline.data.states import States
from pipeline.errors import CompositionError

_numbers: Callable[[Tensor], list[int | float]] = methodcaller("tolist")


@attrs.frozen
class Seen:
    """What one stage made of the input.

    Attributes:
        stage: the stage's name in the chain; `input` for what came in.
        type: what it gave.
        shape: each axis by name, with its size.
        values: the first few values.
    """

    stage: str
    type: str
    shape: str
    values: str


@attrs.frozen
class Inspection:
    """What every stage made of one input; printed, it is a table.

    Attributes:
        steps: the input, then one entry a stage.
        result: what came out at the end.
    """

    steps: Sequence[Seen]
    result: object = attrs.field(repr=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
        for heading in ("stage", "gives", "shape"):
            table.add_column(heading, no_wrap=True)
        # A sample takes the room that is left; what does not fit is cut, and a stage keeps to one line.
        table.add_column("values", no_wrap=True, overflow="ellipsis", ratio=1)
        for step in self.steps:
            table.add_row(*map(Text, (step.stage, step.type, step.shape, step.values)))
        yield table

    def __str__(self) -> str:
        rows = [["stage", "gives", "shape", "values"], *([s.stage, s.type, s.shape, s.values] for s in self.steps)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)


def inspect_stages(value: object, parts: Mapping[str, StageBase]) -> Inspection:
    """Take one input through every part, and write down what each gave.

    Raises:
        CompositionError: if a stream does not give exactly one thing for one input.
    """
    device = next((p.device for part in parts.values() if isinstance(part, nn.Module) for p in part.parameters()), None)
    steps = [_seen("input", value)]
    for name, part in parts.items():
        if is_stream(part):
            given = list(part.predict_batches([value]))
            if len(given) != 1:
                msg = f"stage {name!r} gave {len(given)} things for one input; a trace follows one through them all."
                raise CompositionError(msg, stage=name, given=len(given))
            value = given[0]
        else:
            moved = value.to(device) if device is not None and is_batch(value) else value
            value = cast("Any", part)(moved)
        steps.append(_seen(name, value))
    return Inspection(steps, value)


def _seen(stage: str, value: object) -> Seen:
    if isinstance(value, Example):
        return attrs.evolve(_seen(stage, cast("Example[object]", value).input), type="Example")
    if isinstance(value, list):
        rows = cast("list[object]", value)
        inside = _seen(stage, rows[0]) if len(rows) == 1 else Seen(stage, "things", "", _cut(repr(rows)))
        return attrs.evolve(inside, type=f"list of {len(rows)} {inside.type}")
    if isinstance(value, str):
        return Seen(stage, "str", f"{len(value)} characters", _cut(repr(value)))
    return _seen_tensors(stage, value)


def _seen_tensors(stage: str, value: object) -> Seen:
    if is_row(value):
        kind, values = type(value.sequence), values_of(value.sequence)
        return Seen(stage, f"Row[{kind.__name__}]", _axes(kind, values), _first(values))
    if isinstance(value, States):
        steps = value.steps.values
        return Seen(stage, "States", _axes(type(value.steps), steps).replace("feature", "hidden"), _first(steps))
    held: object = getattr(value, "values", value)
    if isinstance(held, Tensor):
        kind_name = f"[{value.kind.__name__}]" if is_batch(value) else ""
        return Seen(stage, type(value).__name__ + kind_name, _axes(type(value), held), _first(held))
    return Seen(stage, type(value).__name__, "", _cut(repr(value)))


def _axes(owner: type, tensor: Tensor) -> str:
    """Each axis by the name that its class's annotation gives it: `batch=1 time=5`."""
    annotation: object = attrs.fields_dict(owner)["values"].type if attrs.has(owner) else None
    names = str(getattr(annotation, "dim_str", "")).replace("*", "").split()
    names += ["axis"] * (tensor.ndim - len(names))
    return " ".join(f"{name}={size}" for name, size in zip(names, tensor.shape, strict=False))


def _first(tensor: Tensor) -> str:
    flat = tensor.detach().flatten()[:6].cpu()
    shown = [f"{number:.2f}" if isinstance(number, float) else str(number) for number in _numbers(flat)]
    return " ".join(shown) + (" ..." if tensor.numel() > len(shown) else "")


def _cut(text: str, width: int = 40) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
