"""Run a pipe without data: stages with weights run on shapes alone; of the others only the annotated types are used.

`prepare_stages` copies every stage to the `meta` device and builds the chain of copies, so that sizes are known.
`run_stages` then sends a sample batch through the copies.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, cast, get_origin

import attrs
import torch
from torch import nn

from pipeline.core.stage import Spec, StageBase, TypePreserving
from pipeline.core.suggestions import suggest_fix
from pipeline.data.batches import Layout, Packed, Padded
from pipeline.data.states import States
from pipeline.errors import CompositionError, PipelineError, ShapeError
from pipeline.summary.meta import copy_to_meta
from pipeline.summary.samples import make_sample
from pipeline.summary.sizes import copy_for_build, find_field_sizes, get_declared_size, passes_size
from pipeline.summary.types import Observed, format_type, get_types, list_alternatives, may_fit, observe, pick_narrower
from pipeline.summary.work import count_operations, get_multiply_adds
from pipeline.text import format_error

# The longest message of an error in a table.
_MESSAGE_LENGTH: Final = 120

# The value while only its type is known. None would not do: a stage may return it.
_NOTHING: Final = object()


@attrs.frozen(eq=False)
class PreparedStage:
    """A stage of a pipe, its copy without content, and its input and output as far as they are known without data.

    Attributes:
        number: its position in the pipe, from 1.
        part: the stage itself, which is never run.
        copy: a copy on the `meta` device, which is run; None if it is no module, or cannot be copied.
        input_type: the annotated type of its input.
        output_type: the annotated type of its output.
        input_spec: the spec of its input, computed from the stages before it.
        output_spec: the spec of its output, from its method `build`.
        passes_size: whether its output has the size of its input.
        declared_size: its input size, as this stage or one after it declares; None if none of them does.
        field_sizes: of rows with fields, the size of each field that this stage or one after it reads; None if it does
            not say.
        unknown_reason: why it cannot be copied; empty if it can, or if it is no module.
        problem: why it does not fit the stage before it; None if it may.
    """

    number: int
    part: StageBase
    copy: nn.Module | None
    input_type: object
    output_type: object
    input_spec: Spec
    output_spec: Spec
    passes_size: bool
    declared_size: int | None = None
    field_sizes: Mapping[str, int | None] = {}
    unknown_reason: str = ""
    problem: PipelineError | None = None

    @property
    def name(self) -> str:
        """The name of its class."""
        return type(self.part).__name__

    @property
    def input_size(self) -> int | None:
        """The size of its input; None if it is not known."""
        return self.declared_size if self.input_spec.size is None else self.input_spec.size

    @property
    def is_lazy(self) -> bool:
        """True if its part is not made yet, because its input size is not known."""
        return getattr(self.part, "is_lazy", False) is True

    @property
    def hides_size(self) -> bool:
        """True if its output size is unknown because it does not override `build`."""
        return self.output_spec.size is None and type(self.part).build is StageBase.build


@attrs.frozen(eq=False)
class StageRun:
    """The result of sending a sample through one stage.

    Attributes:
        output_type: the annotated type of the output.
        output: the output itself; None if the stage was not run, or failed.
        layout: the layout of the input, if it is known.
        sample: the input, if it was made for this stage instead of by the stage before it.
        multiply_adds: None if the stage was not run, or failed.
        unknown_reason: why it could not be run without data; empty if it could.
        problem: why it would not run with data either; None if it may.
    """

    output_type: object
    output: Observed | None = None
    layout: Layout | None = None
    sample: Observed | None = None
    multiply_adds: int | None = None
    unknown_reason: str = ""
    problem: PipelineError | None = None


def prepare_stages(parts: Mapping[str, StageBase]) -> Sequence[PreparedStage]:
    """Prepare every stage for a dry run. The stages are not changed, and their weights are not copied."""
    memo: dict[int, Any] = {}
    prepared: list[PreparedStage] = []
    spec = Spec()
    for number, part in enumerate(parts.values(), start=1):
        copied, unknown = _try_copy(part, memo)
        takes, gives = get_types(part)
        before, spec, problem = spec, Spec(), None
        try:
            # `build` may create weights. So it is called on the copy that is run, or on a shallow copy of a data stage.
            spec = copy_for_build(part, copied).build(before)
        except CompositionError as error:
            problem = error
        except Exception:  # noqa: BLE001 - a plugin's `build` may raise anything; then nothing is known
            spec = Spec()
        # Sizes are followed backwards too: a pipe that begins with Dropout gets its size from the stage after it.
        passes = passes_size(part, copied)
        prepared.append(
            PreparedStage(
                number, part, copied, takes, gives, before, spec, passes, unknown_reason=unknown, problem=problem
            )
        )
    return [
        attrs.evolve(
            stage,
            declared_size=_find_declared_size(prepared[index:]),
            field_sizes=find_field_sizes(_get_copies(prepared[index:])),
        )
        for index, stage in enumerate(prepared)
    ]


def _get_copies(stages: Sequence[PreparedStage]) -> Iterator[StageBase]:
    return (stage.part if stage.copy is None else cast("StageBase", stage.copy) for stage in stages)


def list_input_types(stages: Sequence[PreparedStage]) -> Sequence[object]:
    """Return the types that the first stage may take; a type-preserving one takes only what the next one takes."""
    hints = list_alternatives(stages[0].input_type)
    for before, stage in pairwise(stages):
        if not isinstance(before.part, TypePreserving):
            break
        others = list_alternatives(stage.input_type)
        pairs = (pick_narrower(one, other) for one in hints for other in others)
        hints = [narrower for narrower in pairs if narrower is not None] or hints
    return hints


def get_modules(stages: Sequence[PreparedStage]) -> Iterator[nn.Module]:
    """Yield the stages that are modules."""
    return (stage.part for stage in stages if isinstance(stage.part, nn.Module))


def run_stages(stages: Sequence[PreparedStage], rows: int, time: int, dtype: torch.dtype) -> Sequence[StageRun]:
    """Send a batch of `rows` rows of `time` steps each through every stage.

    A stage that cannot be run is skipped: the next one starts from a new sample of its own input type.
    """
    runner = _Runner(rows, time, dtype)
    return [runner.run(stages[index:]) for index in range(len(stages))]


class _Runner:
    """The state of a dry run between two stages: the value and its type, or the type alone if no value is known."""

    def __init__(self, rows: int, time: int, dtype: torch.dtype) -> None:
        self.rows = rows
        self.time = time
        self.dtype = dtype
        self.value: object = _NOTHING
        self.hint: object = Any
        # True if the value's size follows from earlier stages, not from a guess at the size that later stages read.
        # After a guess, an error of a stage proves nothing.
        self.size_is_certain = False

    def run(self, stages: Sequence[PreparedStage]) -> StageRun:
        """Run the first of the remaining stages."""
        stage, sample = stages[0], None
        # A sample is made first from the output type of the stage before, then from the input types of this stage.
        if stage.copy is not None and self.value is _NOTHING:
            sample = self._start(stage, [self.hint])
        problem = stage.problem or self._find_misfit(stage)
        if problem is None and stage.copy is not None and self.value is _NOTHING:
            sample = self._start(stage, list_input_types(stages))
        layout = _get_layout(self.hint if self.value is _NOTHING else self.value)
        run = StageRun(self._get_output_type(stage), layout=layout, sample=sample, problem=problem)
        if problem is not None or stage.copy is None or self.value is _NOTHING:
            self.value = _NOTHING
            run = attrs.evolve(run, unknown_reason=_explain_skip(stage), problem=problem or _find_missing_size(stage))
        else:
            run = self._call(stage, run)
        self.hint = run.output_type
        self.size_is_certain = self.size_is_certain or not stage.passes_size
        return run

    def _find_misfit(self, stage: PreparedStage) -> PipelineError | None:
        # A stage that is run checks its input itself, and its error says more.
        is_run = stage.copy is not None and self.value is not _NOTHING
        if is_run or may_fit(self.hint, stage.input_type):
            return None
        fix = suggest_fix(self.hint, stage.input_type, type(stage.part).__name__, "before it")
        takes, gives = format_type(stage.input_type), format_type(self.hint)
        msg = f"the input of {stage.name} must be {takes}, got {gives}; {fix}."
        return ShapeError(msg, stage=stage.name)

    def _start(self, stage: PreparedStage, hints: Sequence[object]) -> Observed | None:
        """Make a sample of the first of some types that can be made, if its size is known."""
        for hint in hints:
            made = make_sample(
                hint,
                stage.input_size,
                rows=self.rows,
                time=self.time,
                dtype=self.dtype,
                field_sizes=stage.field_sizes,
            )
            if made is not None:
                self.value = made
                self.size_is_certain = stage.input_spec.size is not None
                return observe(made, hint)
        return None

    def _call(self, stage: PreparedStage, run: StageRun) -> StageRun:
        assert stage.copy is not None
        with count_operations() as counter:
            try:
                self.value = stage.copy(self.value)
                output = observe(self.value, stage.output_type)
            except Exception as error:  # noqa: BLE001 - a plugin's stage may raise anything
                self.value = _NOTHING
                if _needs_data(error) or not (self.size_is_certain or isinstance(error, PipelineError)):
                    return attrs.evolve(run, unknown_reason=format_error(error, _MESSAGE_LENGTH))
                return attrs.evolve(run, problem=_convert_error(error))
        return attrs.evolve(run, output=output, multiply_adds=get_multiply_adds(counter))

    def _get_output_type(self, stage: PreparedStage) -> object:
        is_preserved = isinstance(stage.part, TypePreserving) and self.hint is not Any
        return self.hint if is_preserved else stage.output_type


def _try_copy(part: StageBase, memo: dict[int, Any]) -> tuple[nn.Module | None, str]:
    if not isinstance(part, nn.Module):
        return None, ""
    try:
        return copy_to_meta(part, memo), ""
    except Exception as error:  # noqa: BLE001 - a plugin's module may hold what cannot be copied
        return None, f"cannot be copied: {format_error(error, _MESSAGE_LENGTH)}"


def _find_declared_size(stages: Sequence[PreparedStage]) -> int | None:
    """Return the first declared size, if all stages before it pass sizes on."""
    for stage in stages:
        size = get_declared_size(stage.part)
        if size is not None:
            return size
        if stage.is_lazy or not stage.passes_size:
            return None
    return None


def _explain_skip(stage: PreparedStage) -> str:
    if stage.copy is None:
        return stage.unknown_reason
    return "" if stage.is_lazy else "the type or size of its input is not known"


def _find_missing_size(stage: PreparedStage) -> PipelineError | None:
    if not stage.is_lazy:
        return None
    return CompositionError(
        f"{stage.name} does not know its input size yet; join it after the stage that feeds it, or pass input_size=..."
    )


def _needs_data(error: Exception) -> bool:
    """Return whether an error only arises because there is no data: values are read, or tensors made on a device."""
    if isinstance(error, PipelineError):
        # A stage that makes a tensor without a device makes it on the CPU, next to the sample on the meta device.
        mixes_devices = "on meta" in str(error) and "on cpu" in str(error)
        return mixes_devices or not isinstance(error, ShapeError | CompositionError)
    return isinstance(error, NotImplementedError) or re.search(r"\bmeta\b", str(error)) is not None


def _convert_error(error: Exception) -> PipelineError:
    """Return the error that a run with data would raise; other errors are wrapped in a `CompositionError`."""
    if isinstance(error, PipelineError):
        error.args = (str(error).replace(" on meta", ""), *error.args[1:])
        return error
    converted = CompositionError(f"it cannot take its input: {format_error(error, _MESSAGE_LENGTH)}")
    converted.__cause__ = error
    return converted


def _get_layout(value: object) -> Layout | None:
    """Return the layout of a value, or of a type."""
    held: object = value.steps if isinstance(value, States) else value
    holder = get_origin(held) or type(held)
    return "packed" if holder is Packed else "padded" if holder is Padded else None
