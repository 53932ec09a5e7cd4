"""The module `rnn` of an encoder: an ordinary torch module, whose forward pass runs an engine.

Tools act on modules: pruning and weight norm through hooks that run before `forward`, quantization by the exact type
`nn.LSTM`, sharding by both. So `rnn` is exactly torch's class, is called for every batch, and reads its weights after
its hooks have run. Only its `forward` is replaced, on the instance.
"""

import sys
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TypeAlias, cast, final

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from pipeline.extend import Carry, OptionError, PackingOrder, ShapeError
from pipeline_recurrent.engines.choose import EngineName, choose_engine
from pipeline_recurrent.engines.engine import Cell, LayerOutputs, StackInputs, Steps, Weights, Zoneout, make_zeros
from pipeline_recurrent.torch_modules import TORCH_FORWARDS, TorchModule

_Forward: TypeAlias = Callable[..., tuple[Tensor | PackedSequence, Tensor | Carry]]

_Initial: TypeAlias = Tensor | Carry | None
"""As torch's modules take initial states: (h, c) for an LSTM, else h; None for zeros."""


@attrs.define(eq=False)
class StackCall:
    """What an engine needs besides weights, steps and initial states.

    Attributes:
        order: the packed order of the steps.
        engine: the engine's name, or "auto".
        tables: for ids, the input products of each direction of the first layer.
        norms: normalizations between layers.
        residual: whether layers add their input to their output.
        highways: gates between the outputs and the inputs of layers.
        per_row: whether dropout draws one mask per row.
        weight_dropout: probability on recurrent weights; 0 in evaluation.
        zoneout: how states are kept at random, or None.
        used: set by the call: the name of the engine that computed the batch, if there was anything to compute.
    """

    order: PackingOrder
    engine: EngineName
    tables: Sequence[Tensor] = ()
    norms: Sequence[nn.Module] = ()
    residual: bool = attrs.field(default=False, kw_only=True)
    highways: Sequence[nn.Module] = attrs.field(default=(), kw_only=True)
    per_row: bool = attrs.field(default=False, kw_only=True)
    weight_dropout: float = attrs.field(default=0.0, kw_only=True)
    zoneout: Zoneout | None = attrs.field(default=None, kw_only=True)
    used: str | None = attrs.field(default=None, init=False)


def install_forward(module: TorchModule) -> TorchModule:
    """Let a torch module compute with engines, and return it."""
    setattr(module, "forward", EngineForward(module))  # noqa: B010 - a method, to the type checker
    return module


def call_stack(module: nn.Module, values: Steps, initial: Carry | None, call: StackCall) -> LayerOutputs:
    """Call a module made by `install_forward`, or what a tool has put in its place.

    Args:
        module: `rnn`, a wrapper around it, or its quantized form.
        values: the steps in packed order.
        initial: initial states of the rows with steps, the longest first; None for zeros.
        call: see there.

    Raises:
        OptionError: if the module in place of `rnn` cannot do what the encoder's options ask for.
    """
    hx = None if initial is None else initial if len(initial) > 1 else next(iter(initial))
    if "forward" not in vars(module):
        if _is_quantized(module):
            return _call_quantized(module, values, hx, call)
        _restore_forward(module)
    output, ended = cast("tuple[Tensor, Tensor | Carry]", module(values, hx, call))
    return output, ended if isinstance(ended, tuple) else (ended,)


def read_weights(module: TorchModule) -> list[list[Weights]]:
    """Return the weights of each direction of each layer, as hooks and parametrizations have made them."""
    # `all_weights` reads the attributes; `_flat_weights`, which torch's own forward uses, may be out of date.
    flat: list[Weights] = []
    for w_in, w_state, *others in module.all_weights:
        # The weights of a projection come last.
        b_in, b_state = others[:2] if module.bias else (None, None)
        flat.append((w_in, w_state, b_in, b_state))
    return [flat[at : at + 2] for at in range(0, len(flat), 2)] if module.bidirectional else [[own] for own in flat]


def read_projections(module: TorchModule) -> list[list[Tensor]]:
    """Return the weights that project h of each direction of each layer; or an empty list."""
    if not module.proj_size:
        return []
    flat: list[Tensor] = [own[-1] for own in module.all_weights]
    directions = 2 if module.bidirectional else 1
    return [flat[at : at + directions] for at in range(0, len(flat), directions)]


@final
class EngineForward:
    """The `forward` of `rnn`. Called as torch's own one, by its own users, it computes the same as that.

    It is an object with a reference to its module, because a function would be neither copied nor pickled with it.
    """

    def __init__(self, module: TorchModule) -> None:
        self.module: TorchModule = module

    def __call__(
        self, values: Tensor | PackedSequence, hx: _Initial = None, call: StackCall | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor | Carry]:
        """Return the output and the final states of packed steps; or, without `call`, of what torch's module takes."""
        if call is None or not isinstance(values, Tensor):
            torch_forward: _Forward = attrgetter("forward")(type(self.module))
            return torch_forward(self.module, values, hx)
        initial = () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
        output, ended = _run(self.module, values, initial, call)
        return output, ended if len(ended) > 1 else next(iter(ended))


def _run(module: TorchModule, values: Steps, initial: Carry, call: StackCall) -> LayerOutputs:
    cell = cast("Cell", module.mode.lower())
    weights = read_weights(module)
    if call.tables:
        weights[0] = [(table, *own[1:]) for table, own in zip(call.tables, weights[0], strict=True)]
    else:
        _check_values(module, values, weights[0][0][0])
    if not call.order.nonempty_count:
        return _run_empty(cell, values, weights, [*call.norms, *call.highways], read_projections(module))
    if call.weight_dropout:
        weights = [[drop_recurrent(own, call.weight_dropout) for own in layer] for layer in weights]
    stack = StackInputs(
        cell,
        values,
        call.order,
        weights,
        initial,
        dropout=module.dropout if module.training else 0.0,
        norms=call.norms,
        residual=call.residual,
        highways=call.highways,
        per_row=call.per_row,
        zoneout=call.zoneout,
        projections=read_projections(module),
    )
    engine = choose_engine(call.engine, stack)
    call.used = engine.name
    output, ended = engine.run(stack)
    if not stack.is_autocast or stack.dtype is torch.float64:
        return output, ended
    dtype = _get_autocast_dtype(stack)
    return output.to(dtype), tuple(state.to(dtype) for state in ended)


def drop_recurrent(weights: Weights, p: float) -> Weights:
    """Return weights of which some recurrent ones are zero, the same at all steps of the batch."""
    w_in, w_state, *biases = weights
    return (w_in, torch.dropout(w_state, p, train=True), biases[0], biases[1])


def _get_autocast_dtype(stack: StackInputs) -> torch.dtype:
    """Return the dtype in which torch's own module returns these rows under autocast, whatever the engine.

    On a CPU that depends on torch's kernel: its LSTM is oneDNN's for rows of one length only, and its GRU has none of
    low precision. From steps in float32 these compute states in float32.
    """
    device, order = stack.steps.device.type, stack.order
    low = torch.get_autocast_dtype(device)
    is_low = device != "cpu" or stack.cell in {"rnn_tanh", "rnn_relu"} or stack.dtype is low
    is_low = is_low or (stack.cell == "lstm" and stack.dtype is torch.float32 and order.is_full(order.longest))
    return low if is_low else torch.float32


def _check_values(module: TorchModule, values: Tensor, weight: Tensor) -> None:
    """Reject values of another dtype, device or number of features than the weights."""
    # Autocast chooses the dtype of the products itself.
    same_dtype = values.dtype is weight.dtype or torch.is_autocast_enabled(weight.device.type)
    if not same_dtype or values.device != weight.device:
        msg = (
            f"values are {values.dtype} on {values.device}, but {module.mode.partition('_')[0]} is "
            f"{weight.dtype} on {weight.device}; move one: batch.to(device), or encoder.to(dtype)."
        )
        raise ShapeError(msg)
    # Torch's kernels, called directly, read beyond the values.
    if values.shape[-1] != weight.shape[1]:
        msg = (
            f"values have {values.shape[-1]} features per step, but the encoder reads {weight.shape[1]}; make it with "
            f"input_size={values.shape[-1]}."
        )
        raise ShapeError(msg, argument="values")


def _run_empty(
    cell: Cell,
    values: Steps,
    weights: Sequence[Sequence[Weights]],
    norms: Sequence[nn.Module],
    projections: Sequence[Sequence[Tensor]],
) -> LayerOutputs:
    """Return empty steps and states, with gradients of zero for all weights.

    In distributed training every process must have a gradient for each weight, one with empty rows only as well.
    """
    hidden, directions = weights[0][0][1].shape[1], len(weights[0])
    used = [weight for layer in weights for own in layer for weight in own if weight is not None]
    used += [weight for norm in norms for weight in norm.parameters()]
    used += [weight for layer in projections for weight in layer]
    like = values if values.is_floating_point() else used[1]
    # Sums of empty slices are 0 whatever the weights hold, and connect them to the graph.
    zero = sum((weight[:0].sum() for weight in (*used, like)), start=like.new_zeros(()))
    ended = make_zeros(cell, like, len(weights) * directions, 0, hidden)
    if projections:
        ended = (ended[0], like.new_zeros(len(weights) * directions, 0, projections[0][0].shape[1]))
    return like.new_zeros(0, hidden * directions) + zero, tuple(state + zero for state in ended)


def _restore_forward(module: nn.Module) -> None:
    """Install our `forward` in a torch module that was put in the place of `rnn`, or reject another module."""
    inner = [part for part in module.modules() if isinstance(part, nn.RNNBase)]
    if not inner:
        msg = (
            "encoder.rnn must be torch's LSTM, GRU or RNN, or its dynamically quantized form, got "
            f"{type(module).__name__}; write an Encoder of your own around another module."
        )
        raise OptionError(msg)
    for part in inner:
        if "forward" in vars(part):
            continue
        # Parametrizations and sharding make subclasses too, which inherit torch's `forward`.
        if type(part).forward not in TORCH_FORWARDS:
            msg = (
                f"encoder.rnn must have the forward of torch's LSTM, GRU or RNN, but {type(part).__name__} has its "
                "own, which the engines would ignore; write an Encoder of your own around it."
            )
            raise OptionError(msg)
        install_forward(cast("TorchModule", part))


def _is_quantized(module: nn.Module) -> bool:
    # Looked up, not imported: the import takes a second, and whoever has quantized has imported it.
    quantized = sys.modules.get("torch.ao.nn.quantized.dynamic.modules.rnn")
    return quantized is not None and isinstance(module, quantized.RNNBase)


def _call_quantized(module: nn.Module, values: Steps, hx: _Initial, call: StackCall) -> LayerOutputs:
    """Compute with torch's dynamically quantized module, as `quantize_dynamic` puts it in the place of `rnn`."""
    options = {
        "layer_norm": call.norms,
        "residual": call.residual,
        "highway": call.highways,
        "zoneout": call.zoneout,
        "precompute_inputs": call.tables,
    }
    for option, given in options.items():
        if given:
            msg = f"a quantized {type(module).__name__} has no {option}; leave out the option, or do not quantize it."
            raise OptionError(msg)
    if call.engine not in {"auto", "packed"}:
        msg = f"engine={call.engine!r} cannot run a quantized {type(module).__name__}; set engine='auto'."
        raise OptionError(msg, engine=call.engine)
    packed = PackedSequence(values, call.order.batch_sizes)
    output, ended = cast("tuple[PackedSequence, Tensor | Carry]", module(packed, hx))
    call.used = "quantized"
    return output.data, ended if isinstance(ended, tuple) else (ended,)
