"""The interface of engines. All engines compute the same numbers, up to rounding; they differ only in speed."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from itertools import chain
from typing import ClassVar, Final, Literal, NamedTuple, Protocol, Self, TypeAlias, cast

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from pipeline import extend
from pipeline.extend import Carry, PackingOrder, name_transform

Cell: TypeAlias = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
"""The kinds of recurrent cell, by torch's names."""

STATES: Final[Mapping[Cell, int]] = {"lstm": 2, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}
"""The number of state tensors: (h, c) for an LSTM, (h,) for the others."""

Weights: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Input weights, recurrent weights and their biases (or None) of one direction of one layer, in torch's layout."""

Steps: TypeAlias = Float[Tensor, "steps feature"] | Int64[Tensor, " steps"]
"""Input of a layer in packed order: vectors; or ids, if its input weights are a table with a column per id."""

LayerOutputs: TypeAlias = tuple[Float[Tensor, "steps hidden"], Carry]
"""Hidden vectors in packed order, the directions side by side; and each row's final states, rows in packed order."""


class Zoneout(NamedTuple):
    """How parts of the state before are kept instead of the new ones.

    Attributes:
        hidden: the probability for each number of h.
        cell: the same for c of an LSTM.
        train: whether they are kept at random; else each state is the mean over both choices.
    """

    hidden: float
    cell: float
    train: bool


class LayerInputs(NamedTuple):
    """One layer over one batch.

    A `torch.autograd.Function` tracks only tensors that are arguments of their own, not those inside a tuple. Hence
    `tensors`, and `from_tensors` for the backward pass.

    Attributes:
        cell: the kind of cell.
        order: the packed order of the steps.
        steps: the input.
        weights: those of each direction. The second direction reads each row backward from its own last step.
        initial: tensors of directions x rows x hidden: one, or two for an LSTM. Only rows with steps, the longest
            first. Empty for zeros.
        zoneout: how states are kept at random; only for an engine that has it.
        projections: the weights that project h of each direction, or none; only for an engine that has them.
    """

    cell: Cell
    order: PackingOrder
    steps: Steps
    weights: Sequence[Weights]
    initial: Carry = ()
    zoneout: Zoneout | None = None
    projections: Sequence[Tensor] = ()

    @property
    def tensors(self) -> list[Tensor | None]:
        """All tensors in one list, as autograd wants them: weights, input, initial states."""
        return [*chain.from_iterable(self.weights), self.steps, *self.initial]

    @classmethod
    def from_tensors(cls, cell: Cell, order: PackingOrder, directions: int, tensors: Sequence[Tensor | None]) -> Self:
        """Undo `tensors`."""
        weights = [cast("Weights", tuple(tensors[4 * direction :][:4])) for direction in range(directions)]
        steps, *initial = cast("Sequence[Tensor]", tensors[4 * directions :])
        return cls(cell, order, steps, weights, tuple(initial))

    def initial_or_zeros(self) -> Carry:
        """The initial states, as tensors in any case."""
        if self.initial:
            return self.initial
        like = self.weights[0][1]
        return make_zeros(self.cell, like, len(self.weights), self.order.nonempty_count, like.shape[1])


@attrs.define(eq=False)
class StackInputs:
    """A stack of layers over one batch, and what an engine or the cost model needs to know about it.

    Attributes:
        cell: the kind of cell.
        steps: the input of the first layer.
        order: the packed order of the steps.
        weights: for each layer, those of each direction.
        initial: tensors of (layers x directions) x rows x hidden, as in `LayerInputs`; empty for zeros.
        dropout: probability between layers; 0 in evaluation.
        norms: a normalization of the output of every layer but the last; or empty.
        residual: whether every layer but the first adds its input to its output.
        highways: for every layer but the first, the linear layer of a gate between its output and its input; or empty.
        per_row: whether dropout draws one mask per row, for all of its steps.
        zoneout: how states are kept at random, or None.
        projections: for each layer, the weights that project h of each direction; or empty. Initial states are given
            then, since h is smaller than c.
        layers: number of layers.
        directions: 1 or 2.
        hidden: features of a state, per direction.
        looks_up: whether the steps are ids, and the input products are looked up.
        features: features of an input vector; 0 for ids, which are not multiplied.
        dtype: the dtype of the steps.
        needs_grad: whether a backward pass may follow.
        is_autocast: whether autocast is on for the device.
        low_dtype: the dtype in which products are asked for, if it is a half precision or autocast is on; or None.
        transform: a mode of torch in which every operation must be one of torch's; see `name_transform`.
    """

    cell: Cell
    steps: Steps
    order: PackingOrder
    weights: Sequence[Sequence[Weights]]
    initial: Carry = ()
    dropout: float = 0.0
    norms: Sequence[nn.Module] = ()
    residual: bool = False
    highways: Sequence[nn.Module] = ()
    per_row: bool = False
    zoneout: Zoneout | None = None
    projections: Sequence[Sequence[Tensor]] = ()
    layers: int = attrs.field(init=False)
    directions: int = attrs.field(init=False)
    hidden: int = attrs.field(init=False)
    looks_up: bool = attrs.field(init=False)
    features: int = attrs.field(init=False)
    dtype: torch.dtype = attrs.field(init=False)
    needs_grad: bool = attrs.field(init=False)
    is_autocast: bool = attrs.field(init=False)
    low_dtype: torch.dtype | None = attrs.field(init=False)
    transform: str | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        # Attributes, not properties: choosing an engine reads each of these several times per batch.
        self.layers, self.directions = len(self.weights), len(self.weights[0])
        recurrent = self.weights[0][0][1]
        self.hidden = recurrent.shape[-1]
        self.looks_up = not self.steps.is_floating_point()
        self.features = 0 if self.looks_up else self.steps.shape[-1]
        self.dtype = recurrent.dtype if self.looks_up else self.steps.dtype
        weights = [*chain.from_iterable(chain(*self.weights)), *chain(*self.projections)]
        self.needs_grad = needs_grad([*weights, self.steps, *self.initial])
        device = self.steps.device.type
        self.is_autocast = is_autocast(device)
        half = self.dtype if self.dtype.itemsize < 4 else None
        self.low_dtype = torch.get_autocast_dtype(device) if self.is_autocast else half
        self.transform = name_transform()

    def join(self, number: int, output: Tensor, x: Tensor) -> Tensor:
        """Return the input of the layer after one, or the result of the last one, from a layer's output and input."""
        if number and self.highways:
            x = blend(self.highways[number - 1], output, x)
        else:
            x = output + x if self.residual and number else output
        if number < self.layers - 1:
            if self.norms:
                normalized: Tensor = self.norms[number](x)
                x = normalized
            if self.dropout and self.per_row:
                rows = len(self.order.lengths)
                mask = torch.dropout(x.new_ones(rows, x.shape[-1]), self.dropout, train=True)
                x = x * mask.index_select(0, self.order.row_of_step)
            elif self.dropout:
                x = torch.dropout(x, self.dropout, train=True)
        return x


class Engine(extend.Engine):
    """A way to compute a stack of recurrent layers.

    Attributes:
        name: its name in options, reports and errors.
        zoneout: whether it computes zoneout; else it is never asked for it.
        projections: the same for projections of h.
    """

    computes = "pipeline_recurrent"

    zoneout: ClassVar[bool] = False
    projections: ClassVar[bool] = False

    @abstractmethod
    def unsupported_reason(self, stack: StackInputs) -> str | None:
        """Return why this engine cannot compute a stack, as a clause after "because"; None if it can.

        It is called before every batch, so it looks at dtypes, devices and modes, and never reads a tensor's numbers.
        """

    @abstractmethod
    def run(self, stack: StackInputs) -> LayerOutputs:
        """Return the outputs of the last layer and the final states of all layers; only for a supported stack."""


class LayeredEngine(Engine):
    """An engine that computes one layer at a time; norms, residuals and dropout between layers are shared.

    Attributes:
        widens: whether a layer in half precision, or under autocast, is computed by `run_low_layer`.
    """

    widens: ClassVar[bool] = True

    @abstractmethod
    def run_layer(self, inputs: LayerInputs) -> LayerOutputs:
        """Compute one layer, in all of its directions."""

    @override
    def run(self, stack: StackInputs) -> LayerOutputs:
        x: Steps = stack.steps
        ended = list[Carry]()
        for number, weights in enumerate(stack.weights):
            first = number * stack.directions
            initial = tuple(state[first : first + stack.directions] for state in stack.initial)
            # Residuals start at the second layer: the input of the first one may have another size.
            projections = stack.projections[number] if stack.projections else ()
            inputs = LayerInputs(stack.cell, stack.order, x, weights, initial, stack.zoneout, projections)
            low = stack.low_dtype if self.widens else None
            output, states = self.run_layer(inputs) if low is None else self.run_low_layer(inputs, low)
            x = stack.join(number, output, x)
            ended.append(states)
        return x, ended[0] if stack.layers == 1 else tuple(torch.cat(states) for states in zip(*ended, strict=True))

    def run_low_layer(self, inputs: LayerInputs, dtype: torch.dtype) -> LayerOutputs:
        """Compute a layer whose products are asked for in a half precision; here in float32, which is more precise.

        Args:
            inputs: the layer, in any dtypes.
            dtype: the half precision.

        Returns:
            Outputs in the dtype of the weights.
        """
        del dtype
        own = inputs.weights[0][1].dtype
        wide = torch.promote_types(own, torch.float32)
        tensors = [tensor if tensor is None else tensor.to(wide) for tensor in inputs.tensors]
        with switch_off_autocast(inputs.steps.device.type):
            wide_inputs = LayerInputs.from_tensors(inputs.cell, inputs.order, len(inputs.weights), tensors)
            output, ended = self.run_layer(wide_inputs._replace(zoneout=inputs.zoneout))
        return output.to(own), tuple(state.to(own) for state in ended)


def blend(highway: nn.Module, output: Tensor, x: Tensor) -> Tensor:
    """Return a layer's output and its input, weighed by a gate that reads the input: a highway connection."""
    gate: Tensor = highway(x).sigmoid()
    return x + gate * (output - x)


def make_zeros(cell: Cell, like: Tensor, *shape: int) -> Carry:
    """Return initial states of zeros."""
    # One allocation for both states of an LSTM; engines never write to initial states, so sharing memory is safe.
    return tuple(like.new_zeros(STATES[cell], *shape).unbind())


def needs_grad(tensors: Iterable[Tensor | None]) -> bool:
    """Return whether a backward pass may follow."""
    required = [tensor.requires_grad for tensor in tensors if tensor is not None]
    return torch.is_grad_enabled() and any(required)


def is_autocast(device: str) -> bool:
    """Return whether autocast is on for a kind of device."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def switch_off_autocast(device: str) -> AbstractContextManager[object]:
    """Switch autocast off for a kind of device: it would put other dtypes between the products."""
    return torch.autocast(device, enabled=False) if is_autocast(device) else nullcontext()


def explain_transform(stack: StackInputs) -> str | None:
    """Return why an engine that is no sequence of torch operations cannot run now, or None."""
    return f"{stack.transform} is active" if stack.transform else None


def explain_unsupported(stack: StackInputs) -> str | None:
    """Return why an engine of our own cannot run: a table in half precision, or a transform."""
    if stack.looks_up and stack.dtype.itemsize < 4:
        # It would be converted to float32 for every batch.
        return f"it looks products up in float32 and float64, but the values are {stack.dtype}"
    return explain_transform(stack)


def fill_input_product(gates: Tensor, steps: Steps, weight: Tensor, bias: Tensor | None) -> None:
    """Write the input product of all steps into the gates: one matrix product, or one look-up.

    Args:
        gates: steps x (gates x hidden), overwritten.
        steps: vectors, or ids.
        weight: (gates x hidden) x feature; or x id, with the biases included. A column of a table is contiguous.
        bias: added to products of vectors.
    """
    if not steps.is_floating_point():
        torch.index_select(weight.t(), 0, steps, out=gates)
    elif bias is None:
        torch.mm(steps, weight.t(), out=gates)
    else:
        torch.addmm(bias, steps, weight.t(), out=gates)


class AutogradContext(Protocol):
    """The context of a `torch.autograd.Function` of a layer; torch leaves its type open."""

    needs_input_grad: Sequence[bool]

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """The tensors of `save_for_backward`."""
        ...

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for the backward pass."""
        ...


_KEEPS_GRAPH: Final = "_get_current_graph_task_keep_graph"
# Torch's own compiler reads this flag. If a later torch drops it, we assume that every graph is kept: that costs a copy
# of the gates, and is never wrong.
_keeps_graph: Callable[[], bool] = getattr(import_module("torch._C._autograd"), _KEEPS_GRAPH, lambda: True)


def may_overwrite_saved() -> bool:
    """Return whether the running backward pass is the last one through its graph.

    Without `retain_graph`, torch frees the saved tensors after this pass and rejects a second one. The gradients of
    the gates are then written over the gates, so that training takes no more memory than torch's packed kernel.
    """
    return not _keeps_graph()
