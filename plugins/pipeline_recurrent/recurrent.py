"""What the recurrent encoders share: packed rows through an engine, directions merged, states in and out."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, Self, TypeVar, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.data.batches import Batch, Carry, Packed
from pipeline.data.order import Order
from pipeline.data.rows import Kind, Vectors
from pipeline.data.states import S_co, States
from pipeline.errors import OptionError, ShapeError
from pipeline.parts.encoder import Encoder
from pipeline_recurrent.engines.choose import EngineName, chosen
from pipeline_recurrent.engines.run import Cell, Run, Steps, Weights

Merge = Literal["concat", "mean", "sum", "max", "mul"]
"""How the two directions of the last layer are joined, states and final states alike."""


F = TypeVar("F", bound=Callable[..., object])


def merged(
    forward: Float[Tensor, "*axes hidden"], backward: Float[Tensor, "*axes hidden"], how: Merge
) -> Float[Tensor, "*axes merged"]:
    """The two directions as one: side by side for concat, elementwise for the others.

    Example:
        >>> one, two = torch.tensor([1.0, 4.0]), torch.tensor([3.0, 2.0])
        >>> [merged(one, two, how).tolist() for how in ("concat", "mean", "max", "mul")]
        [[1.0, 4.0, 3.0, 2.0], [2.0, 3.0], [3.0, 4.0], [3.0, 8.0]]
    """
    match how:
        case "concat":
            return torch.cat([forward, backward], dim=-1)
        case "mean":
            return (forward + backward) / 2
        case "sum":
            return forward + backward
        case "max":
            return torch.maximum(forward, backward)
        case "mul":
            return forward * backward


def _uncompiled(function: F) -> F:
    """A function that a compiler leaves as it is, and whatever it calls. Torch leaves the type of this open."""
    disable: Callable[[F], F] = getattr(torch.compiler, "disable")  # noqa: B009
    return disable(function)


class Recurrent(Encoder[S_co]):
    """An encoder that runs a stack of torch's recurrent layers over packed rows, by an engine of one's choice.

    The weights are those of an ordinary `nn.LSTM`, `nn.GRU` or `nn.RNN` under the name `rnn`, so they go in and out
    under the names that they have there.

    Attributes:
        engine: who computes; "auto" picks the fastest for each batch. It may be set at any time.
        engines: how many batches each engine has run.
    """

    rnn: nn.LSTM | nn.GRU | nn.RNN

    def __init__(
        self,
        module: nn.LSTM | nn.GRU | nn.RNN,
        merge: Merge,
        engine: EngineName,
        *,
        layer_norm: bool,
        residual: bool,
    ) -> None:
        super().__init__()
        if merge not in get_args(Merge):
            msg = f"merge must be concat, mean, sum, max or mul, but {merge!r} arrived."
            raise OptionError(msg, merge=merge)
        if engine not in get_args(EngineName):
            msg = f"engine must be one of {', '.join(get_args(EngineName))}, but {engine!r} arrived."
            raise OptionError(msg, engine=engine)
        for option, said in (("layer_norm", layer_norm), ("residual", residual)):
            if said and module.num_layers == 1:
                msg = f"{option}=True acts between layers, but there is one; put a stage of its kind behind Encode."
                raise OptionError(msg, **{option: said})
        self.input_size: int = module.input_size
        self.hidden_size: int = module.hidden_size
        self.num_layers: int = module.num_layers
        self.bidirectional: bool = module.bidirectional
        self.merge: Merge = merge
        self.residual: bool = residual
        self.engine: EngineName = engine
        self.engines: Counter[str] = Counter()
        self.output_size: int = module.hidden_size * (2 if module.bidirectional and merge == "concat" else 1)
        self.causal: bool = not module.bidirectional
        self.stateful = True
        self.rnn = module
        wide = module.hidden_size * (2 if module.bidirectional else 1)
        # Absent where it is not asked for: the weights are then those of torch's module alone.
        self.norms: nn.ModuleList | None = (
            nn.ModuleList(nn.LayerNorm(wide) for _ in range(module.num_layers - 1)) if layer_norm else None
        )

    def load_torch(self, module: nn.LSTM | nn.GRU | nn.RNN) -> Self:
        """Copy an existing module's weights, dtype and device.

        Raises:
            OptionError: if the module is of another kind, or has projections (`proj_size`).
        """
        if self.rnn.mode != module.mode or module.proj_size:
            kind = type(self.rnn).__name__ + (
                f" of {self.cell.removeprefix('rnn_')}" if self.rnn.mode[:3] == "RNN" else ""
            )
            msg = f"module must be an nn.{kind} without projections, but {module} arrived."
            raise OptionError(msg)
        weight = next(module.parameters())
        self.to(weight.device, weight.dtype).rnn.load_state_dict(module.state_dict())
        return self

    @property
    def cell(self) -> Cell:
        """What a layer computes at a step."""
        return cast("Cell", self.rnn.mode.lower())

    @override
    def forward(self, batch: Batch[Vectors]) -> States[S_co]:
        """The states of packed rows.

        Raises:
            ShapeError: if the initial states, dtypes or devices do not fit.
            OptionError: if an engine was forced that cannot take the batch; it says why.
        """
        packed = batch.packed()
        self._check(packed)
        return self.read(packed)

    def read(self, packed: Packed[Kind], tables: Sequence[Tensor] = ()) -> States[S_co]:
        """The states of packed vectors; or of ids.

        Args:
            packed: the rows.
            tables: for ids, of each direction of the first layer, in place of its input weights, what they and their
                biases make of each id: (gates x hidden) x id.

        Raises:
            ShapeError: if the initial states do not fit.
            OptionError: if an engine was forced that cannot take the batch; it says why.
        """
        self._check_initial(packed)
        # A graph breaks here: an engine's loops and calls are not for a compiler to follow.
        compute = _uncompiled(self._compute) if torch.compiler.is_compiling() else self._compute
        steps, carried, engine = compute(packed.values, packed.order, packed.initial_carry, tables)
        final = carried[0].reshape(self.num_layers, -1, *carried[0].shape[1:])[-1]
        if self.residual:
            final = self._ends(steps, packed.order, final)
        # Engines give the directions side by side, which is what concat asks for.
        if self.bidirectional and self.merge != "concat":
            steps = merged(steps[:, : self.hidden_size], steps[:, self.hidden_size :], self.merge)
        ended = merged(final[0], final[1], self.merge) if self.bidirectional else final[0]
        return States(packed.with_values(steps), ended, carry=carried, engine=engine)

    def _compute(
        self, values: Steps, order: Order, initial: Carry | None, tables: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "steps hidden"], Carry, str | None]:
        """An engine over the rows that have steps; the others end as they began."""
        directions = 2 if self.bidirectional else 1
        shape = (self.num_layers * directions, len(order.lengths), self.hidden_size)
        weights = self.weights()
        if tables:
            weights[0] = [(table, *own[1:]) for table, own in zip(tables, weights[0], strict=True)]
        like = values if values.is_floating_point() else weights[0][0][1]
        if like.is_meta:
            # Where work is counted, first steps count as others do, whichever engine leaves their products out.
            initial = initial or self._zeros(like, shape)
        if order.occupied == 0:
            return like.new_zeros(0, self.hidden_size * directions), initial or self._zeros(like, shape), None
        # Rows of one length stand in packed order as they are read: no state has to change its place.
        even = order.fills(order.longest)
        rows = order.rows[: order.occupied].to(values.device, non_blocking=True)
        run = Run(
            self.cell,
            values,
            order,
            weights,
            initial if even or initial is None else tuple(state.index_select(1, rows) for state in initial),
            dropout=self.rnn.dropout if self.training else 0.0,
            norms=tuple(self.norms or ()),
            residual=self.residual,
        )
        engine = chosen(self.engine, run)
        self.engines[engine.name] += 1
        steps, ended = engine.run(run)
        if even:
            return steps, ended, engine.name
        # Under autocast the kernel ends in another dtype than it began with.
        carried = tuple(
            state.to(end.dtype).index_copy(1, rows, end)
            for state, end in zip(initial or self._zeros(like, shape), ended, strict=True)
        )
        return steps, carried, engine.name

    def weights(self) -> list[list[Weights]]:
        """The weights of each direction of each layer."""
        directions = 2 if self.bidirectional else 1
        flat: list[Weights] = []
        for own in self.rnn.all_weights:
            w_in, w_state, *biases = own
            b_in, b_state = biases or (None, None)
            flat.append((w_in, w_state, b_in, b_state))
        return [flat[start : start + directions] for start in range(0, len(flat), directions)]

    def _zeros(self, like: Tensor, shape: tuple[int, ...]) -> Carry:
        return tuple(like.new_zeros(shape) for _ in range(2 if self.cell == "lstm" else 1))

    def _ends(self, steps: Tensor, order: Order, carried: Tensor) -> Float[Tensor, "directions batch hidden"]:
        """The vectors that rows end with, where these are more than the last layer's states: what came in is added."""
        if order.occupied == 0:
            return carried
        rows = order.rows[: order.occupied].to(steps.device, non_blocking=True)
        at = (order.ends, torch.arange(order.occupied, device=steps.device))
        halves = steps.chunk(len(carried), dim=-1)
        ends = torch.stack([half.index_select(0, where) for half, where in zip(halves, at, strict=False)])
        return carried.to(ends.dtype).index_copy(1, rows, ends)

    def _check(self, batch: Packed[Vectors]) -> None:
        """Refuse values that are not for these weights."""
        weight = next(self.rnn.parameters())
        # Autocast picks the dtype of the products itself.
        same_dtype = batch.values.dtype is weight.dtype or torch.is_autocast_enabled(weight.device.type)
        if not same_dtype or batch.values.device != weight.device:
            msg = (
                f"values are {batch.values.dtype} on {batch.values.device}, but {type(self).__name__} is "
                f"{weight.dtype} on {weight.device}; move one: batch.to(device), or encoder.to(dtype)."
            )
            raise ShapeError(msg)

    def _check_initial(self, batch: Packed[Kind]) -> None:
        """Refuse initial states that are not for these weights."""
        if batch.initial_carry is None:
            return
        shape = (self.num_layers * (2 if self.bidirectional else 1), len(batch.lengths), self.hidden_size)
        states = 2 if self.cell == "lstm" else 1
        if [tuple(state.shape) for state in batch.initial_carry] != [shape] * states:
            came = ", ".join(str(tuple(state.shape)) for state in batch.initial_carry)
            msg = (
                f"initial must be {states} tensor(s) of {shape}, layers (x directions) x batch x hidden, "
                f"but {came} arrived; pass what this encoder gave as `carried` for the same rows."
            )
            raise ShapeError(msg, argument="initial")


def check_sizes(input_size: int, hidden_size: int, num_layers: int, dropout: float) -> None:
    """Refuse what torch's modules would take, warn of or fail at later.

    Raises:
        OptionError: if an option is outside its range.
    """
    for option, number in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
        if number < 1:
            msg = f"{option} must be 1 or more, but {number} arrived."
            raise OptionError(msg, **{option: number})
    if not 0 <= dropout < 1:
        msg = f"dropout must be a probability, 0 <= dropout < 1, but {dropout} arrived."
        raise OptionError(msg, dropout=dropout)
    if dropout and num_layers == 1:
        msg = f"dropout={dropout} acts between layers, but there is one; use the Dropout stage around Encode."
        raise OptionError(msg, dropout=dropout)
