"""Run a pipe without data: stages with weights run on shapes alone, the others are asked for their types.

`prepare_stages` copies every stage to the `meta` device and builds the chain of copies, so that sizes are known.
`run_stages` then sends a sample batch through the copies.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, cast, get_origin

import attrs
import torch
from torch import nn

from pipeline.core.stage import Spec, StageBase, TypePreserving
from pipeline.data.batches import Layout, Packed, Padded
from pipeline.data.states import States
from pipeline.errors import CompositionError, PipelineError, ShapeError
from pipeline.summary.meta import copy_to_meta, make_sample
from pipeline.summary.types import Observed, format_type, get_types, list_alternatives, may_fit, observe, pick_narrower
from pipeline.summary.work import count_operations, get_multiply_adds
from pipeline.text import format_error

_MESSAGE_LENGTH: Final = 120
"""The longest message of an error that a table shows."""
_PROBE: Final = -1
"""A size that no part has: a stage whose output has it passes sizes on."""

_NOTHING: Final = object()


@attrs.frozen(eq=False)
class PreparedStage:
    """A stage of a pipe, its copy without content, and its input and output as far as they are known without data.

    Attributes:
        number: its position in the pipe, from 1.
        part: the stage itself, which is only looked at.
        copy: a copy on the `meta` device, which is run; None if there is no such copy.
        takes: the type of its input.
        gives: the type of its output.
        before: the spec of its input, from the stages before it.
        after: the spec of its output.
        passes_size: whether its output has the size of its input.
        reads: the size of its input, as this stage or those after it declare; None if they do not.
        unknown: why there is no copy; empty if there is one, or if none is needed.
        problem: why it does not fit the stage before it; None if it may.
    """

    number: int
    part: StageBase
    copy: nn.Module | None
    takes: object
    gives: object
    before: Spec
    after: Spec
    passes_size: bool
    reads: int | None = None
    unknown: str = ""
    problem: PipelineError | None = None

    @property
    def name(self) -> str:
        """The name of its class."""
        return type(self.part).__name__

    @property
    def size(self) -> int | None:
        """The size of its input; None if it is not known."""
        return self.reads if self.before.size is None else self.before.size

    @property
    def is_lazy(self) -> bool:
        """True if its part is not made yet, because its input size is not known."""
        return getattr(self.part, "is_lazy", False) is True

    @property
    def hides_size(self) -> bool:
        """True if its output size is unknown because it does not override `build`."""
        return self.after.size is None and type(self.part).build is StageBase.build


@attrs.frozen(eq=False)
class StageRun:
    """The result of sending a sample through one stage.

    Attributes:
        hint: the type of the output.
        output: the output; None if the stage was not run, or failed.
        layout: the layout of the input, if it is known.
        sample: the sample, if it was made for this stage.
        total: multiply-adds; None if the stage was not run, or failed.
        unknown: why it could not be run without data; empty if it could.
        problem: why it would not run with data either; None if it may.
    """

    hint: object
    output: Observed | None = None
    layout: Layout | None = None
    sample: Observed | None = None
    total: int | None = None
    unknown: str = ""
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
            spec = _get_stand_in(part, copied).build(before)
        except CompositionError as error:
            problem = error
        except Exception:  # noqa: BLE001 - a plugin's `build` may raise anything; then nothing is known
            spec = Spec()
        # Sizes are followed backwards too: a pipe that begins with Dropout gets its size from the stage after it.
        passes = _passes_size(part, copied)
        prepared.append(
            PreparedStage(number, part, copied, takes, gives, before, spec, passes, unknown=unknown, problem=problem)
        )
    return [attrs.evolve(stage, reads=_find_declared_size(prepared[i:])) for i, stage in enumerate(prepared)]


def list_input_types(stages: Sequence[PreparedStage]) -> Sequence[object]:
    """Return the types that the first stage may take; a type-preserving one takes only what the next one takes."""
    hints = list_alternatives(stages[0].takes)
    for before, stage in pairwise(stages):
        if not isinstance(before.part, TypePreserving):
            break
        others = list_alternatives(stage.takes)
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
    """The state of a dry run between two stages: the value, or its type alone."""

    def __init__(self, rows: int, time: int, dtype: torch.dtype) -> None:
        self.rows = rows
        self.time = time
        self.dtype = dtype
        self.value: object = _NOTHING
        self.hint: object = Any
        self.size_is_certain = False
        """True if the value's size follows from the stages before, not from a guess at what later stages read."""

    def run(self, stages: Sequence[PreparedStage]) -> StageRun:
        """Run the first of the remaining stages."""
        stage, sample = stages[0], None
        # First from the type that the stage before promised, then from the types that this stage takes.
        if stage.copy is not None and self.value is _NOTHING:
            sample = self._start(stage, [self.hint])
        problem = stage.problem or self._find_misfit(stage)
        if problem is None and stage.copy is not None and self.value is _NOTHING:
            sample = self._start(stage, list_input_types(stages))
        layout = _get_layout(self.hint if self.value is _NOTHING else self.value)
        run = StageRun(self._get_output_type(stage), layout=layout, sample=sample, problem=problem)
        if problem is not None or stage.copy is None or self.value is _NOTHING:
            self.value = _NOTHING
            run = attrs.evolve(run, unknown=_explain_skip(stage), problem=problem or _find_missing_size(stage))
        else:
            run = self._call(stage, run)
        self.hint = run.hint
        self.size_is_certain = self.size_is_certain or not stage.passes_size
        return run

    def _find_misfit(self, stage: PreparedStage) -> PipelineError | None:
        # A stage that is run checks its input itself, and its error says more.
        is_run = stage.copy is not None and self.value is not _NOTHING
        if is_run or may_fit(self.hint, stage.takes):
            return None
        msg = (
            f"the input of {stage.name} must be {format_type(stage.takes)}, got {format_type(self.hint)}; "
            "join it after a stage that returns this type."
        )
        return ShapeError(msg, stage=stage.name)

    def _start(self, stage: PreparedStage, hints: Sequence[object]) -> Observed | None:
        """Make a sample of the first of some types that can be made, if its size is known."""
        for hint in hints:
            made = make_sample(hint, stage.size, rows=self.rows, time=self.time, dtype=self.dtype)
            if made is not None:
                self.value = made
                self.size_is_certain = stage.before.size is not None
                return observe(made, hint)
        return None

    def _call(self, stage: PreparedStage, run: StageRun) -> StageRun:
        assert stage.copy is not None
        with count_operations() as counter:
            try:
                self.value = stage.copy(self.value)
                output = observe(self.value, stage.gives)
            except Exception as error:  # noqa: BLE001 - a plugin's stage may raise anything
                self.value = _NOTHING
                if _needs_data(error) or not (self.size_is_certain or isinstance(error, PipelineError)):
                    return attrs.evolve(run, unknown=format_error(error, _MESSAGE_LENGTH))
                return attrs.evolve(run, problem=_convert_error(error))
        return attrs.evolve(run, output=output, total=get_multiply_adds(counter))

    def _get_output_type(self, stage: PreparedStage) -> object:
        is_preserved = isinstance(stage.part, TypePreserving) and self.hint is not Any
        return self.hint if is_preserved else stage.gives


def _try_copy(part: StageBase, memo: dict[int, Any]) -> tuple[nn.Module | None, str]:
    if not isinstance(part, nn.Module):
        return None, ""
    try:
        return copy_to_meta(part, memo), ""
    except Exception as error:  # noqa: BLE001 - a plugin's module may hold what cannot be copied
        return None, f"cannot be copied: {format_error(error, _MESSAGE_LENGTH)}"


def _get_stand_in(part: StageBase, copied: nn.Module | None) -> StageBase:
    return copy.copy(part) if copied is None else cast("StageBase", copied)


def _passes_size(part: StageBase, copied: nn.Module | None) -> bool:
    try:
        stand_in = copy.copy(part) if copied is None else cast("StageBase", copy.deepcopy(copied))
        return stand_in.build(Spec(_PROBE)).size == _PROBE
    except Exception:  # noqa: BLE001 - a part may reject the impossible size in any way
        return False


def _find_declared_size(stages: Sequence[PreparedStage]) -> int | None:
    """Return the size that the first stage declares that declares one, if those before it pass sizes on."""
    for stage in stages:
        size = _get_declared_size(stage.part)
        if size is not None:
            return size
        if stage.is_lazy or not stage.passes_size:
            return None
    return None


def _get_declared_size(part: StageBase) -> int | None:
    children = list(part.children()) if isinstance(part, nn.Module) else []
    declared: list[object] = [getattr(part, "input_size", None)]
    declared += [getattr(child, "input_size", getattr(child, "in_features", None)) for child in children]
    sizes = [size for size in declared if isinstance(size, int)]
    # With two, it is not known which one reads the input.
    return sizes[0] if len(sizes) == 1 and sizes[0] > 0 else None


def _explain_skip(stage: PreparedStage) -> str:
    if stage.copy is None:
        return stage.unknown
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
