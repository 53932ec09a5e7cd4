"""Run a pipe over one endless row, step by step."""

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor

from pipeline.checks.hints import describe
from pipeline.core.contexts import evaluating
from pipeline.core.stream_chain import StreamChain
from pipeline.data.kinds import Ids, Kind, Vectors
from pipeline.data.predictions import StepPrediction
from pipeline.data.scores import StepScores
from pipeline.errors import CompositionError, ShapeError, ValuesError
from pipeline.inference.generation.step import StepCarry, run_steps
from pipeline.inference.generation.stepwise_pipe import StepwisePipe
from pipeline.stages.input_stage import FromFeatures

A = TypeVar("A")
N = TypeVar("N")


def step_row(
    pipe: StreamChain[A, StepScores[N]], token: int | Sequence[float] | Tensor | Kind, carry: StepCarry | None
) -> tuple[StepPrediction[N], StepCarry]:
    """Return the prediction of the next step of a row, and the carry; see `StreamChain.step`."""
    split = StepwisePipe.of(pipe.stages, pipe)
    with evaluating(pipe):
        output, carry = run_steps(split.model, split.collate([_make_sequence(token)]), carry, first=split.first)
    found: object = output
    if not isinstance(found, StepScores):
        msg = (
            f"step must end in scores per step, got {describe(found)}; end the pipe with Tag or NextToken, or call "
            "step of its model, which returns what the model returns."
        )
        raise CompositionError(msg)
    ((_, predictions),) = cast("StepScores[N]", found).scored_rows()
    return predictions[0], carry


def _make_sequence(token: object) -> Kind:
    """Return one step as a sequence.

    Raises:
        ShapeError: if it is not one step.
        ValuesError: if a feature is NaN or infinite, or an id is below 0.
    """
    sequence = token if isinstance(token, Kind) else _convert(token)
    if len(sequence) != 1:
        msg = f"token must be one step, got {len(sequence)} steps; call step once for each."
        raise ShapeError(msg, argument="token")
    return sequence


def _convert(token: object) -> Kind:
    given = token  # a type checker narrows `token` below, to a list of something unknown
    if isinstance(token, int) and not isinstance(token, bool):
        if token < 0:
            msg = f"token must be an id of 0 or more, got {token}; ids are those of the tokenizer."
            raise ValuesError(msg, id=token)
        return Ids(torch.tensor([token], device="cpu"))
    if isinstance(token, Tensor) and token.ndim == 0 and token.dtype is torch.int64:
        return _convert(int(token))
    values: object = token
    if isinstance(token, list | tuple):
        numbers = cast("Sequence[float]", token)
        values = (
            torch.tensor(numbers, dtype=torch.get_default_dtype(), device="cpu")
            if all(map(_is_number, numbers))
            else numbers
        )
    if not isinstance(values, Tensor) or values.ndim != 1 or not values.is_floating_point():
        got = describe(given)
        msg = f"token must be an id, a vector of features, or a sequence of one step, got {got}; pass the next step."
        raise ShapeError(msg, argument="token")
    sequence = FromFeatures()(values.unsqueeze(0)).sequence
    assert isinstance(sequence, Vectors)
    return sequence


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
