"""The inputs of an exported model: plain tensors, from which the model's batch is made, and samples of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias, cast, final

import attrs
import torch
from torch import Tensor

from pipeline.core.stage import StageBase
from pipeline.data.batches import Packed, Padded
from pipeline.data.kinds import Composite, Ids, Kind, Nested, get_inner_kind, get_kind_class
from pipeline.data.packing_order import PackingOrder
from pipeline.errors import ExportError
from pipeline.export.sizes import INNER, find_size

Role: TypeAlias = Literal["ids", "vectors", "lengths", "state"]
"""What a tensor holds."""

_IN_PADDING: Final = 10**9
"""The id in the padding of samples: no table has it."""


@final
@attrs.frozen
class Input:
    """One tensor that an exported model takes.

    Attributes:
        name: its name.
        role: what it holds.
        axes: the names of its first axes; empty for one of fixed size.
        size: the number of ids, or the number of features, which are its last axis; None for lengths.
        lengths: the name of the lengths of its last dynamic axis; of lengths, those of the axis before, or None.
        dtype: the name of its dtype.
        shape: of a state its sizes before the first step, when it is all zeros.
    """

    name: str
    role: Role
    axes: tuple[str, ...]
    size: int | None = None
    lengths: str | None = None
    dtype: str = "int64"
    shape: tuple[int | str, ...] | None = None


@final
@attrs.frozen
class _Node:
    """A sequence of the model's input.

    Attributes:
        kind: its kind.
        values: the tensor with its steps; None for a kind with fields.
        lengths: the tensor with its lengths; None for sides, each of which has lengths of its own.
        fields: the sequences of its fields.
        inner: for nested rows, the sequence of an inner row.
    """

    kind: type[Kind]
    values: Input | None
    lengths: Input | None
    fields: "Mapping[str, _Node] | None" = None
    inner: "_Node | None" = None


@final
class BatchInputs:
    """The tensors that make up a batch of a kind.

    Rows are padded: ids are batch x time, vectors batch x time x feature, ids of nested rows batch x time x inner_time.

    Args:
        kind: the kind of the rows.
        model: the stages that take the batch; they say how many ids or features there are.
        sizes: the number of ids or features of each input that they do not state, by its name.
        dtype: the dtype of vectors.

    Raises:
        ExportError: if a size is not known or of no input, or the kind is not supported.
    """

    def __init__(
        self,
        kind: type[Kind],
        model: Sequence[StageBase],
        sizes: Mapping[str, int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._sizes = dict(sizes)
        self._dtype = dtype
        self._model = model
        self.kind: type[Kind] = kind
        self._root = self._describe(kind, (), None)
        self.inputs: Sequence[Input] = list(dict.fromkeys(_list_inputs(self._root)))
        names = [each.name for each in self.inputs if each.role != "lengths"]
        if unknown := sorted(self._sizes.keys() - names):
            msg = f"sizes must be of the inputs {', '.join(names)}, got {unknown[0]!r}; leave it out."
            raise ExportError(msg, input=unknown[0])

    def _describe(self, kind: type[Kind], path: tuple[str, ...], lengths: Input | None) -> _Node:
        """Describe a sequence; `lengths` are given if it shares those of its row."""
        base = cast("type[Kind]", get_kind_class(kind))
        prefix = "_".join(name for name in path if name != INNER)
        side = prefix if lengths is None else ""
        is_inner = INNER in path
        time = _join(side, "time")
        if lengths is None:
            lengths = Input(_join(side, "lengths"), "lengths", ("batch",))
        if issubclass(base, Composite):
            if is_inner:
                msg = f"{kind.__name__} in nested rows cannot be exported yet; export a model without EachStep over it."
                raise ExportError(msg)
            shared = lengths if base.aligned else None
            fields = {name: self._describe(each, (*path, name), shared) for name, each in base.get_kinds().items()}
            return _Node(kind, None, shared, fields=fields)
        if base is Nested:
            inner_kind = get_inner_kind(kind) or Ids
            name = _join(prefix, "inner_lengths")
            counts = Input(name, "lengths", ("batch", time), lengths=lengths.name)
            leaf = self._describe_leaf(inner_kind, (*path, INNER), ("batch", time, _join(prefix, "inner_time")), counts)
            return _Node(kind, None, lengths, inner=leaf)
        return self._describe_leaf(kind, path, ("batch", time), lengths)

    def _describe_leaf(self, kind: type[Kind], path: tuple[str, ...], axes: tuple[str, ...], lengths: Input) -> _Node:
        if get_kind_class(kind) is Nested or issubclass(cast("type", get_kind_class(kind)), Composite):
            msg = f"rows of {kind!r} within nested rows cannot be exported; export a model of rows with one level."
            raise ExportError(msg)
        role: Role = "ids" if kind is Ids else "vectors"
        name = "_".join(each for each in path if each != INNER) or role
        size = self._sizes.get(name) or find_size(self._model, path)
        if size is None:
            what = "ids" if kind is Ids else "features"
            msg = f"the number of {what} of input {name!r} is not known; pass it: sizes={{{name!r}: ...}}."
            lazy = next((type(stage).__name__ for stage in self._model if getattr(stage, "is_lazy", False)), None)
            if lazy is not None:
                msg = f"the number of {what} of input {name!r} is not known, since {lazy} does not know its input size "
                msg += f"yet; pass it there: {lazy}(..., input_size=...)."
            raise ExportError(msg, input=name)
        dtype = "int64" if role == "ids" else str(self._dtype).removeprefix("torch.")
        return _Node(kind, Input(name, role, axes, size, lengths.name, dtype), lengths)

    def make_shape(self) -> dict[str, int]:
        """Return a size for each dynamic axis, all different, so that none is taken for another."""
        axes = dict.fromkeys(axis for each in self.inputs for axis in each.axes)
        return {axis: 3 + 2 * number for number, axis in enumerate(axes)}

    def make_example(self) -> list[Tensor]:
        """Return tensors whose dynamic axes all have different sizes."""
        return list(self.draw(self.make_shape(), torch.Generator().manual_seed(0)).values())

    def make_batch(self, tensors: Mapping[str, Tensor]) -> Padded[Kind]:
        """Return the batch of some tensors. Works in graphs."""
        return _make_batch(self._root, tensors, None)

    def draw(self, shape: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return random tensors: some rows are empty, and what is in the padding must not matter.

        Args:
            shape: the size of each dynamic axis.
            generator: of random numbers.
        """
        drawn: dict[str, Tensor] = {}
        for each in self.inputs:
            if each.role == "lengths":
                sizes = [shape[axis] for axis in each.axes]
                longest = shape[_get_time(each, self.inputs)]
                drawn[each.name] = torch.randint(0, longest + 1, sizes, generator=generator)
        for each in self.inputs:
            sizes = [shape[axis] for axis in each.axes]
            if each.role == "ids":
                ids = torch.randint(0, each.size or 1, sizes, generator=generator)
                drawn[each.name] = ids.masked_fill(self._is_padding(each, drawn, sizes), _IN_PADDING)
            elif each.role == "vectors":
                vectors = torch.randn(*sizes, each.size or 1, generator=generator, dtype=self._dtype)
                padding = self._is_padding(each, drawn, sizes).unsqueeze(-1)
                drawn[each.name] = vectors.masked_fill(padding, torch.nan)
        return {each.name: drawn[each.name] for each in self.inputs}

    def _is_padding(self, each: Input, drawn: Mapping[str, Tensor], sizes: Sequence[int]) -> Tensor:
        """Return which positions of a tensor are padding, of its own axis or of an axis before it."""
        lengths = drawn[cast("str", each.lengths)]
        padding = torch.arange(sizes[-1]) >= lengths.unsqueeze(-1)
        outer = next((other.lengths for other in self.inputs if other.name == each.lengths), None)
        if outer is not None:
            padding = padding | (torch.arange(sizes[1]) >= drawn[outer].unsqueeze(-1)).unsqueeze(-1)
        return padding


_sym_max: Callable[[int, int], int] = getattr(torch, "sym_max")  # noqa: B009 - torch leaves its type open


def _join(prefix: str, name: str) -> str:
    return f"{prefix}_{name}" if prefix else name


def _get_time(lengths: Input, inputs: Sequence[Input]) -> str:
    """Return the axis that lengths count."""
    # Of a kind with fields, every field has the same axis.
    return next(each.axes[len(lengths.axes)] for each in inputs if each.lengths == lengths.name)


def _list_inputs(node: _Node) -> Iterator[Input]:
    """Yield the tensors of a sequence, values before their lengths."""
    children = [*(node.fields or {}).values(), *([] if node.inner is None else [node.inner])]
    for child in children:
        yield from _list_inputs(child)
    if node.values is not None:
        yield node.values
    if node.lengths is not None:
        yield node.lengths


def _make_batch(node: _Node, tensors: Mapping[str, Tensor], order: PackingOrder | None) -> Padded[Kind]:
    if node.lengths is None:
        return _make_sides(node, tensors)
    if order is None:
        order = PackingOrder(tensors[node.lengths.name], "cpu")
    if node.values is not None:
        return Padded(node.kind, tensors[node.values.name], order.lengths, order=order)
    if node.inner is not None:
        return _make_nested(node.inner, tensors, order)
    fields = {name: _make_batch(field, tensors, order) for name, field in (node.fields or {}).items()}
    first = next(iter(fields.values()))
    values = torch.zeros(first.values.shape[0], first.width, 0)
    return Padded(node.kind, values, order.lengths, fields=fields, order=order)


def _make_sides(node: _Node, tensors: Mapping[str, Tensor]) -> Padded[Kind]:
    """Return rows with sides, each as long as its longest side."""
    sides = {name: _make_batch(side, tensors, None) for name, side in (node.fields or {}).items()}
    order = PackingOrder(torch.stack([side.lengths for side in sides.values()]).amax(0), "cpu")
    width, batch = 0, 0
    for side in sides.values():
        # In a graph sizes are symbols: `max` would fix which is larger.
        width, batch = _sym_max(width, side.width), side.values.shape[0]
    return Padded(node.kind, torch.zeros(batch, width, 0), order.lengths, fields=sides, order=order)


def _make_nested(inner: _Node, tensors: Mapping[str, Tensor], order: PackingOrder) -> Padded[Kind]:
    """Return nested rows, whose inner rows are numbered from 0; equal ones are not found, which needs their values."""
    assert inner.values is not None
    assert inner.lengths is not None
    counts = tensors[inner.lengths.name]
    batch, time = counts.shape
    # Inner rows of padding steps may have any length: their steps would be embedded.
    counts = counts.masked_fill(~order.mask(time), 0)
    values = tensors[inner.values.name].flatten(0, 1)
    inner_order = PackingOrder(counts.flatten(), "cpu")
    rows = Padded(inner.kind, values, inner_order.lengths, order=inner_order)
    numbers = torch.arange(batch * time).view(batch, time)
    # In a graph whose rows stay padded, the inner rows do so too.
    packed = cast("Packed[Kind]", rows) if torch.compiler.is_compiling() else rows.packed()
    return Padded(cast("type[Kind]", Nested), numbers, order.lengths, order=order, inner=packed)
