"""Predictions in the order of the inputs, with their scores and their places in the inputs on request."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pipeline.core.stream_chain import StreamChain
from pipeline.data.scores import Predictions
from pipeline.inference.in_order import Run, run_in_order
from pipeline.inference.locator import Locator

A = TypeVar("A")
D = TypeVar("D")
R = TypeVar("R")


def predict(pipe: StreamChain[A, Predictions[R, D]], run: Run[Predictions[R, D]], inputs: Iterable[A]) -> Iterator[R]:
    """Yield one prediction per input; see `StreamChain.predict`."""
    return run_in_order(pipe, run, inputs, lambda batch: batch.rows())


def predict_with_scores(
    pipe: StreamChain[A, Predictions[R, D]], run: Run[Predictions[R, D]], inputs: Iterable[A]
) -> Iterator[D]:
    """Yield one prediction with its scores per input; see `StreamChain.predict`."""
    locator = Locator(pipe.stages)

    def unpack(batch: Predictions[R, D]) -> Iterator[tuple[int, D]]:
        for row_id, prediction in batch.scored_rows(locator.locate):
            locator.forget(row_id)
            yield row_id, prediction

    return run_in_order(pipe, run, inputs, unpack, locator)


def score_inputs(pipe: StreamChain[Any, Any], inputs: Iterable[object]) -> Iterator[object]:
    """Yield the prediction of each input with its scores, whatever the pipe predicts."""
    return pipe.predict(inputs, scores=True)
