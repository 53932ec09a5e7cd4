"""The operator `pipeline::linear_scan` in ONNX: its operator Scan, with the multiplication of one step for a body."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def make_scan_function() -> Callable[..., object]:
    """Return the function that torch's exporter calls for each scan; it needs the package onnxscript.

    Source: https://onnx.ai/onnx/operators/onnx__Scan.html.
    """
    op: Any = getattr(import_module("onnxscript"), "opset18")  # noqa: B009

    def run(keep: Any, add: Any, reverse: bool) -> object:  # noqa: ANN401 - values of a graph under construction
        # The time axis: batch x time x feature, or with a first axis of real and imaginary parts.
        is_complex = len(add.shape) == 4
        axis = 2 if is_complex else 1
        kept = [0, 1, 3] if is_complex else [0, 2]
        shape = op.Gather(op.Shape(add), op.Constant(value_ints=kept))
        start = op.CastLike(op.ConstantOfShape(shape), add)
        ended = op.Scan(
            start,
            keep,
            add,
            body=_make_body(add.dtype, is_complex=is_complex),
            num_scan_inputs=2,
            scan_input_axes=[axis, axis],
            scan_output_axes=[axis],
            scan_input_directions=[int(reverse)] * 2,
            scan_output_directions=[int(reverse)],
        )
        # The exporter gives an operator with any number of outputs a single one, here that of the last state.
        node = ended.producer()
        node.resize_outputs(2)
        states = node.outputs[1]
        states.dtype = add.dtype
        return op.Identity(states)

    return run


def _make_body(dtype: object, *, is_complex: bool) -> Any:  # noqa: ANN401 - a class of onnx_ir
    """Return the graph of one step: state, factor and term to the next state, twice: to carry, and to return."""
    ir: Any = import_module("onnx_ir")
    kind = ir.TensorType(dtype)
    state, keep, add = (ir.Value(name=name, type=kind) for name in ("state", "keep", "add"))
    nodes: list[Any] = []

    def call(name: str, *inputs: Any, **attributes: Any) -> Any:  # noqa: ANN401 - values of the graph
        node = ir.node(name, list(inputs), attributes=attributes, name=f"step_{len(nodes)}")
        node.outputs[0].name, node.outputs[0].type = f"value_{len(nodes)}", kind
        nodes.append(node)
        return node.outputs[0]

    if is_complex:
        numbers = [call("Constant", value_ints=[part]) for part in (0, 1)]
        for each in numbers:
            each.type = ir.TensorType(ir.DataType.INT64)
        (a, b), (c, d) = ([call("Gather", value, number, axis=0) for number in numbers] for value in (keep, state))
        real = call("Sub", call("Mul", a, c), call("Mul", b, d))
        imaginary = call("Add", call("Mul", a, d), call("Mul", b, c))
        kept = call("Concat", real, imaginary, axis=0)
    else:
        kept = call("Mul", keep, state)
    following = call("Add", kept, add)
    # An output of its own, because a graph must not return one value twice.
    returned = call("Identity", following)
    return ir.Graph([state, keep, add], [following, returned], nodes=nodes, opset_imports={"": 18}, name="step")
