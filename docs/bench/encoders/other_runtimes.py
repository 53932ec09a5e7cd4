"""LSTM and GRU of ONNX Runtime, of Keras and in JAX, for inference."""

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from operator import attrgetter, methodcaller
from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor

from bench.encoders.candidates import Problem
from bench.record import MissingPackageError
from bench.timing import Step

# For each gate of the runtime, the index of torch's gate. ONNX: input, output, forget, cell; update, reset, new.
# Keras: input, forget, cell, output; update, reset, new. Ours in JAX has torch's order.
_ONNX_GATES: Final = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
_KERAS_GATES: Final = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2)}
_JAX_GATES: Final = {"LSTM": (0, 1, 2, 3), "GRU": (0, 1, 2)}

# ONNX's codes of element types, and versions of its operators and file format that every recent runtime reads.
_ONNX_FLOAT, _ONNX_INT32 = 1, 6
_ONNX_OPERATORS, _ONNX_FORMAT = 14, 8

_to_numpy: Callable[[Tensor], object] = methodcaller("numpy")
_from_numpy: Callable[[object], Tensor] = attrgetter("from_numpy")(torch)


# Protocols for the used parts of packages that may be missing.


class _OnnxHelper(Protocol):
    """Functions of `onnx.helper`."""

    make_node: Callable[..., object]
    make_graph: Callable[..., object]
    make_model: Callable[..., object]
    make_opsetid: Callable[[str, int], object]
    make_tensor_value_info: Callable[[str, int, Sequence[str | int]], object]


class _OnnxOptions(Protocol):
    """Options of a session."""

    intra_op_num_threads: int

    def add_session_config_entry(self, key: str, value: str, /) -> None: ...


class _OnnxSession(Protocol):
    """A loaded model."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, object], /) -> Sequence[object]: ...


class _OnnxRuntime(Protocol):
    """Classes of `onnxruntime`."""

    SessionOptions: Callable[[], _OnnxOptions]
    InferenceSession: Callable[..., _OnnxSession]


class _KerasLayer(Protocol):
    """A layer."""

    def build(self, shape: tuple[int | None, ...], /) -> None: ...
    def set_weights(self, weights: Sequence[object], /) -> None: ...
    def __call__(self, values: Tensor, /, *, mask: Tensor) -> Tensor: ...


class _KerasLayers(Protocol):
    """Classes of `keras.layers`."""

    LSTM: Callable[..., _KerasLayer]
    GRU: Callable[..., _KerasLayer]
    Bidirectional: Callable[[_KerasLayer], _KerasLayer]


def make_onnx_step(problem: Problem) -> Step:
    """Return a step of inference with ONNX Runtime, whose operators take the lengths of the rows.

    Its operators want the time axis first. The input is transposed beforehand, which is not timed.

    Raises:
        MissingPackageError: if `onnx` or `onnxruntime` is not installed.
    """
    try:
        runtime = cast("_OnnxRuntime", import_module("onnxruntime"))
        model = _make_onnx_model(problem)
    except ImportError as error:
        msg = f"not installed ({error}): pip install onnx onnxruntime"
        raise MissingPackageError(msg) from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # By default its threads keep spinning for a while after a step, on the cores of the next candidate in the round.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {
        "rows": _to_numpy(problem.values.detach().transpose(0, 1).contiguous()),
        "lengths": _to_numpy(problem.lengths.int()),
    }

    def step() -> tuple[Tensor, ...]:
        # time x directions x rows x hidden, zero in the padding.
        states = _from_numpy(session.run(["states"], inputs)[0])
        return (states.permute(2, 0, 1, 3).flatten(2),)

    return step


def _make_onnx_model(problem: Problem) -> bytes:
    """Return a serialized model of one operator and its weights."""
    helper = cast("_OnnxHelper", import_module("onnx.helper"))
    from_array: Callable[[object, str], object] = import_module("onnx.numpy_helper").from_array
    point, directions = problem.point, range(2 if problem.point.bidirectional else 1)
    parts = [problem.get_direction(number, _ONNX_GATES[point.cell]) for number in directions]
    weights = {
        "input_weights": torch.stack([part[0] for part in parts]),
        "state_weights": torch.stack([part[1] for part in parts]),
        "biases": torch.stack([torch.cat(part[2:]) for part in parts]),
    }
    options = {"hidden_size": point.hidden, "direction": "bidirectional" if point.bidirectional else "forward"}
    if point.cell == "GRU":
        options["linear_before_reset"] = 1  # torch's GRU: the reset gate is applied after the recurrent product
    node = helper.make_node(point.cell, ["rows", *weights, "lengths"], ["states"], **options)
    time, rows = problem.values.shape[1], point.rows
    graph = helper.make_graph(
        [node],
        "encoder",
        [
            helper.make_tensor_value_info("rows", _ONNX_FLOAT, [time, rows, point.features]),
            helper.make_tensor_value_info("lengths", _ONNX_INT32, [rows]),
        ],
        [helper.make_tensor_value_info("states", _ONNX_FLOAT, [time, len(directions), rows, point.hidden])],
        initializer=[from_array(_to_numpy(weight), name) for name, weight in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _ONNX_OPERATORS)], ir_version=_ONNX_FORMAT)
    serialize: Callable[[object], bytes] = methodcaller("SerializeToString")
    return serialize(model)


def make_keras_step(problem: Problem) -> Step:
    """Return a step of inference with Keras on torch, under a mask.

    Raises:
        MissingPackageError: if Keras is not installed.
    """
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        layers = cast("_KerasLayers", import_module("keras.layers"))
    except ImportError as error:
        msg = f"not installed ({error}): pip install keras"
        raise MissingPackageError(msg) from error
    point = problem.point
    layer = (layers.LSTM if point.cell == "LSTM" else layers.GRU)(point.hidden, return_sequences=True)
    layer = layers.Bidirectional(layer) if point.bidirectional else layer
    layer.build((None, None, point.features))
    directions = range(2 if point.bidirectional else 1)
    layer.set_weights([weight for number in directions for weight in _get_keras_weights(problem, number)])
    mask = torch.arange(problem.values.shape[1]) < problem.lengths.unsqueeze(1)

    def forward(values: Tensor) -> Tensor:
        return layer(values, mask=mask)

    return problem.make_step(forward, [])


def _get_keras_weights(problem: Problem, number: int) -> list[object]:
    """Return the weights of one direction in Keras's layout: transposed, and one bias for an LSTM, two for a GRU."""
    w_in, w_state, b_in, b_state = problem.get_direction(number, _KERAS_GATES[problem.point.cell])
    bias = b_in + b_state if problem.point.cell == "LSTM" else torch.stack([b_in, b_state])
    return [_to_numpy(weight.contiguous()) for weight in (w_in.t(), w_state.t(), bias)]


def make_jax_step(problem: Problem) -> Step:
    """Return a step of inference with JAX: a scan over time under `jit`, in which padding keeps the state.

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
        [numpy.asarray(_to_numpy(weight)) for weight in problem.get_direction(number, _JAX_GATES[point.cell])]
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
