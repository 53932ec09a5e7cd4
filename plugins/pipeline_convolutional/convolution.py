"""The base of convolutional encoders: layers of convolutions over rows that never read a neighboring row."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.extend import (
    Batch,
    Carry,
    Encoder,
    InferenceOptions,
    Layout,
    OptionError,
    S_co,
    ShapeError,
    States,
    Vectors,
    check_bool,
    check_int,
    check_probability,
    has_hooks,
    last_by_row,
    multiply_exactly,
)
from pipeline_convolutional.layout import LastSteps, Rows, lay_out


class Convolutional(Encoder[S_co]):
    """An encoder of stacked convolutions along time. Before and after a row there are zeros.

    The weights are those of ordinary `nn.Conv1d` layers, which are called, so that hooks, pruning and weight norm act
    on them.

    Args:
        input_size: features of an input vector.
        hidden_size: features that each convolution gives.
        outputs: the output of a convolution has this number times `hidden_size` features.
        kernel_sizes: the widths of the convolutions of a layer, which are put side by side.
        causal: whether a step reads itself and earlier steps only.
        num_layers: the number of layers.
        dilation: the distance of the steps that a kernel reads; a sequence has one for each layer.
        residual: add its input to the output of every layer but the first.
        dropout: probability on the output of every layer but the last.

    Raises:
        OptionError: if an option is out of its range.
    """

    exportable = True
    layouts: tuple[Layout, ...] = ("packed", "padded")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        outputs: int,
        kernel_sizes: Sequence[int],
        causal: bool,
        num_layers: int,
        dilation: int | Sequence[int],
        residual: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        _check_is_sequence(kernel_sizes)
        check_bool("causal", causal)
        check_bool("residual", residual)
        layers = check_int("num_layers", num_layers, minimum=1)
        dilations = dilation if isinstance(dilation, Sequence) else [dilation] * layers
        numbers = [("input_size", input_size), ("hidden_size", hidden_size)]
        numbers += [("dilation", each) for each in dilations] + [("kernel_sizes", each) for each in kernel_sizes]
        for option, number in numbers:
            check_int(option, number, minimum=1)
        if not kernel_sizes:
            msg = "kernel_sizes must have a width or more, got none; (3,) is a single convolution."
            raise OptionError(msg, kernel_sizes=kernel_sizes)
        if len(dilations) != num_layers:
            msg = f"dilation must be a number, or one for each of {num_layers} layers, got {len(dilations)} numbers."
            raise OptionError(msg, dilation=dilation)
        check_probability("dropout", dropout)
        for option, given in (("dropout", dropout), ("residual", residual)):
            if given and num_layers == 1:
                msg = f"{option}={given} acts between layers, but num_layers is 1; leave it out, or add layers."
                raise OptionError(msg, **{option: given})
        self.input_size: int = input_size
        self.hidden_size: int = hidden_size
        self.output_size: int = hidden_size * len(kernel_sizes)
        self.causal: bool = causal
        # The number of earlier steps that each layer reads.
        self._history: Sequence[int] = tuple(each * (max(kernel_sizes) - 1) for each in dilations)
        self.stateful: bool = causal and max(kernel_sizes) > 1
        self.num_layers: int = num_layers
        self.dilation: int | Sequence[int] = tuple(dilation) if isinstance(dilation, Sequence) else dilation
        self.residual: bool = residual
        self.dropout: float = dropout
        self.deterministic: bool = False
        self._kernel_sizes: Sequence[int] = tuple(kernel_sizes)
        self.layers: nn.ModuleList = nn.ModuleList(
            nn.ModuleList(
                _make_convolution(self.output_size if layer else input_size, outputs * hidden_size, width, each, causal)
                for width in kernel_sizes
            )
            for layer, each in enumerate(dilations)
        )

    def get_config(self) -> Mapping[str, object]:
        """Return the options with which this encoder can be made again."""
        names = ("input_size", "hidden_size", "causal", "num_layers", "dilation", "residual", "dropout")
        shown: dict[str, object] = {name: getattr(self, name) for name in names}
        return shown

    @abstractmethod
    def activate(self, values: Float[Tensor, "line time output"]) -> Float[Tensor, "line time hidden"]:
        """Return what a convolution gives after its nonlinearity, which must turn zeros into zeros."""

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Compute vectors whose bits do not depend on the batch, if the options say so."""
        self.deterministic = options.deterministic

    @override
    def forward(self, batch: Batch[Vectors]) -> States[S_co]:
        """Return the hidden vectors of a batch. The final state of a row is the vector of its last step.

        If the encoder is causal, the carry has for each layer the last of its inputs that later steps read: steps x
        batch x features. They are zeros at the beginning of a row.

        Raises:
            ShapeError: if the initial carry is not of this form.
        """
        before = self._read_carry(batch)
        # Without any step there is nothing to convolve, and a rectangle may have no column.
        has_history = before is not None and (torch.compiler.is_compiling() or batch.order.steps > 0)
        rows = lay_out(batch, self._reach(), rectangle=has_history)
        values = rows.values
        last = LastSteps(rows, max(self._history)) if self.stateful else None
        carry: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, nn.ModuleList)
            history = None if before is None else before[number]
            if last is not None:
                carry.append(last.take(values, self._history[number], history))
            earlier = history if has_history else None
            found = torch.cat([self._convolve(each, values, rows, earlier) for each in layer], dim=2)
            if self.residual and number:
                found = found + values
            if number < self.num_layers - 1:
                found = functional.dropout(found, self.dropout, self.training)
            values = found
        steps = rows.restore(values)
        return self.make_states(steps, last_by_row(steps), carry=tuple(carry) or None)

    def _read_carry(self, batch: Batch[Vectors]) -> Carry | None:
        """Return the initial carry of a batch.

        Raises:
            ShapeError: if it is not one of this encoder.
        """
        found = batch.initial_carry
        if found is None or not self.stateful:
            return None
        sizes = [self.input_size, *[self.output_size] * (self.num_layers - 1)]
        rows = batch.lengths.shape[0]
        wanted = [(steps, rows, size) for steps, size in zip(self._history, sizes, strict=True)]
        shapes = [tuple(each.shape) for each in found]
        if shapes != wanted:
            msg = f"initial_carry must be tensors of shapes {wanted}, got {shapes}; pass the carry of this encoder."
            raise ShapeError(msg, argument="initial_carry")
        return found

    def _reach(self) -> int:
        """Return the number of steps that the widest kernel of any layer reaches to one side."""
        largest = self.dilation if isinstance(self.dilation, int) else max(self.dilation)
        return max(largest * max(_split_reach(width, causal=self.causal)) for width in self._kernel_sizes)

    def _convolve(self, layer: nn.Module, values: Tensor, rows: Rows, history: Tensor | None) -> Tensor:
        """Return what one convolution gives, with zeros where there is no step, as the next layer needs.

        Args:
            layer: the convolution.
            values: its inputs.
            rows: the layout of the inputs.
            history: the inputs before those of a causal encoder, steps x batch x features; None for zeros.
        """
        assert isinstance(layer, nn.Conv1d)
        (width,), (dilation,) = layer.kernel_size, layer.dilation
        before, after = (dilation * each for each in _split_reach(width, causal=self.causal))
        time = values.shape[1]
        if history is not None:
            # The history of the widest kernel may be longer.
            values = torch.cat([history[history.shape[0] - before :].transpose(0, 1), values], dim=1)
        if self.deterministic:
            padded = functional.pad(values, (0, 0, before, after)) if history is None else values
            windows = torch.cat([padded[:, dilation * each :][:, :time] for each in range(width)], dim=2)
            found = multiply_exactly(windows, layer.weight.permute(2, 1, 0).flatten(0, 1))
            found = found if layer.bias is None else found + layer.bias
        elif history is None or has_hooks(layer):
            # A view: torch's kernels read vectors that lie one after the other, and write such, without a copy. They
            # pad both sides alike.
            found = layer(values.transpose(1, 2)).transpose(1, 2)
            found = found.narrow(1, max(before, after) - before if history is None else before, time)
        else:
            # Without padding: for a single step it would take several times the work.
            found = functional.conv1d(values.transpose(1, 2), layer.weight, layer.bias, dilation=dilation)
            found = found.transpose(1, 2)
        return self.activate(rows.clear_gaps(found))


def _check_is_sequence(kernel_sizes: object) -> None:
    if not isinstance(kernel_sizes, Sequence):
        msg = f"kernel_sizes must be a sequence of widths, got {kernel_sizes!r:.200}; write (3,) for one of 3 steps."
        raise OptionError(msg, kernel_sizes=kernel_sizes)


def _make_convolution(inputs: int, outputs: int, width: int, dilation: int, causal: bool) -> nn.Conv1d:
    padding = dilation * max(_split_reach(width, causal=causal))
    return nn.Conv1d(inputs, outputs, width, dilation=dilation, padding=padding)


def _split_reach(width: int, *, causal: bool) -> tuple[int, int]:
    """Return the number of kernel entries before the current step, and after it.

    A kernel of even width has one more after it.
    """
    before = width - 1 if causal else (width - 1) // 2
    return before, width - 1 - before
