"""Build the summary of a pipe, without data, from a dry run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Union

import attrs
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pipeline.checks.switches import set_checks, set_padding_check
from pipeline.core.stage import StageBase
from pipeline.data.batches import Layout
from pipeline.errors import PipelineError
from pipeline.parts.encoder import Encoder
from pipeline.stages.each_step import EachStep
from pipeline.summary.dry_run import PreparedStage, StageRun, get_modules, list_input_types, prepare_stages, run_stages
from pipeline.summary.meta import isolate_run
from pipeline.summary.samples import INNER_STEPS
from pipeline.summary.summary import StageEntry, Summary
from pipeline.summary.types import TypeAndShape, combine, format_axes, format_type, mark_causal
from pipeline.summary.work import Count, Work, fit_work

# Rows and steps of the sample batches. Comparing the first two tells sizes that the batch decides from those of the
# model. Work is a polynomial of degree 2 in the length: three lengths determine it, and the fourth shows a misfit. The
# first batch is the widest, since a convolution needs more steps than its kernel has.
_SAMPLES: Final = ((2, 16), (3, 4), (2, 6), (2, 8))


def summarize(parts: Mapping[str, StageBase]) -> Summary:
    """Summarize the stages of a pipe without data.

    A stage with weights is copied to the `meta` device, where tensors have shapes but no values, and the copy is run in
    evaluation mode. Of the other stages only the annotated types are used. The pipe is not changed: no weight is
    copied, no hook of the user is called, and no random number is drawn.
    """
    with isolate_run(), torch.no_grad(), set_checks(True), set_padding_check(False):
        stages = prepare_stages(parts)
        floats = (p.dtype for module in get_modules(stages) for p in module.parameters() if p.is_floating_point())
        dtype = next(floats, torch.get_default_dtype())
        runs = [run_stages(stages, rows, time, dtype) for rows, time in _SAMPLES]
    # Types and shapes come from the first two runs, multiply-adds from all of them.
    first_input = _describe_input(stages, runs)
    entries: list[StageEntry] = []
    counted: dict[int, str] = {}
    for (name, stage), *stage_runs in zip(zip(parts, stages, strict=True), *runs, strict=True):
        input = entries[-1].output if entries else first_input  # noqa: A001 - the field's name
        entry = _make_entry(name, stage, input, stage_runs, stages[stage.number :])
        entries.append(_count_weights(entry, stage.part, counted))
    problems = ((run.problem, stage.number) for stage, run in zip(stages, runs[0], strict=True))
    problem = next((_add_position(error, stages[:number]) for error, number in problems if error is not None), None)
    return Summary(first_input, entries, problem)


def _describe_input(stages: Sequence[PreparedStage], runs: Sequence[Sequence[StageRun]]) -> TypeAndShape:
    first, second = (run[0].sample for run in runs[:2])
    if first is not None:
        return combine(first, second, _name_sizes())
    hints = list_input_types(stages)
    shape = format_axes(hints[0], _get_known_sizes(stages[0].input_size)) if len(hints) == 1 else ""
    return TypeAndShape(format_type(Union[tuple(hints)]), shape)  # noqa: UP007 - a union of a variable number


def _get_known_sizes(size: int | None, part: StageBase | None = None) -> Mapping[str, int]:
    """Return the known sizes of a value that was not computed: its features, and the classes of a head."""
    known: dict[str, object] = {"feature": size, "hidden": size, "classes": getattr(part, "classes", None)}
    return {name: number for name, number in known.items() if isinstance(number, int)}


def _name_sizes() -> Mapping[int, str]:
    """Return the names of the sizes of the first sample, for axes that no annotation names."""
    rows, time = _SAMPLES[0]
    return {rows: "batch", time: "time", rows * time: "steps"}


def _make_entry(
    name: str,
    stage: PreparedStage,
    input: TypeAndShape,  # noqa: A002 - the field's name
    runs: Sequence[StageRun],
    following: Sequence[PreparedStage],
) -> StageEntry:
    first, second = runs[:2]
    if first.output is not None:
        output = combine(first.output, second.output, _name_sizes())
    else:
        # Not run, so its shape is that of its annotation, with the sizes that are known from elsewhere.
        size = following[0].input_size if following else stage.output_spec.size
        shape = format_axes(first.output_type, _get_known_sizes(size, stage.part))
        output = TypeAndShape(format_type(first.output_type), shape)
    return StageEntry(
        number=stage.number,
        stage=name,
        part=str(getattr(stage.part, "part_name", "")),
        input=input,
        output=mark_causal(output, stage.output_spec.causal, stage.output_type),
        parameters=0,
        frozen=0,
        work=_compute_work(stage, runs),
        notes=list(_write_notes(stage, first)),
    )


def _compute_work(stage: PreparedStage, runs: Sequence[StageRun]) -> Work | None:
    if not isinstance(stage.part, nn.Module):
        return Work()
    pairs = zip(_SAMPLES, runs, strict=True)
    counts = [Count(rows, time, run.multiply_adds) for (rows, time), run in pairs if run.multiply_adds is not None]
    return fit_work(counts) if len(counts) == len(runs) else None


def _write_notes(stage: PreparedStage, run: StageRun) -> Iterator[str]:
    """Yield the declared properties of a stage and its part, and the properties that are not known."""
    # The properties of an encoder are attributes of the encoder, which is a child module of its stage.
    children = list(stage.part.children()) if isinstance(stage.part, nn.Module) else []
    for part in (stage.part, *children):
        yield from _note_properties(part, run.layout)
    if run.multiply_adds and isinstance(stage.part, nn.Module) and any(map(_is_nested, stage.part.modules())):
        yield f"counted for {INNER_STEPS} inner steps per step, all distinct"
    if stage.is_lazy:
        yield "waits for its input size"
    if run.unknown_reason:
        yield f"not known without data: {run.unknown_reason}"


def _is_nested(module: nn.Module) -> bool:
    return isinstance(module, EachStep)


def _note_properties(part: object, layout: Layout | None) -> Iterator[str]:
    try:
        layouts: object = getattr(part, "layouts", None)
        is_causal: object = getattr(part, "causal", None)
        is_bidirectional: object = getattr(part, "bidirectional", None)
        is_exportable: object = getattr(part, "exportable", None)
    except Exception:  # noqa: BLE001 - a plugin's property may raise anything
        return
    if isinstance(layouts, tuple) and layout is not None and layout not in layouts:
        yield "packs its input" if layout == "padded" else "unpacks its input"
    if isinstance(part, Encoder):
        yield "causal" if is_causal is True else "bidirectional" if is_bidirectional is True else "not causal"
    if is_exportable is False:
        yield "not exportable"


def _count_weights(entry: StageEntry, part: StageBase, counted: dict[int, str]) -> StageEntry:
    """Return the entry with its weights counted, without those that earlier stages share."""
    if not isinstance(part, nn.Module):
        return entry
    parameters, frozen, notes = 0, 0, list(entry.notes)
    for name, weight in part.named_parameters():
        # By identity: tied weights are one object in several stages.
        if id(weight) in counted:
            notes.append(f"{name} is tied to {counted[id(weight)]}, and counted there")
        elif is_lazy(weight):
            notes.append(f"{name} waits for its size")
        else:
            parameters += weight.numel()
            frozen += 0 if weight.requires_grad else weight.numel()
        counted.setdefault(id(weight), f"{entry.stage}.{name}")
    return attrs.evolve(entry, parameters=parameters, frozen=frozen, notes=notes)


def _add_position(error: PipelineError, stages: Sequence[PreparedStage]) -> PipelineError:
    """Add both stages and their positions to an error, and the stage that does not state its output size, if any."""
    *before, stage = stages
    at = f"stage {stage.number} `{stage.name}`"
    if not before:
        error.args = (f"{at}: {error}", *error.args[1:])
    else:
        hiding = next((other.name for other in reversed(before) if other.hides_size), "")
        hint = f" {hiding} does not state its output size: override its `build`." if hiding and stage.is_lazy else ""
        between = f"between stage {before[-1].number} `{before[-1].name}` and {at}"
        error.args = (f"{between}: {error}{hint}", *error.args[1:])
    error.details = {**error.details, "stage_number": stage.number}
    return error
