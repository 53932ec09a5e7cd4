"""Run values through the stages of a chain; errors name the stage, and the file and line of the row."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, Final, TypeAlias, TypeVar, cast

import torch
from torch import nn

from pipeline.core.border import explain_error, make_stop_error
from pipeline.core.row_counts import RowCounter, check_rows_kept, count_values
from pipeline.data.batches import is_batch
from pipeline.errors import CompositionError, PipelineError

A = TypeVar("A")
NumberedStage: TypeAlias = tuple[int, Any]
"""A stage's position in its chain, from 1, and the stage."""


class Observer:
    """Sees what flows through a chain of stages in prediction. Its methods do nothing by default."""

    def see_input(self, row_id: int, value: object) -> None:
        """See an input, without its target, before the first stage."""

    def see_row(self, row: object) -> None:
        """See an output of the input stages, before the first stream."""

    def see_output(self, number: int, stage: object, value: object, output: object) -> None:
        """See the input and the output of a stage that takes one value at a time.

        Args:
            number: the position of the stage in its chain, from 1.
            stage: the stage.
            value: its input.
            output: its output.
        """


def show_inputs(values: Iterable[A], observer: Observer) -> Iterator[A]:
    """Yield inputs, after the observer has seen each."""
    for row_id, value in enumerate(values):
        observer.see_input(row_id, value)
        yield value


def show_rows(rows: Iterable[A], observer: Observer) -> Iterator[A]:
    """Yield rows, after the observer has seen each."""
    for row in rows:
        observer.see_row(row)
        yield row


def read_inputs(values: Iterable[A]) -> Iterator[A]:
    """Yield the inputs. An error of the input itself gets a note with the record, and names no stage."""
    record = 0
    try:
        for value in values:
            yield value
            record += 1
    except Exception as error:
        error.add_note(f"{_INPUT_NOTE}record {record}.")
        raise


def run_stages(
    stages: Iterable[NumberedStage],
    value: Any,  # noqa: ANN401 - the types were checked when the stages were joined
    device: torch.device | None = None,
    *,
    predicts: bool = False,
    observer: Observer | None = None,
) -> Any:  # noqa: ANN401
    """Run one value through stages. An error names the stage. With a device, batches are moved to it for modules."""
    if torch.compiler.is_compiling():
        for _, stage in stages:
            value = stage(value)
        return value
    for number, stage in stages:
        if device is not None and isinstance(stage, nn.Module) and is_batch(value) and value.values.device != device:
            value = value.to(device)
        try:
            before, value = value, stage(value)
            # A list of rows in, a batch or a list out. Two batches are compared around the stage itself.
            if predicts and isinstance(before, list):
                check_rows_kept(type(stage).__name__, cast("object", before), value)
            if observer is not None:
                observer.see_output(number, stage, cast("object", before), value)
        except Exception as error:
            # The border does this too, but not for a `forward` from a class that is not a stage.
            named = make_stop_error(type(stage).__name__) if isinstance(error, StopIteration) else error
            _name_stage(named, number, stage)
            if named is not error:
                raise named from error
            raise
    return value


@contextmanager
def naming_stage(number: int, stage: object) -> Generator[None]:
    """Name a stage in the errors that are raised while it runs in a way of its own.

    Raises:
        StageError: if it raised StopIteration.
    """
    try:
        yield
    except Exception as error:
        named = explain_error(error, stage) or error
        _name_stage(named, number, stage)
        if named is not error:
            raise named from error
        raise


def map_stages(
    stages: Sequence[NumberedStage],
    values: Iterable[Any],
    device: torch.device | None,
    *,
    predicts: bool,
    observer: Observer | None = None,
) -> Iterator[Any]:
    """Run values through stages, lazily."""
    for value in values:
        yield run_stages(stages, value, device, predicts=predicts, observer=observer)


def map_together(numbered: NumberedStage, values: Iterable[Any]) -> Iterator[Any]:
    """Map a stage with an implementation of its own for several values. An error names the stage.

    Raises:
        CompositionError: if it does not yield one output per input.
    """
    (number, stage), given, returned = numbered, count(), count()
    yield from count_values(_run_named(stage.map(count_values(iter(values), given)), number, stage), returned)
    expected, found = next(given), next(returned)
    if expected != found:
        name = type(stage).__name__
        msg = (
            f"stage {number} `{name}`: it returned {found} outputs for {expected} inputs; {name}.map must yield one "
            "output per input."
        )
        raise CompositionError(msg, stage_number=number, inputs=expected, outputs=found)


def run_stream(numbered: NumberedStage, values: Iterable[Any], *, predicts: bool) -> Iterator[Any]:
    """Run a stream. An error names the stage.

    Raises:
        CompositionError: if it loses or doubles rows in prediction.
    """
    number, stage = numbered
    if not predicts:
        return _run_named(stage(values), number, stage)
    rows = RowCounter()
    return rows.check(_run_named(stage.predict_batches(rows.count(values)), number, stage), number, stage)


def _run_named(outputs: Iterable[A], number: int, stage: object) -> Iterator[A]:
    """Yield the outputs of a stage. An error on the way names the stage."""
    try:
        yield from outputs
    except Exception as error:
        if _has_note(error, _INPUT_NOTE):
            raise
        # Python's own error for a StopIteration inside a generator.
        is_stop = type(error) is RuntimeError and isinstance(error.__cause__, StopIteration)
        named = make_stop_error(type(stage).__name__) if is_stop else error
        # A `map` of the stage's own has no border.
        explain_error(named, stage)
        _name_stage(named, number, stage)
        if is_stop:
            raise named from error.__cause__
        raise


def _name_stage(error: Exception, number: int, stage: object) -> None:
    """Name the stage that raised an error, unless an earlier stage was named already.

    Errors of this library get a prefix; others a note, since programs may read their message.
    """
    name = f"{number} `{type(stage).__name__}`"
    if isinstance(error, PipelineError):
        if "stage_number" not in error.details:
            error.args = (f"stage {name}: {error}", *error.args[1:])
            error.details = {**error.details, "stage_number": number}
    elif not _has_note(error, _STAGE_NOTE):
        error.add_note(f"{_STAGE_NOTE}{name}.")


_STAGE_NOTE: Final = "It was raised in stage "
_INPUT_NOTE: Final = "It was raised by the input, at "


def _has_note(error: Exception, start: str) -> bool:
    return any(note.startswith(start) for note in getattr(error, "__notes__", ()))


def locate_errors(outputs: Iterator[A], inputs: object) -> Iterator[A]:
    """Yield outputs. An error that names a row names its file and line too, if the inputs are a source that knows."""
    where: Callable[[int], str] | None = getattr(inputs, "where", None)
    return outputs if where is None else _add_location(outputs, where)


def _add_location(outputs: Iterator[A], where: Callable[[int], str]) -> Iterator[A]:
    try:
        yield from outputs
    except PipelineError as error:
        row = error.details.get("row")
        if isinstance(row, int) and row >= 0 and "where" not in error.details and f"row {row}" in str(error):
            # A source that cannot tell must not hide the error.
            with suppress(Exception):
                place = where(row)
                error.args = (f"{error} Row {row} is {place}.", *error.args[1:])
                error.details = {**error.details, "where": place}
        raise
