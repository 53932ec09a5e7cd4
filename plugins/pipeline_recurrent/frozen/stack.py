"""A stack of recurrent layers with fixed weights, arranged once; one call of the kernels computes a batch."""

import ctypes
from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor, nn

from pipeline.extend import Carry, PackingOrder, Precision
from pipeline_recurrent.engines.engine import STATES, Cell, LayerOutputs, Steps, Weights
from pipeline_recurrent.engines.native_layout import CELLS
from pipeline_recurrent.frozen.arrange import NUMBERS_PER_WORD, Arranged, Shape, arrange_direction
from pipeline_recurrent.frozen.kernels import (
    AMX_WORDS,
    Batch,
    Direction,
    InferenceKernels,
    Layer,
    Matrix,
    Stack,
    load_inference_kernels,
    make_array,
)
from pipeline_recurrent.native.threads import share_out

_PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "bfloat16", "int8")
"""In the order of the enum in inference.c."""

_MIN_HIDDEN_FOR_AMX: Final = 128
"""Of int8, whose results are the same without it. Smaller layers are up to a fifth slower with AMX."""


@final
class FrozenStack:
    """Weights arranged for the kernels. Later changes of the weights have no effect.

    A row's results have the same bits alone and in any batch, in any order, with any number of threads.

    Args:
        cell: the kind of cell.
        weights: for each layer, those of each direction; float32 on the CPU.
        precision: the precision of products. They are added in float32, or exactly; states are float32.
        norms: a layer normalization of the output of every layer but the last; or empty.
        residual: whether every layer but the first adds its input to its output.
        tables: for ids, the input products of each direction of the first layer, (gates x hidden) x id.
        instruction_set: one by name, instead of the best one of this machine.

    Raises:
        UnavailableError: if the kernels cannot be used.
    """

    def __init__(
        self,
        cell: Cell,
        weights: Sequence[Sequence[Weights]],
        precision: Precision,
        *,
        norms: Sequence[nn.LayerNorm] = (),
        residual: bool = False,
        tables: Sequence[Tensor] = (),
        instruction_set: str | None = None,
    ) -> None:
        self.kernels: InferenceKernels = load_inference_kernels(instruction_set)
        self.cell: Cell = cell
        self.features: int = weights[0][0][0].shape[1]
        self.hidden: int = weights[0][0][1].shape[1]
        self.layers: int = len(weights)
        self.directions: int = len(weights[0])
        self._products = sum(weight.numel() for layer in weights for own in layer for weight in own[:2])
        self._products = self._products // NUMBERS_PER_WORD[precision]
        # Without instructions for bfloat16, its products are those of float32 with rounded weights.
        self._rounds = precision == "bfloat16" and not self.kernels.has_bfloat16
        self._precision: Precision = "float32" if self._rounds else precision
        least = {"bfloat16": 0, "int8": _MIN_HIDDEN_FOR_AMX}.get(self._precision)
        uses_amx = self.kernels.amx and least is not None and self.hidden >= least
        self._shape = Shape.fit(cell, self.hidden, self.kernels.lanes, AMX_WORDS if uses_amx else 1)
        # Tensors and structs whose addresses the kernels read.
        self._kept: list[object] = [*tables]
        with torch.no_grad():
            layers = [
                self._make_layer(
                    [
                        self._make_direction(own, tables[direction] if tables and not number else None)
                        for direction, own in enumerate(layer)
                    ],
                    tables[0].shape[1] if tables and not number else layer[0][0].shape[1],
                    norms[number] if norms and number < self.layers - 1 else None,
                )
                for number, layer in enumerate(weights)
            ]
        self._stack = Stack(
            cell=CELLS.index(cell),
            precision=_PRECISIONS.index(self._precision),
            count=self.layers,
            directions=self.directions,
            residual=residual,
            hidden=self.hidden,
            panels=self._shape.panels,
            vecs=self._shape.vecs,
            amx=uses_amx,
            layers=self._keep_array(Layer, layers),
        )

    def run(self, steps: Steps, order: PackingOrder, initial: Carry | None) -> LayerOutputs:
        """Return the output of the last layer, and the final states of all rows in reading order.

        Args:
            steps: vectors or ids, in packed order.
            order: the packed order.
            initial: tensors of (layers x directions) x batch x hidden, rows in reading order; None for zeros.
        """
        batch, rows, count = order.lengths.shape[0], order.nonempty_count, order.steps
        output = torch.empty(count, self.directions * self.hidden, dtype=torch.float32, device="cpu")
        shape = (STATES[self.cell], self.layers * self.directions, batch, self.hidden)
        # The kernels see no empty rows: these keep their initial states.
        kept = None if rows == batch else initial
        make = torch.empty if rows == batch else torch.zeros
        ended = (make(shape, dtype=torch.float32, device="cpu") if kept is None else torch.stack(kept)).unbind()
        if not count:
            return output, ended
        steps = steps.contiguous()
        began = () if initial is None else tuple(state.contiguous() for state in initial)
        given = Batch(batch, rows, order.longest, count)
        # Rows of one length are in packed order already.
        if not order.is_full(order.longest):
            given.alive, given.order = order.batch_sizes.data_ptr(), order.sorted_indices.data_ptr()
        if steps.is_floating_point():
            given.x = steps.data_ptr()
        else:
            given.ids = steps.data_ptr()
        for name, state in zip(("h0", "c0"), began, strict=False):
            setattr(given, name, state.data_ptr())
        for name, state in zip(("h1", "c1"), ended, strict=False):
            setattr(given, name, state.data_ptr())
        given.output = output.data_ptr()
        # Products in low precision take a half and a quarter of the time.
        chunks, threads = share_out(2 * count * self._products, rows=rows, directions=self.directions)
        self.kernels.run(self._stack, given, chunks=chunks, threads=threads)
        return output, ended

    def _make_direction(self, weights: Weights, table: Tensor | None) -> Direction:
        by_input, by_state = arrange_direction(
            self.cell, weights, self._shape, self._precision, rounds=self._rounds, looks_up=table is not None
        )
        made = Direction(state=self._make_matrix(by_state))
        if by_input is not None:
            made.input = self._make_matrix(by_input)
        if table is not None:
            made.table, made.table_stride = table.data_ptr(), table.stride(1)
        return made

    def _make_matrix(self, arranged: Arranged) -> Matrix:
        self._kept.append(arranged)
        addresses = (tensor.data_ptr() for tensor in arranged)
        return Matrix(*addresses, arranged.panels.shape[1])

    def _make_layer(self, directions: Sequence[Direction], features: int, norm: nn.LayerNorm | None) -> Layer:
        made = Layer(features=features, directions=self._keep_array(Direction, directions))
        if norm is not None:
            tensors = [tensor.detach().clone() for tensor in (norm.weight, norm.bias)]
            self._kept += tensors
            made.weight, made.shift = (tensor.data_ptr() for tensor in tensors)
            made.epsilon = norm.eps
        return made

    def _keep_array(self, structure: type[ctypes.Structure], values: Sequence[ctypes.Structure]) -> int:
        """Return the address of structs in an array, which is kept."""
        array = make_array(structure, values)
        self._kept.append(array)
        return ctypes.addressof(array)
