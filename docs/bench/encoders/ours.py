"""The library's own encoders in a chain, so that checks, packing and the choice of an engine are timed too."""

import os
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor

from bench.encoders.problem import Problem
from bench.timing.steps import Step
from pipeline import Encode, Pack, Padded, Vectors
from pipeline_recurrent import GRU, LSTM, EngineName

_SWITCH = "PIPELINE_NATIVE"


def make_our_step(problem: Problem, engine: EngineName, *, native: bool) -> tuple[Step, Counter[str]]:
    """Return a step, and a counter of the engines that it has run on.

    Args:
        problem: the batch and the weights.
        engine: the engine option of the encoder.
        native: whether the native engine may be chosen; if not, it is switched off during each step.
    """
    point = problem.point
    kind = LSTM if point.cell == "LSTM" else GRU
    encoder = kind(
        point.features, point.hidden, num_layers=point.layers, bidirectional=point.bidirectional, engine=engine
    )
    encoder.load_torch(problem.weights)
    encode = Pack(Vectors) >> Encode(encoder)

    def forward(values: Tensor) -> Tensor:
        return encode(Padded(Vectors, values, problem.lengths)).packed().values

    step = problem.make_step(forward, encoder.parameters())

    # Switched off per step, not per point: candidates with and without the native engine alternate in each round.
    def run_without_native() -> tuple[Tensor, ...]:
        with disable_native():
            return step()

    return (step if native else run_without_native), encoder.engines


@contextmanager
def disable_native() -> Generator[None]:
    """Switch the native engine off. The encoders read the environment variable before every batch."""
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before
