"""Run a pipe over inputs, and put what its batches give back into the order of the inputs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from typing import Any, Protocol, TypeVar, cast

from pipeline.core.contexts import evaluating
from pipeline.core.row_counts import count_values, number_rows
from pipeline.core.running import Observer, locate_errors, show_inputs
from pipeline.core.stream_chain import StreamChain
from pipeline.data.iteration import iterate
from pipeline.data.rows import reject_single_text
from pipeline.errors import CompositionError

C = TypeVar("C")
R = TypeVar("R")
C_co = TypeVar("C_co", covariant=True)


class Run(Protocol[C_co]):
    """Runs the stages of a pipe over numbered inputs, lazily, and shows an observer what flows through them."""

    def __call__(self, values: Iterable[object], observer: Observer | None = None) -> Iterator[C_co]:
        """Yield the batches that leave the last stage."""
        ...


def run_in_order(
    pipe: StreamChain[Any, Any],
    run: Run[C],
    inputs: Iterable[object],
    unpack: Callable[[C], Iterable[tuple[int, R]]],
    observer: Observer | None = None,
) -> Iterator[R]:
    """Yield one result per input, in the order of the inputs, lazily, in evaluation mode and without gradients.

    Args:
        pipe: the pipe, whose mode is restored after each batch.
        run: runs its stages.
        inputs: the inputs.
        unpack: returns the row ids and results of a batch.
        observer: sees what flows through the stages.

    Raises:
        TextError: if `inputs` is one text.
        CompositionError: if a stage lost a row or returned one twice.
    """
    reject_single_text(inputs)
    number_inputs = count()
    numbered = count_values(number_rows(iterate(inputs)), number_inputs)
    if observer is not None:
        numbered = show_inputs(numbered, observer)
    if isinstance(inputs, list | tuple) and len(cast("Sequence[object]", inputs)) == 1:
        value = next(numbered)
        # One request: the stages are called one after another, without iterators around them.
        with evaluating(pipe):
            alone = cast("C | None", pipe.predict_alone(value, observer))
            predicted = [] if alone is None else list(unpack(alone))
        if len(predicted) == 1 and predicted[0][0] == 0:
            yield predicted[0][1]
            return
        numbered = chain([value], numbered)
    batches = locate_errors(run(numbered, observer), inputs)
    # Batches arrive sorted by length. A result waits until all rows before it are done.
    waiting: dict[int, R] = {}
    due = 0
    while True:
        # Not around the loop: between two results the caller must find the model in its own mode.
        with evaluating(pipe):
            batch = next(batches, None)
            found = () if batch is None else unpack(batch)
        if batch is None:
            break
        for row_id, result in found:
            if row_id < due or row_id in waiting:
                msg = f"row {row_id} was predicted twice; each row must keep the row id of its input."
                raise CompositionError(msg, place=row_id)
            waiting[row_id] = result
        while due in waiting:
            yield waiting.pop(due)
            due += 1
    total = next(number_inputs)
    if due < total:
        msg = f"row {due} of {total} was not predicted; a stage of {pipe!r} lost it."
        raise CompositionError(msg, place=due)
