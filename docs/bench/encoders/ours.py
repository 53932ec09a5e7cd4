"""The library's own encoders, as a pipe has them: checks, packing and the choice of an engine are counted in."""

import os
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor

from bench.encoders.problem import Problem
from bench.timing.step import Step
from pipeline import Encode, Pack, Padded, Vectors
from pipeline_recurrent import GRU, LSTM, EngineName

_SWITCH = "PIPELINE_NATIVE"


def ours(problem: Problem, engine: EngineName, *, compiled: bool) -> tuple[Step, Counter[str]]:
    """A step, and which engine has computed how many.

    Args:
        problem: what to compute.
        engine: who shall compute it.
        compiled: whether the native engine may be chosen; if not, it is as if nothing had compiled it.
    """
    point = problem.point
    kind = LSTM if point.cell == "LSTM" else GRU
    encoder = kind(point.features, point.hidden, num_layers=point.layers, bidirectional=point.both, engine=engine)
    encoder.load_torch(problem.weights)
    encode = Pack(Vectors) >> Encode(encoder)

    def forward(values: Tensor) -> Tensor:
        return encode(Padded(Vectors, values, problem.lengths)).packed().values

    step = problem.step(forward, encoder.parameters())
    return (step if compiled else _without_native(step)), encoder.engines


def _without_native(step: Step) -> Step:
    def run() -> tuple[Tensor, ...]:
        with switched_off():
            return step()

    return run


@contextmanager
def switched_off() -> Generator[None]:
    """No native engine, for a while: whether there is one is asked before every batch."""
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before
