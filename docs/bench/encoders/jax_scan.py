"""LSTM and GRU in JAX, for inference: a scan over time under `jit`, in which padding keeps the state."""

from collections.abc import Callable, Sequence
from importlib import import_module
from operator import attrgetter, methodcaller
from typing import Any, Final

import torch
from torch import Tensor

from bench.encoders.candidates import Problem
from bench.errors import MissingPackageError
from bench.timing import Step

_to_numpy: Callable[[Tensor], object] = methodcaller("numpy")
_from_numpy: Callable[[object], Tensor] = attrgetter("from_numpy")(torch)

# Torch's order of the gates.
_GATES: Final = {"LSTM": range(4), "GRU": range(3)}


def make_jax_step(problem: Problem) -> Step:
    """Return a step of inference with JAX.

    All input products are one product before the scan. A direction that reads backward scans in reverse: it begins in
    the padding, where the state stays zero. XLA's number of threads is that of the cores: it cannot be changed.

    Raises:
        MissingPackageError: if `jax` is not installed.
    """
    try:
        jax: Any = import_module("jax")
        numpy: Any = import_module("jax.numpy")
    except ImportError as error:
        msg = f"not installed ({error}): pip install jax"
        raise MissingPackageError(msg) from error
    point = problem.point
    advance = _make_lstm(jax, numpy) if point.cell == "LSTM" else _make_gru(jax, numpy)
    weights = [
        [numpy.asarray(_to_numpy(weight)) for weight in problem.get_direction(number, _GATES[point.cell])]
        for number in range(2 if point.bidirectional else 1)
    ]
    real = torch.arange(problem.values.shape[1]) < problem.lengths.unsqueeze(1)
    mask = numpy.asarray(_to_numpy(real.t().unsqueeze(2).contiguous()))

    def scan_direction(values: Any, own: Sequence[Any], *, reverse: bool) -> Any:  # noqa: ANN401 - jax may be missing
        w_in, w_state, b_in, b_state = own

        def step(state: Any, seen: tuple[Any, Any]) -> tuple[Any, Any]:  # noqa: ANN401
            product, keep = seen
            new = tuple(
                numpy.where(keep, after, before)
                for after, before in zip(advance(product, state, w_state, b_state), state, strict=True)
            )
            return new, numpy.where(keep, new[0], 0.0)

        zeros = numpy.zeros((point.rows, point.hidden), "float32")
        start = (zeros, zeros) if point.cell == "LSTM" else (zeros,)
        return jax.lax.scan(step, start, (values @ w_in.T + b_in, mask), reverse=reverse)[1]

    def forward(values: Any, own: Any) -> Any:  # noqa: ANN401
        by_time = values.swapaxes(0, 1)
        states = [scan_direction(by_time, each, reverse=number == 1) for number, each in enumerate(own)]
        return numpy.concatenate(states, 2).swapaxes(0, 1)

    compiled = jax.jit(forward)
    values = numpy.asarray(_to_numpy(problem.values.detach()))

    def run() -> tuple[Tensor, ...]:
        # A copy: torch wants an array that it may write to.
        return (_from_numpy(import_module("numpy").array(compiled(values, weights))),)

    return run


def _make_lstm(jax: Any, numpy: Any) -> Callable[..., tuple[Any, ...]]:  # noqa: ANN401
    """Return the step of an LSTM."""

    def advance(product: Any, state: tuple[Any, Any], weight: Any, bias: Any) -> tuple[Any, ...]:  # noqa: ANN401
        hidden, cell = state
        take, keep, new, give = numpy.split(product + hidden @ weight.T + bias, 4, axis=1)
        cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(take) * numpy.tanh(new)
        return jax.nn.sigmoid(give) * numpy.tanh(cell), cell

    return advance


def _make_gru(jax: Any, numpy: Any) -> Callable[..., tuple[Any, ...]]:  # noqa: ANN401
    """Return the step of a GRU."""

    def advance(product: Any, state: tuple[Any], weight: Any, bias: Any) -> tuple[Any, ...]:  # noqa: ANN401
        (hidden,) = state
        reset, update, new = numpy.split(product, 3, axis=1)
        own_reset, own_update, own_new = numpy.split(hidden @ weight.T + bias, 3, axis=1)
        kept = jax.nn.sigmoid(update + own_update)
        fresh = numpy.tanh(new + jax.nn.sigmoid(reset + own_reset) * own_new)
        return ((1 - kept) * fresh + kept * hidden,)

    return advance
