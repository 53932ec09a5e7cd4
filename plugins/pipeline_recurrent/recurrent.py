"""The base of the recurrent encoders: packed rows through an engine, then the directions merged."""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self, TypeAlias, TypedDict, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.extend import (
    Batch,
    Carry,
    Encoder,
    Hidden,
    InferenceOptions,
    Kind,
    OptionError,
    Packed,
    PackingOrder,
    S_co,
    ShapeError,
    StageBase,
    States,
    Vectors,
    check_bool,
    first_by_row,
    last_by_row,
)
from pipeline_recurrent.engines.choose import EngineName, check_engine_name
from pipeline_recurrent.engines.engine import STATES, Cell, Steps, Weights, Zoneout, blend, make_zeros
from pipeline_recurrent.frozen import Inference
from pipeline_recurrent.merge import Merge, merge_directions
from pipeline_recurrent.operator import LAYER, run_layer
from pipeline_recurrent.options import check_merge, check_projection, check_regularization, check_stack, make_highway
from pipeline_recurrent.stack import StackCall, call_stack, drop_recurrent, install_forward, read_weights
from pipeline_recurrent.torch_modules import HOOKS, TORCH_FORWARDS, TorchModule, explain_not_loadable, is_parametrized
from pipeline_recurrent.tracing import allow_access, exclude_from_compile, read_graph_weights

F = TypeVar("F", bound=Callable[..., object])

DropoutPer: TypeAlias = Literal["step", "row"]
"""Whether dropout between layers draws a mask for each step, or one per row for all of its steps."""


class Options(TypedDict, total=False):
    """The options that all recurrent encoders share; `LSTM` describes them, `Recurrent.__init__` has their defaults."""

    num_layers: int
    bias: bool
    dropout: float
    layer_norm: bool
    residual: bool
    merge: Merge
    engine: EngineName
    highway: bool
    dropout_per: DropoutPer
    weight_dropout: float
    zoneout: float
    zoneout_cell: float
    proj_size: int


class Recurrent(Encoder[S_co]):
    """An encoder that runs a stack of torch's recurrent layers over packed rows, with a choice of engines.

    The weights are those of an ordinary `nn.LSTM`, `nn.GRU` or `nn.RNN` under the name `rnn`, so state dicts have the
    names that these modules use. Each batch passes through `rnn`: its hooks run, its parametrizations, training mode
    and `requires_grad` count. Torch's tools act on it as on any such module: pruning, weight norm, spectral norm,
    dynamic quantization, sharding.

    Args:
        make_module: `nn.LSTM`, `nn.GRU` or `nn.RNN`, or a function with their arguments.
        input_size: features of an input vector.
        hidden_size: features of a state, per direction.
        num_layers: see `LSTM`, as for the other options.

    Attributes:
        engine: the engine's name; "auto" chooses the fastest for each batch. It may be set at any time.
        engines: the number of batches that each engine has computed.
        inference: in a pipe for inference, how it computes; `inference.reason` tells why not with its kernels.

    Raises:
        OptionError: if an option is out of its range.
    """

    rnn: TorchModule
    exportable: bool = True

    def __init__(
        self,
        make_module: Callable[..., TorchModule],
        input_size: int,
        hidden_size: int,
        *,
        bidirectional: bool = False,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        layer_norm: bool = False,
        residual: bool = False,
        merge: Merge = "concat",
        engine: EngineName = "auto",
        highway: bool = False,
        dropout_per: DropoutPer = "step",
        weight_dropout: float = 0.0,
        zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        proj_size: int = 0,
    ) -> None:
        super().__init__()
        check_stack(
            input_size, hidden_size, num_layers, dropout, layer_norm=layer_norm, residual=residual, highway=highway
        )
        check_merge(merge, bidirectional=bidirectional)
        check_regularization(dropout_per, weight_dropout, zoneout, zoneout_cell)
        check_bool("bias", bias)
        check_engine_name(engine)
        check_projection(
            proj_size, hidden_size, is_lstm=make_module is nn.LSTM, has_zoneout=bool(zoneout or zoneout_cell)
        )
        self.input_size: int = input_size
        self.hidden_size: int = hidden_size
        self.num_layers: int = num_layers
        self.bidirectional: bool = bidirectional
        self.directions: int = 2 if bidirectional else 1
        self.dropout: float = dropout
        self.merge: Merge = merge
        self.residual: bool = residual
        self.dropout_per: DropoutPer = dropout_per
        self.weight_dropout: float = weight_dropout
        self.zoneout: float = zoneout
        self.zoneout_cell: float = zoneout_cell
        self.engine: EngineName = engine
        self.engines: Counter[str] = Counter()
        self.inference: Inference | None = None
        self.proj_size: int = proj_size
        # The size of h, which is what an encoder returns; that of an LSTM's c is `hidden_size`.
        self.state_size: int = proj_size or hidden_size
        self.output_size: int = self.state_size * (2 if bidirectional and merge == "concat" else 1)
        self.causal: bool = not bidirectional
        self.stateful = True
        self.rnn = install_forward(
            make_module(
                input_size,
                hidden_size,
                num_layers,
                bias=bias,
                dropout=dropout,
                bidirectional=bidirectional,
                **({"proj_size": proj_size} if proj_size else {}),
            )
        )
        # The kind of cell, by torch's name; read at every batch.
        self.cell: Cell = cast("Cell", self.rnn.mode.lower())
        # None where not asked for, so that the state dict is that of torch's module alone.
        self.norms: nn.ModuleList | None = (
            nn.ModuleList(nn.LayerNorm(self.state_size * self.directions) for _ in range(num_layers - 1))
            if layer_norm
            else None
        )
        self.highways: nn.ModuleList | None = (
            nn.ModuleList(make_highway(self.state_size * self.directions) for _ in range(num_layers - 1))
            if highway
            else None
        )
        if zoneout_cell and self.cell != "lstm":
            msg = f"zoneout_cell={zoneout_cell} keeps cells, which only an LSTM has; use zoneout."
            raise OptionError(msg, zoneout_cell=zoneout_cell)
        # A graph holds a layer as one operator, which has no zoneout.
        self.exportable = not (zoneout or zoneout_cell or proj_size)

    def get_config(self) -> Mapping[str, object]:
        """Return the options with which this encoder can be made again."""
        names = ("input_size", "hidden_size", "num_layers", "bidirectional", "residual", "merge", "engine")
        regularization = ("dropout_per", "weight_dropout", "zoneout", "zoneout_cell", "proj_size")
        shown = {name: cast("object", getattr(self, name)) for name in (*names, *regularization)}
        given = {"layer_norm": self.norms is not None, "highway": self.highways is not None}
        # Of torch's module, since these two may be changed there.
        return {**shown, "bias": self.rnn.bias, "dropout": self.rnn.dropout, **given}

    def load_torch(self, module: TorchModule) -> Self:
        """Copy the weights of a torch module, with their `requires_grad`, dtype, device, and the training mode.

        Raises:
            OptionError: if the module is of another kind or size, has another `proj_size`, or has something that
                cannot be copied: hooks, parametrizations (pruning, weight norm, spectral norm), shared weights, or a
                `forward` of its own.
        """
        reason = explain_not_loadable(module, self.rnn)
        if reason is not None:
            msg = f"module {reason}, got {module}."
            raise OptionError(msg)
        weight = next(module.parameters())
        self.to(weight.device, weight.dtype).rnn.load_state_dict(module.state_dict())
        for name, parameter in module.named_parameters():
            self.rnn.get_parameter(name).requires_grad_(parameter.requires_grad)
        return self.train(module.training)

    def to_torch(self, *, batch_first: bool = False) -> TorchModule:
        """Return a plain `nn.LSTM`, `nn.GRU` or `nn.RNN` with a copy of the weights: the inverse of `from_torch`.

        It has the same `requires_grad`, dtype, device and mode. Directions are side by side in its output, as with
        `merge="concat"`; an encoder that merges them otherwise does so afterwards.

        Args:
            batch_first: the layout of the module's input and output, as in torch.

        Raises:
            OptionError: if the encoder has `layer_norm` or `residual`, which torch's modules lack; or if torch's tools
                have changed `rnn`: hooks, parametrizations, quantization.
        """
        reason = self._explain_zoneout() or self._explain_changed()
        if self.residual or self.norms is not None or self.highways is not None:
            reason = (
                "layers have norms, residuals or highways, which torch's module lacks; train it without these options"
            )
        if self.weight_dropout or self.dropout_per == "row":
            reason = "weight_dropout or dropout per row is lacking in torch's module; set weight_dropout to 0 before"
        if reason is not None:
            msg = f"{type(self).__name__} cannot become torch's module, because its {reason}."
            raise OptionError(msg)
        own = self.rnn
        options = {"bias": own.bias, "dropout": own.dropout, "bidirectional": own.bidirectional}
        if own.proj_size:
            options["proj_size"] = own.proj_size
        if isinstance(own, nn.RNN):
            options["nonlinearity"] = getattr(own, "nonlinearity")  # noqa: B009 - not on the type
        make: Callable[..., TorchModule] = type(own)
        weight = own.get_parameter("weight_ih_l0")
        module = make(own.input_size, own.hidden_size, own.num_layers, batch_first=batch_first, **options).to(
            weight.device, weight.dtype
        )
        module.load_state_dict(own.state_dict())
        for name, parameter in own.named_parameters():
            module.get_parameter(name).requires_grad_(parameter.requires_grad)
        return module.train(own.training)

    @override
    def forward(self, batch: Batch[Vectors]) -> States[S_co]:
        """Return the hidden vectors, final states and carry of a batch.

        Raises:
            ShapeError: if the initial states, dtypes or devices do not fit.
            OptionError: if the engine was set by name and cannot compute the batch, the message says why; or if it is
                exported by `torch.export` while torch's tools have changed `rnn`.
        """
        weights = self._read_graph_weights() if torch.compiler.is_compiling() else None
        if weights is not None:
            steps, carry = self._compute_in_graph(batch, weights)
            final = carry[0][-self.directions :]
            if self.residual or self.highways is not None:
                final = self._replace_final_in_graph(batch.with_values(steps), final)
            return self._make_states(batch.with_values, steps, final, carry, None)
        # Inside a traced graph, torch 2.11 answers that it exports whenever it compiles.
        if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
            msg = f"torch.export cannot export {type(self).__name__}, because its {self.explain_not_exportable()}."
            raise OptionError(msg)
        return self.read(batch.packed())

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Arrange the weights for the inference kernels, where they can be used; else the ordinary engines compute.

        Raises:
            OptionError: if results must be deterministic, but the kernels cannot be used.
        """
        self.inference = Inference(self, options)

    def fuse_for_inference(self, before: StageBase, options: InferenceOptions, /) -> StageBase | None:
        """Return a stage that looks up the input products of `Embed`'s ids, if they take little memory."""
        from pipeline_recurrent.precompute import fuse_embed  # noqa: PLC0415 - it imports this module

        del options
        return fuse_embed(before, self)

    def explain_not_exportable(self) -> str | None:
        """Return why a graph cannot contain this encoder, as a clause after "its"; None if it can."""
        if self.proj_size:
            return "rnn has projections, which a graph's operator lacks; make it without proj_size"
        return self._explain_zoneout() or self._explain_changed()

    def _explain_zoneout(self) -> str | None:
        if self.zoneout or self.zoneout_cell:
            return "zoneout is computed one step after another; set zoneout and zoneout_cell to 0"
        return None

    def _explain_changed(self) -> str | None:
        """Return what torch's tools have changed in `rnn`, as a clause after "its"; None if it is as it was made."""
        rnn = cast("nn.Module", self.rnn)
        # Not by exact type: torch.export wraps modules in a subclass of theirs.
        if not isinstance(rnn, nn.RNNBase) or type(rnn).forward not in TORCH_FORWARDS or is_parametrized(rnn):
            return f"rnn is a {type(rnn).__name__}; remove parametrizations, and do not wrap or quantize it"
        if any(getattr(rnn, hooks) for hooks in HOOKS):
            return "rnn has hooks, which a graph would leave out; remove them, for example with prune.remove"
        if rnn.dropout != self.dropout or rnn.training != self.training:
            return "rnn has another dropout or mode than the encoder; set both on the encoder"
        return None

    def _read_graph_weights(self) -> list[list[Weights]] | None:
        """Return the weights of each direction of each layer; None if a graph cannot contain this encoder.

        A compiled graph reads the weights at each call, and is traced again if `rnn` has changed; as with all modules,
        torch does not notice hooks that are added later.
        """
        with allow_access():
            if self.explain_not_exportable() is not None:
                return None
            return read_graph_weights(self.rnn, self.num_layers, self.directions)

    def onnx_functions(self) -> Mapping[str, Callable[..., object]]:
        """Return the function that makes ONNX's operators of a layer, by the name of torch's operator."""
        from pipeline_recurrent.onnx import make_layer_function  # noqa: PLC0415 - needs an extra

        return {LAYER: make_layer_function()}

    def read(self, packed: Packed[Kind], tables: Sequence[Tensor] = ()) -> States[S_co]:
        """Return the hidden vectors, final states and carry of packed vectors; or of ids, with tables.

        Args:
            packed: the rows.
            tables: for ids: for each direction of the first layer, the input products of all ids, with their biases:
                (gates x hidden) x id.

        Raises:
            ShapeError: if the initial states, dtypes or devices do not fit.
            OptionError: if the engine was set by name and cannot compute the batch; the message says why.
        """
        self._check_carry(packed)
        found = None if self.inference is None else self.inference.compute(self, packed, tables)
        if self.inference is not None and found is not None:
            engine: str | None = self.inference.engine if packed.order.steps else None
            self.engines[self.inference.engine] += packed.order.steps > 0
            return self._finish(packed, *found, engine)
        # The graph breaks here: a compiler would unroll an engine's loops, and cannot see into its kernels.
        compute = exclude_from_compile(self._compute) if torch.compiler.is_compiling() else self._compute
        return self._finish(packed, *compute(packed.values, packed.order, packed.initial_carry, tables))

    def _finish(self, packed: Packed[Kind], steps: Tensor, carry: Carry, engine: str | None) -> States[S_co]:
        """Return the states of a batch, from the output of the last layer and the carry."""
        final = carry[0][-self.directions :]
        if self.residual or self.highways is not None:
            final = self._replace_final(steps, packed.order, final)
        return self._make_states(packed.with_values, steps, final, carry, engine)

    def _make_states(
        self,
        with_values: Callable[[Tensor], Batch[Hidden]],
        steps: Float[Tensor, "*axes hidden"],
        final: Float[Tensor, "directions batch hidden"],
        carry: Carry,
        engine: str | None,
    ) -> States[S_co]:
        """Merge the directions, and return the states."""
        if not self.bidirectional:
            # A copy: callers may change the carry in place, which must not change the final states.
            return self.make_states(with_values(steps), final[0].clone(), carry=carry, engine=engine)
        # Engines return the directions side by side, which is concat already.
        if self.merge != "concat":
            steps = merge_directions(steps[..., : self.state_size], steps[..., self.state_size :], self.merge)
        merged = merge_directions(final[0], final[1], self.merge)
        return self.make_states(with_values(steps), merged, carry=carry, engine=engine)

    def _compute_in_graph(
        self, batch: Batch[Vectors], layers: list[list[Weights]]
    ) -> tuple[Float[Tensor, "*axes hidden"], Carry]:
        """Return the hidden vectors and the carry by the operator, in the layout of the batch."""
        initial = batch.initial_carry or ()
        ended: list[Carry] = []
        # Autocast would choose the dtype of an engine's products; the operator computes in the dtype of the weights.
        x: Tensor = batch.values.to(layers[0][0][0].dtype)
        for number, weights in enumerate(layers):
            first = number * self.directions
            began = tuple(state[first : first + self.directions] for state in initial)
            if self.weight_dropout and self.training:
                weights = [drop_recurrent(own, self.weight_dropout) for own in weights]  # noqa: PLW2901
            output, states = run_layer(x, batch.lengths, weights, began, self.cell, self.engine)
            # As in LayeredEngine.run, but every operation is a part of the graph.
            if self.highways is not None and number:
                x = blend(self.highways[number - 1], output, x)
            else:
                x = output + x if self.residual and number else output
            if number < self.num_layers - 1:
                if self.norms is not None:
                    x = self.norms[number](x)
                x = self._drop_in_graph(batch, x)
            ended.append(states)
        return x, tuple(torch.cat(states) for states in zip(*ended, strict=True))

    def _drop_in_graph(self, batch: Batch[Vectors], x: Tensor) -> Tensor:
        """Return the output of a layer after dropout, with one mask per step or per row."""
        if not self.training or not self.dropout or self.dropout_per == "step":
            return torch.dropout(x, self.dropout, train=self.training)
        mask = torch.dropout(x.new_ones(batch.lengths.shape[0], x.shape[-1]), self.dropout, train=True)
        return x * (mask.unsqueeze(1) if x.ndim == 3 else mask.index_select(0, batch.order.locate_steps(x)[0]))

    def _replace_final_in_graph(
        self, steps: Batch[Hidden], final: Float[Tensor, "directions batch hidden"]
    ) -> Float[Tensor, "directions batch hidden"]:
        """Return the last output vectors of the rows, as `_replace_final`; those of empty rows stay."""
        last, first = last_by_row(steps).chunk(len(final), dim=-1), first_by_row(steps).chunk(len(final), dim=-1)
        ends = torch.stack([last[0], first[1]] if self.bidirectional else [last[0]])
        is_empty = (steps.order.lengths_on_device == 0).view(1, -1, 1)
        return torch.where(is_empty, final, ends)

    def weights(self) -> list[list[Weights]]:
        """Return the weights of each direction of each layer."""
        return read_weights(self.rnn)

    def _compute(
        self, values: Steps, order: PackingOrder, initial: Carry | None, tables: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "steps hidden"], Carry, str | None]:
        """Run the stack over the rows that have steps; the carry of empty rows is their initial one."""
        # Rows of one length are in packed order already, and the states of their rows need no reordering.
        is_full = order.nonempty_count > 0 and order.is_full(order.longest)
        like = values if values.is_floating_point() else tables[0]
        if initial is None and (like.is_meta or not is_full or self.proj_size):
            # On the meta device a summary counts operations: with initial states every engine does the same ones.
            zeros = self._make_zeros(like, len(order.lengths))
            began, initial = zeros, zeros if like.is_meta or self.proj_size else None
        else:
            began = initial or ()
        rows = order.sorted_indices[: order.nonempty_count].to(values.device, non_blocking=True)
        if initial is not None:
            # Copies: engines save them for the backward pass, and callers may change theirs in place before it.
            initial = tuple(state.clone() if is_full else state.index_select(1, rows) for state in initial)
        call = StackCall(
            order,
            self.engine,
            tables,
            tuple(self.norms or ()),
            residual=self.residual,
            highways=tuple(self.highways or ()),
            per_row=self.dropout_per == "row",
            weight_dropout=self.weight_dropout if self.training else 0.0,
            zoneout=Zoneout(self.zoneout, self.zoneout_cell, self.training)
            if self.zoneout or self.zoneout_cell
            else None,
        )
        steps, ended = call_stack(self.rnn, values, initial, call)
        if call.used is not None:
            self.engines[call.used] += 1
        if not is_full:
            # Under autocast torch's kernel returns another dtype than that of the initial states.
            ended = tuple(state.to(end.dtype).index_copy(1, rows, end) for state, end in zip(began, ended, strict=True))
        return steps, ended, call.used

    def _make_zeros(self, like: Tensor, rows: int) -> Carry:
        """Return initial states of zeros."""
        layers = self.num_layers * self.directions
        if self.proj_size:
            return like.new_zeros(layers, rows, self.proj_size), like.new_zeros(layers, rows, self.hidden_size)
        return make_zeros(self.cell, like, layers, rows, self.hidden_size)

    def _replace_final(
        self, steps: Tensor, order: PackingOrder, final: Tensor
    ) -> Float[Tensor, "directions batch hidden"]:
        """Return the last output vectors of the rows: with residuals these are not the last layer's states."""
        if not order.nonempty_count:
            return final
        rows = order.sorted_indices[: order.nonempty_count].to(steps.device, non_blocking=True)
        # A backward direction ends at a row's first step, and in packed order the first steps of all rows come first.
        last = (order.sorted_last_steps, torch.arange(order.nonempty_count, device=steps.device))
        halves = steps.chunk(len(final), dim=-1)
        ends = torch.stack([half.index_select(0, where) for half, where in zip(halves, last, strict=False)])
        return final.to(ends.dtype).index_copy(1, rows, ends)

    def _check_carry(self, batch: Packed[Kind]) -> None:
        """Reject initial states that do not fit, or that cannot be continued."""
        if batch.initial_carry is None:
            return
        if self.bidirectional and bool(batch.metadata.continues.any()):
            msg = (
                "a bidirectional encoder cannot continue rows from the preceding batch, because its backward direction "
                "starts at the end of a row; use bidirectional=False, or leave out with_carry."
            )
            raise OptionError(msg, bidirectional=True)
        shape = (self.num_layers * self.directions, len(batch.lengths), self.hidden_size)
        states = STATES[self.cell]
        wanted = [(*shape[:2], self.state_size), shape][:states] if self.proj_size else [shape] * states
        if [tuple(state.shape) for state in batch.initial_carry] != wanted:
            got = ", ".join(str(tuple(state.shape)) for state in batch.initial_carry)
            shapes = " and ".join(map(str, dict.fromkeys(wanted)))
            msg = (
                f"initial_carry must be {states} tensor(s) of {shapes}, layers (x directions) x batch x hidden, "
                f"got {got}; pass the `carry` that this encoder returned for the same rows."
            )
            raise ShapeError(msg, argument="initial_carry")


def expand_options(function: F) -> F:
    """Show the options of `Recurrent.__init__` in a function's signature, in place of its `**options`.

    A type checker reads `**options: Unpack[Options]`. The registry reads names and defaults from the signature.
    """
    signature = inspect.signature(function)
    own = [option for option in signature.parameters.values() if option.kind is not option.VAR_KEYWORD]
    base = inspect.signature(Recurrent.__init__).parameters
    shared = [base[name] for name in Options.__annotations__]
    setattr(function, "__signature__", signature.replace(parameters=[*own, *shared]))  # noqa: B010 - not on the type
    return function
