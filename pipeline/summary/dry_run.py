"""A walk along a pipe without data: stages with weights run on shapes alone, the others say what they give."""

import re
from collections.abc import Sequence
from typing import Any, Final, get_origin

import attrs
import torch

from pipeline.core.stage import TypePreserving
from pipeline.data.batches import Packed, Padded
from pipeline.data.states import States
from pipeline.errors import CompositionError, PipelineError, ShapeError
from pipeline.parts.capabilities import Layout
from pipeline.summary.entries import Stop, allowed, brief
from pipeline.summary.shapes import sample
from pipeline.summary.types import Look, fits, look, named
from pipeline.summary.work import counting, multiply_adds

_NOTHING: Final = object()


@attrs.frozen(eq=False)
class Step:
    """What became of a sample at one stage.

    Attributes:
        hint: the type of what goes out.
        gave: what it gave; None if it was not run, or failed.
        layout: how the rows lay that came in, where that is known.
        began: the sample, if one began here.
        total: its multiply-adds; None if it was not run, or failed.
        unknown: why it could not be run without data; empty if it could.
        problem: why it would not run with data either; None if it may.
    """

    hint: object
    gave: Look | None = None
    layout: Layout | None = None
    began: Look | None = None
    total: int | None = None
    unknown: str = ""
    problem: PipelineError | None = None


def walked(stops: Sequence[Stop], rows: int, time: int, dtype: torch.dtype) -> Sequence[Step]:
    """What becomes of a batch of `rows` rows, each `time` steps long, stage by stage.

    A stage that cannot be run is passed by: the next one is begun with a sample of what it takes.
    """
    walk = _Walk(rows, time, dtype)
    return [walk.step(stops[index:]) for index in range(len(stops))]


class _Walk:
    """Where a walk stands: what has come so far, or its type alone."""

    def __init__(self, rows: int, time: int, dtype: torch.dtype) -> None:
        self.rows = rows
        self.time = time
        self.dtype = dtype
        self.value: object = _NOTHING
        self.hint: object = Any
        self.firm = False
        """Whether the size of what has come was worked out, not guessed from what stages behind read."""

    def step(self, stops: Sequence[Stop]) -> Step:
        """Take the first of the stops that are left."""
        stop, began = stops[0], None
        if stop.twin is not None and self.value is _NOTHING:
            began = self._begun(stop, [self.hint])
        problem = stop.problem or self._misfit(stop)
        if problem is None and stop.twin is not None and self.value is _NOTHING:
            began = self._begun(stop, allowed(stops))
        layout = _layout(self.hint if self.value is _NOTHING else self.value)
        step = Step(self._passed(stop), layout=layout, began=began, problem=problem)
        if problem is not None or stop.twin is None or self.value is _NOTHING:
            self.value = _NOTHING
            step = attrs.evolve(step, unknown=_why_not(stop), problem=problem or _waiting(stop))
        else:
            step = self._run(stop, step)
        self.hint = step.hint
        self.firm = self.firm or not stop.passes
        return step

    def _misfit(self, stop: Stop) -> PipelineError | None:
        # A stage that runs refuses what it cannot take itself, and says more.
        runs = stop.twin is not None and self.value is not _NOTHING
        if runs or fits(self.hint, stop.takes):
            return None
        msg = (
            f"{type(stop.part).__name__} takes {named(stop.takes)}, but {named(self.hint)} comes in; "
            "join it behind a stage that gives what it takes."
        )
        return ShapeError(msg, stage=type(stop.part).__name__)

    def _begun(self, stop: Stop, hints: Sequence[object]) -> Look | None:
        """Begin a sample at a stop, of the first of some types that can be made, if its size is known."""
        for hint in hints:
            made = sample(hint, stop.size, rows=self.rows, time=self.time, dtype=self.dtype)
            if made is not None:
                self.value = made
                self.firm = stop.before.size is not None
                return look(made, hint)
        return None

    def _run(self, stop: Stop, step: Step) -> Step:
        assert stop.twin is not None
        with counting() as counter:
            try:
                self.value = stop.twin(self.value)
                gave = look(self.value, stop.gives)
            except Exception as error:  # noqa: BLE001 - a stranger's stage may raise anything
                self.value = _NOTHING
                if _is_blind(error) or not (self.firm or isinstance(error, PipelineError)):
                    return attrs.evolve(step, unknown=brief(error))
                return attrs.evolve(step, problem=_explained(error))
        return attrs.evolve(step, gave=gave, total=multiply_adds(counter))

    def _passed(self, stop: Stop) -> object:
        """The type of what a stage gives: what keeps its type gives what came in."""
        return self.hint if isinstance(stop.part, TypePreserving) and self.hint is not Any else stop.gives


def _why_not(stop: Stop) -> str:
    if stop.twin is None:
        return stop.unknown
    return "" if stop.is_lazy else "nothing says what comes in"


def _waiting(stop: Stop) -> PipelineError | None:
    if not stop.is_lazy:
        return None
    name = type(stop.part).__name__
    return CompositionError(
        f"{name} does not know its input size yet; join it behind the stage that feeds it, or say it: input_size=..."
    )


def _is_blind(error: Exception) -> bool:
    """Whether an error comes of there being no data: values read, or tensors of another device made."""
    if isinstance(error, PipelineError):
        strange = "on meta" in str(error) and "on cpu" in str(error)
        return strange or not isinstance(error, ShapeError | CompositionError)
    return isinstance(error, NotImplementedError) or re.search(r"\bmeta\b", str(error)) is not None


def _explained(error: Exception) -> PipelineError:
    """The error as a run would raise it; what torch or a stranger raised is told in one of ours."""
    if isinstance(error, PipelineError):
        error.args = (str(error).replace(" on meta", ""), *error.args[1:])
        return error
    told = CompositionError(f"it cannot take what comes in: {brief(error)}")
    told.__cause__ = error
    return told


def _layout(coming: object) -> Layout | None:
    """How rows lie in a value, or in one of a type."""
    held: object = coming.steps if isinstance(coming, States) else coming
    holder = get_origin(held) or type(held)
    return "packed" if holder is Packed else "padded" if holder is Padded else None
