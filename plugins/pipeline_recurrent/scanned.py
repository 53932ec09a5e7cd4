"""The base of encoders whose steps need no earlier state for their gates, so that all steps are computed by a scan."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict, TypeVar, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from pipeline.extend import (
    Batch,
    Carry,
    Encoder,
    Hidden,
    InferenceOptions,
    OptionError,
    Packed,
    S_co,
    ShapeError,
    States,
    Vectors,
    name_transform,
)
from pipeline_recurrent.merge import Merge, merge_directions
from pipeline_recurrent.options import check_merge, check_stack
from pipeline_recurrent.scan_layer import ScanLayer
from pipeline_recurrent.scan_operator import SCAN, scan_padded

F = TypeVar("F", bound=Callable[..., object])


class ScanOptions(TypedDict, total=False):
    """The options that all scanned encoders share; `MinGRU` describes them."""

    num_layers: int
    dropout: float
    layer_norm: bool
    residual: bool
    merge: Merge


class Scanned(Encoder[S_co]):
    """A stack of layers, each of which is a linear recurrence with factors that depend on the input only.

    The matrix product of a layer is one for all steps, and the compiled kernels compute the gates and the recurrence in
    one pass over memory. Without them, `scan` needs a number of operations that grows with the logarithm of the number
    of steps. A graph of `torch.compile` or `torch.export` holds the operator of `scan_operator`.

    Args:
        make_layer: returns a layer for a number of input features.
        input_size: features of an input vector.
        hidden_size: features of the output, per direction.
        bidirectional: see `MinGRU`, as for the other options.

    Raises:
        OptionError: if an option is out of its range.
    """

    exportable = True

    def __init__(
        self,
        make_layer: Callable[[int], ScanLayer],
        input_size: int,
        hidden_size: int,
        *,
        bidirectional: bool = False,
        num_layers: int = 1,
        dropout: float = 0.0,
        layer_norm: bool = False,
        residual: bool = False,
        merge: Merge = "concat",
    ) -> None:
        super().__init__()
        check_stack(input_size, hidden_size, num_layers, dropout, layer_norm=layer_norm, residual=residual)
        check_merge(merge, bidirectional=bidirectional)
        self.input_size: int = input_size
        self.hidden_size: int = hidden_size
        self.num_layers: int = num_layers
        self.bidirectional: bool = bidirectional
        self.directions: int = 2 if bidirectional else 1
        self.dropout: float = dropout
        self.layer_norm: bool = layer_norm
        self.residual: bool = residual
        self.merge: Merge = merge
        self.output_size: int = hidden_size * (2 if bidirectional and merge == "concat" else 1)
        self.causal: bool = not bidirectional
        self.stateful = True
        self.deterministic: bool = False
        wide = hidden_size * self.directions
        sizes = [input_size, *[wide] * (num_layers - 1)]
        self.layers: nn.ModuleList = nn.ModuleList(make_layer(size) for size in sizes for _ in range(self.directions))
        self.norms: nn.ModuleList | None = (
            nn.ModuleList(nn.LayerNorm(wide) for _ in range(num_layers - 1)) if layer_norm else None
        )

    def get_config(self) -> Mapping[str, object]:
        """Return the options with which this encoder can be made again."""
        names = ("input_size", "hidden_size", "bidirectional", *ScanOptions.__annotations__)
        return {name: cast("object", getattr(self, name)) for name in names}

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Scan one step after another if results must not depend on other rows."""
        self.deterministic = options.deterministic
        for layer in self.layers:
            cast("ScanLayer", layer).deterministic = options.deterministic

    def onnx_functions(self) -> Mapping[str, Callable[..., object]]:
        """Return the function that makes ONNX's operators of a scan, by the name of torch's operator."""
        from pipeline_recurrent.scan_onnx import make_scan_function  # noqa: PLC0415 - needs an extra

        return {SCAN: make_scan_function()}

    @override
    def forward(self, batch: Batch[Vectors]) -> States[S_co]:
        """Return the hidden vectors, final states and carry of a batch.

        Raises:
            ShapeError: if the initial states, dtypes, devices or the number of features do not fit.
            OptionError: if a row continues one of the batch before, but the encoder is bidirectional.
        """
        return self._read_in_graph(batch) if torch.compiler.is_compiling() else self._read(batch.packed())

    def _get_layer(self, number: int, direction: int) -> ScanLayer:
        return cast("ScanLayer", self.layers[number * self.directions + direction])

    def _read(self, batch: Packed[Vectors]) -> States[S_co]:
        """Return the states of packed rows."""
        self._check(batch)
        order, x, rows = batch.order, batch.values, batch.order.nonempty_count
        began = self._start(batch.values, len(batch.lengths), batch.initial_carry)
        which = order.sorted_indices[:rows].to(x.device, non_blocking=True)
        # A forward direction begins at the first packed steps, which are the first steps of all rows.
        ends = (torch.arange(rows, device=x.device), order.sorted_last_steps)
        carry: list[Carry] = []
        for number in range(self.num_layers):
            outputs: list[Tensor] = []
            for direction in range(self.directions):
                layer, index = self._get_layer(number, direction), number * self.directions + direction
                start = None
                if batch.initial_carry is not None:
                    start = torch.cat([state[index].index_select(0, which) for state in began], dim=-1)
                states = layer.run(x, order, start, reverse=direction == 1)
                ended = states.index_select(0, ends[1 - direction])
                carry.append(
                    tuple(
                        state[index].index_copy(0, which, half.to(state.dtype))
                        for state, half in zip(began, ended.chunk(len(began), dim=-1), strict=True)
                    )
                )
                outputs.append(layer.read(states, x))
            x = self._join_layers(number, torch.cat(outputs, dim=-1) if self.bidirectional else outputs[0], x)
        carried = tuple(torch.stack(states) for states in zip(*carry, strict=True))
        final = [
            start.to(x.dtype).index_copy(0, which, half.index_select(0, last))
            for start, half, last in zip(
                self._start_final(began, x), x.chunk(self.directions, dim=-1), ends[::-1], strict=False
            )
        ]
        return self._make_states(batch.with_values, x, final, carried)

    def _read_in_graph(self, batch: Batch[Vectors]) -> States[S_co]:
        """Return the states of rows in a traced graph, which is padded: a graph cannot ask for lengths."""
        rows = batch.padded().fill_padding(0)
        x, lengths = rows.values, rows.order.lengths_on_device.unsqueeze(1)
        time = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        is_real, is_first, is_last = time < lengths, time == 0, time == lengths - 1
        began = self._start(x, batch.lengths.shape[0], batch.initial_carry)
        carry: list[Carry] = []
        for number in range(self.num_layers):
            outputs: list[Tensor] = []
            for direction in range(self.directions):
                layer, index = self._get_layer(number, direction), number * self.directions + direction
                product = layer.project(x)
                keep, add = layer.make_terms(product, *layer.make_constants())
                start = [state[index].to(add.dtype) for state in began]
                first, last = (is_last, is_first) if direction else (is_first, is_last)
                begin = (first & is_real).unsqueeze(-1)
                add = torch.where(begin, add + _multiply(keep, start), add).masked_fill(~is_real.unsqueeze(-1), 0)
                keep = keep.masked_fill(~is_real.unsqueeze(-1) | begin, 0)
                states = scan_padded(keep, add, reverse=direction == 1)
                parts = [states[0], states[1]] if layer.is_complex else [states]
                end = (last & is_real).unsqueeze(-1)
                carry.append(
                    tuple(
                        torch.where(lengths > 0, part.masked_fill(~end, 0).sum(1), own).to(x.dtype)
                        for part, own in zip(parts, start, strict=True)
                    )
                )
                outputs.append(layer.read(torch.cat(parts, dim=-1), x))
            x = self._join_layers(number, torch.cat(outputs, dim=-1) if self.bidirectional else outputs[0], x)
        carried = tuple(torch.stack(states) for states in zip(*carry, strict=True))
        final = [
            torch.where(lengths > 0, half.masked_fill(~(last & is_real).unsqueeze(-1), 0).sum(1), start.to(x.dtype))
            for start, half, last in zip(
                self._start_final(began, x), x.chunk(self.directions, dim=-1), (is_last, is_first), strict=False
            )
        ]
        return self._make_states(rows.with_values, x, final, carried)

    def _join_layers(self, number: int, output: Tensor, x: Tensor) -> Tensor:
        """Return the input of the next layer, or the output of the last one; as in `LayeredEngine.run`."""
        x = output + x if self.residual and number else output
        if number < self.num_layers - 1:
            if self.norms is not None:
                x = self.norms[number](x)
            x = torch.dropout(x, self.dropout, train=self.training)
        return x

    def _start(self, values: Tensor, rows: int, initial: Carry | None) -> Carry:
        """Return the initial states, zeros if there are none: tensors of (layers x directions) x rows x state."""
        layer = self._get_layer(0, 0)
        if initial is not None:
            return initial
        shape = (len(self.layers), rows, layer.state_size)
        return tuple(values.new_zeros(shape) for _ in range(2 if layer.is_complex else 1))

    def _start_final(self, began: Carry, x: Tensor) -> Sequence[Tensor]:
        """Return the final states of empty rows: the initial state if that is what a layer returns, else zeros."""
        if self._get_layer(0, 0).output_is_state:
            return list(began[0][-self.directions :])
        return [x.new_zeros(began[0].shape[1], self.hidden_size)] * self.directions

    def _make_states(
        self,
        with_values: Callable[[Tensor], Batch[Hidden]],
        steps: Tensor,
        final: Sequence[Tensor],
        carry: Carry,
    ) -> States[S_co]:
        """Merge the directions, and return the states."""
        if not self.bidirectional:
            return self.make_states(with_values(steps), final[0], carry=carry)
        if self.merge != "concat":
            forward, backward = steps.chunk(2, dim=-1)
            steps = merge_directions(forward, backward, self.merge)
        return self.make_states(with_values(steps), merge_directions(final[0], final[1], self.merge), carry=carry)

    def _check(self, batch: Packed[Vectors]) -> None:
        """Reject values and initial states that do not fit, or that cannot be continued."""
        values, weight = batch.values, next(self.parameters())
        if values.shape[-1] != self.input_size:
            msg = (
                f"values have {values.shape[-1]} features per step, but the encoder reads {self.input_size}; make it "
                f"with input_size={values.shape[-1]}."
            )
            raise ShapeError(msg, argument="values")
        same_dtype = values.dtype is weight.dtype or torch.is_autocast_enabled(weight.device.type) or name_transform()
        if not same_dtype or values.device != weight.device:
            msg = (
                f"values are {values.dtype} on {values.device}, but the encoder is {weight.dtype} on {weight.device}; "
                "move one: batch.to(device), or encoder.to(dtype)."
            )
            raise ShapeError(msg)
        if batch.initial_carry is None:
            return
        if self.bidirectional and bool(batch.metadata.continues.any()):
            msg = (
                "a bidirectional encoder cannot continue rows from the preceding batch, because its backward direction "
                "starts at the end of a row; use bidirectional=False, or leave out with_carry."
            )
            raise OptionError(msg, bidirectional=True)
        wanted = [tuple(state.shape) for state in self._start(values, len(batch.lengths), None)]
        found = [tuple(state.shape) for state in batch.initial_carry]
        if wanted != found:
            msg = (
                f"initial_carry must be {len(wanted)} tensor(s) of {wanted[0]}, layers (x directions) x batch x state, "
                f"got {', '.join(map(str, found))}; pass the `carry` that this encoder returned for the same rows."
            )
            raise ShapeError(msg, argument="initial_carry")


def _multiply(keep: Tensor, start: Sequence[Tensor]) -> Tensor:
    """Return the products of factors and initial states, one per row, in the form of the factors."""
    wide = [state.unsqueeze(1) for state in start]
    if len(wide) == 1:
        return keep * wide[0]
    return torch.stack([keep[0] * wide[0] - keep[1] * wide[1], keep[0] * wide[1] + keep[1] * wide[0]])


def expand_scan_options(function: F) -> F:
    """Show the options of `Scanned.__init__` in a function's signature, in place of its `**options`."""
    signature = inspect.signature(function)
    own = [option for option in signature.parameters.values() if option.kind is not option.VAR_KEYWORD]
    base = inspect.signature(Scanned.__init__).parameters
    shared = [base[name] for name in ScanOptions.__annotations__]
    setattr(function, "__signature__", signature.replace(parameters=[*own, *shared]))  # noqa: B010 - not on the type
    return function
