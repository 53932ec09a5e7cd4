"""ONNX Runtime: its own LSTM and GRU, told how long rows are. Inference alone."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from operator import attrgetter, methodcaller
from typing import Protocol, cast

import torch
from torch import Tensor

from bench.absent import AbsentError
from bench.encoders.gates import direction
from bench.encoders.problem import Problem
from bench.timing.step import Step

_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
"""Where torch has ONNX's gates: input, output, forget, cell; update, reset, new."""

_FLOAT, _INT32 = 1, 6
"""ONNX's numbers for what tensors hold."""

_OPSET, _FORMAT = 14, 8

_array: Callable[[Tensor], object] = methodcaller("numpy")
_tensor: Callable[[object], Tensor] = attrgetter("from_numpy")(torch)


class _Helper(Protocol):
    """What is used of `onnx.helper`."""

    make_node: Callable[..., object]
    make_graph: Callable[..., object]
    make_model: Callable[..., object]
    make_opsetid: Callable[[str, int], object]
    make_tensor_value_info: Callable[[str, int, Sequence[str | int]], object]


class _Options(Protocol):
    """How a session runs."""

    intra_op_num_threads: int

    def add_session_config_entry(self, key: str, value: str, /) -> None: ...


class _Session(Protocol):
    """A model that is ready to run."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, object], /) -> Sequence[object]: ...


class _Runtime(Protocol):
    """What is used of `onnxruntime`."""

    SessionOptions: Callable[[], _Options]
    InferenceSession: Callable[..., _Session]


def onnx_runtime(problem: Problem) -> Step:
    """A step of inference. Rows go in time by time, as its operators want them, and come out so: that is not timed.

    Raises:
        AbsentError: if ONNX or its runtime is not installed.
    """
    try:
        runtime = cast("_Runtime", import_module("onnxruntime"))
        model = _model(problem)
    except ImportError as error:
        msg = f"not installed ({error}): pip install onnx onnxruntime"
        raise AbsentError(msg) from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would go on to spin when a step is over, on the cores of whoever has the next turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {
        "rows": _array(problem.values.detach().transpose(0, 1).contiguous()),
        "lengths": _array(problem.lengths.int()),
    }

    def step() -> tuple[Tensor, ...]:
        # Time x directions x rows x hidden, zeros where a row is over.
        states = _tensor(session.run(["states"], inputs)[0])
        return (states.permute(2, 0, 1, 3).flatten(2),)

    return step


def _model(problem: Problem) -> bytes:
    """One operator, its weights beside it."""
    helper = cast("_Helper", import_module("onnx.helper"))
    from_array: Callable[[object, str], object] = import_module("onnx.numpy_helper").from_array
    point, directions = problem.point, range(2 if problem.point.both else 1)
    parts = [direction(problem.weights, number, _GATES[point.cell]) for number in directions]
    stacked = {
        "inputs": torch.stack([part[0] for part in parts]),
        "states_before": torch.stack([part[1] for part in parts]),
        "biases": torch.stack([torch.cat(part[2:]) for part in parts]),
    }
    how = {"hidden_size": point.hidden, "direction": "bidirectional" if point.both else "forward"}
    if point.cell == "GRU":
        how["linear_before_reset"] = 1  # as torch has it
    node = helper.make_node(point.cell, ["rows", *stacked, "lengths"], ["states"], **how)
    time, rows = problem.values.shape[1], point.rows
    graph = helper.make_graph(
        [node],
        "encoder",
        [
            helper.make_tensor_value_info("rows", _FLOAT, [time, rows, point.features]),
            helper.make_tensor_value_info("lengths", _INT32, [rows]),
        ],
        [helper.make_tensor_value_info("states", _FLOAT, [time, len(directions), rows, point.hidden])],
        initializer=[from_array(_array(weight), name) for name, weight in stacked.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_FORMAT)
    serialised: Callable[[object], bytes] = methodcaller("SerializeToString")
    return serialised(model)
