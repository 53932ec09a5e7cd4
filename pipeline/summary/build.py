"""What can be said of a pipe without data: the whole walk, put into one overview."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Union

import attrs
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pipeline.checks.switches import set_checks, set_padding_check
from pipeline.core.stage import StageBase
from pipeline.errors import PipelineError
from pipeline.parts.capabilities import Layout
from pipeline.parts.encoder import Encoder
from pipeline.summary.dry_run import Step, walked
from pipeline.summary.entries import Stop, allowed, modules, prepared
from pipeline.summary.shapes import unmarked
from pipeline.summary.summary import Entry, Summary
from pipeline.summary.types import Flowing, axes_of, causal, merged, named
from pipeline.summary.work import Count, Work, work_of

_SAMPLES: Final = ((2, 16), (3, 4), (2, 6), (2, 8))
"""Rows and steps of the batches that are sent through; the first is the widest, since a convolution needs room."""


def survey(parts: Mapping[str, StageBase]) -> Summary:
    """What can be said of the stages of a pipe without data.

    Each stage with weights runs as a copy without content, in evaluation mode; the others are asked for their types.
    Nothing of theirs is changed, no weight is copied, no hook of the user's called, no random number drawn.
    """
    with unmarked(), torch.no_grad(), set_checks(True), set_padding_check(False):
        stops = prepared(parts)
        floats = (p.dtype for module in modules(stops) for p in module.parameters() if p.is_floating_point())
        dtype = next(floats, torch.get_default_dtype())
        walks = [walked(stops, rows, time, dtype) for rows, time in _SAMPLES]
    takes = _input(stops, walks)
    entries: list[Entry] = []
    counted: dict[int, str] = {}
    for (name, stop), *steps in zip(zip(parts, stops, strict=True), *walks, strict=True):
        following = stops[stop.number :]
        entry = _entry(name, stop, entries[-1].gives if entries else takes, steps, following)
        entries.append(_weighed(entry, stop.part, counted))
    found = ((step.problem, stop.number) for stop, step in zip(stops, walks[0], strict=True))
    problem = next((_placed(error, stops[:number]) for error, number in found if error is not None), None)
    return Summary(takes, entries, problem)


def _input(stops: Sequence[Stop], walks: Sequence[Sequence[Step]]) -> Flowing:
    began = [walk[0].began for walk in walks[:2]]
    if began[0] is not None:
        return merged(began[0], began[1], _words())
    hints = allowed(stops)
    shape = axes_of(hints[0], _sizes(stops[0].size)) if len(hints) == 1 else ""
    return Flowing(named(Union[tuple(hints)]), shape)  # noqa: UP007 - of as many as there are


def _sizes(size: int | None, part: StageBase | None = None) -> Mapping[str, int]:
    """What is known of the axes of something that was not made: its size, and the classes that a head says."""
    known: dict[str, object] = {"feature": size, "hidden": size, "classes": getattr(part, "classes", None)}
    return {name: number for name, number in known.items() if isinstance(number, int)}


def _words() -> Mapping[int, str]:
    """The names of the sizes of the first sample, for axes that no annotation names."""
    rows, time = _SAMPLES[0]
    return {rows: "batch", time: "time", rows * time: "steps"}


def _entry(name: str, stop: Stop, takes: Flowing, steps: Sequence[Step], following: Sequence[Stop]) -> Entry:
    first, second = steps[:2]
    if first.gave is not None:
        gives = merged(first.gave, second.gave, _words())
    else:
        size = following[0].size if following else stop.after.size
        gives = Flowing(named(first.hint), axes_of(first.hint, _sizes(size, stop.part)))
    return Entry(
        place=stop.number,
        stage=name,
        part=str(getattr(stop.part, "part_name", "")),
        takes=takes,
        gives=causal(gives, stop.after.causal, stop.gives),
        parameters=0,
        frozen=0,
        work=_work(stop, steps),
        notes=list(_notes(stop, first)),
    )


def _work(stop: Stop, steps: Sequence[Step]) -> Work | None:
    if not isinstance(stop.part, nn.Module):
        return Work()
    pairs = zip(_SAMPLES, steps, strict=True)
    counts = [Count(rows, time, step.total) for (rows, time), step in pairs if step.total is not None]
    return work_of(counts) if len(counts) == len(steps) else None


def _notes(stop: Stop, step: Step) -> Iterator[str]:
    """What a stage does beside, by what it and its part declare; and what is not known of it."""
    children = list(stop.part.children()) if isinstance(stop.part, nn.Module) else []
    for part in (stop.part, *children):
        yield from _declared(part, step.layout)
    if stop.is_lazy:
        yield "waits for its input size"
    if step.unknown:
        yield f"not known without data: {step.unknown}"


def _declared(part: object, came: Layout | None) -> Iterator[str]:
    try:
        layouts: object = getattr(part, "layouts", None)
        sees: object = getattr(part, "causal", None)
        both: object = getattr(part, "bidirectional", None)
        exportable: object = getattr(part, "exportable", None)
    except Exception:  # noqa: BLE001 - a stranger's property may raise anything
        return
    if isinstance(layouts, tuple) and came is not None and came not in layouts:
        yield "packs what comes in" if came == "padded" else "unpacks what comes in"
    if isinstance(part, Encoder):
        yield "causal" if sees is True else "both ways" if both is True else "sees the whole row"
    if exportable is False:
        yield "not exportable"


def _weighed(entry: Entry, part: StageBase, counted: dict[int, str]) -> Entry:
    """The entry with its weights counted, but for those that stages before it have."""
    if not isinstance(part, nn.Module):
        return entry
    parameters, frozen, notes = 0, 0, list(entry.notes)
    for name, weight in part.named_parameters():
        if id(weight) in counted:
            notes.append(f"{name} is tied to {counted[id(weight)]}, and counted there")
        elif is_lazy(weight):
            notes.append(f"{name} waits for its size")
        else:
            parameters += weight.numel()
            frozen += 0 if weight.requires_grad else weight.numel()
        counted.setdefault(id(weight), f"{entry.stage}.{name}")
    return attrs.evolve(entry, parameters=parameters, frozen=frozen, notes=notes)


def _placed(error: PipelineError, stops: Sequence[Stop]) -> PipelineError:
    """The error with both stages and their places, and with a hint where the one before leaves its size open."""
    *before, stop = stops
    at = f"stage {stop.number} `{type(stop.part).__name__}`"
    if not before:
        error.args = (f"{at}: {error}", *error.args[1:])
    else:
        previous = type(before[-1].part).__name__
        silent = next((type(other.part).__name__ for other in reversed(before) if other.open), "")
        hint = f" {silent} leaves open what size it gives: override its `build`." if silent and stop.is_lazy else ""
        error.args = (f"between stage {before[-1].number} `{previous}` and {at}: {error}{hint}", *error.args[1:])
    error.details = {**error.details, "stage_number": stop.number}
    return error
