"""Encoder output (hidden vectors and final states), pooled vectors, and the first and last step of each row."""

from collections.abc import Mapping
from typing import Final, Generic, Literal, Self, cast

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import TypeVar

from pipeline.checks.hints import describe
from pipeline.checks.shapes import checked
from pipeline.checks.switches import checks_enabled
from pipeline.data.batches import Batch, Carry, Packed, Padded
from pipeline.data.graph_packing import locate_ends
from pipeline.data.kinds import Hidden, Kind
from pipeline.data.metadata import BatchMetadata, Collated, check_metadata, make_row_metadata, number_rows
from pipeline.data.packing_order import PackingOrder
from pipeline.data.report import Report
from pipeline.data.trees import as_pytree, build_unchecked
from pipeline.errors import ShapeError


class MaybeCausal:
    """Marks states in which a step may depend on later steps of its row."""


class Causal(MaybeCausal):
    """Marks states in which no step depends on a later one."""


S = TypeVar("S", bound=MaybeCausal)
T = TypeVar("T")
S_co = TypeVar("S_co", bound=MaybeCausal, covariant=True, default=MaybeCausal)


@as_pytree
@checked
@attrs.frozen(eq=False, init=False)
class States(Collated, Generic[S_co]):
    """One hidden vector per real step, in either layout, and the final state of each row.

    Made by hand, states do not count as causal: their type is `States[MaybeCausal]`. An encoder makes its states with
    `Encoder.make_states`, which have the causality of its type. `with_values` keeps that of the states.

    Attributes:
        steps: the hidden vectors, as a batch of the encoded rows.
        final: the final state of each row as the encoder returned it, both directions merged. Attention stages leave
            it unchanged.
        carry: the encoder's final recurrent state, in the form of `initial_carry`; None if the encoder has none.
        bidirectional: whether the encoder read rows from both ends. Such a carry may start a decoder, but the next
            batch cannot continue from it: its backward half belongs to the first step of a row.
        outdated: why `final` does not belong to the steps: the stage that changed the steps after the encoder, for
            example. `Pool("final")` rejects such states. None if it belongs to them.
        engine: the name of the engine that computed the states, if the encoder has several; for reports.

    Raises:
        ShapeError: if the final states differ from the steps in the number of rows or the size.

    Example:
        >>> import torch
        >>> states = States.from_padded(torch.ones(2, 3, 4), torch.tensor([3, 1]))
        >>> states.packed().values.shape, states.padded().values[1, :, 0].tolist()
        (torch.Size([4, 4]), [1.0, 0.0, 0.0])
    """

    steps: Batch[Hidden]
    final: Float[Tensor, "batch hidden"]
    carry: Carry | None = attrs.field(default=None, kw_only=True)
    bidirectional: bool = attrs.field(default=False, kw_only=True)
    outdated: str | None = attrs.field(default=None, kw_only=True)
    engine: str | None = attrs.field(default=None, kw_only=True)

    # Written by hand for the type of `self`: states made by a call never count as causal.
    def __init__(
        self: "States[MaybeCausal]",
        steps: Batch[Hidden],
        final: Float[Tensor, "batch hidden"],
        *,
        carry: Carry | None = None,
        bidirectional: bool = False,
        outdated: str | None = None,
        engine: str | None = None,
    ) -> None:
        for name, value in (
            ("steps", steps),
            ("final", final),
            ("carry", carry),
            ("bidirectional", bidirectional),
            ("outdated", outdated),
            ("engine", engine),
        ):
            object.__setattr__(self, name, value)
        self.__attrs_post_init__()

    def __attrs_post_init__(self) -> None:
        if not checks_enabled():
            return
        expected = (self.steps.lengths.shape[0], self.steps.values.shape[-1])
        if not issubclass(cast("type[Kind]", self.steps.kind), Hidden) or self.final.shape != expected:
            msg = (
                f"States: final must be batch x hidden, {expected} like the steps, got {describe(self.final)} "
                f"with {self.steps.kind.__name__} of {describe(self.steps.values)}; compute both from the same rows."
            )
            raise ShapeError(msg, argument="final")

    @classmethod
    def from_padded(
        cls,
        values: Float[Tensor, "batch time hidden"],
        lengths: Int64[Tensor, " batch"],
        *,
        final: Float[Tensor, "batch hidden"] | None = None,
    ) -> "States[MaybeCausal]":
        """Return states from a plain rectangle, to call a pooling or an attention without an encoder.

        Args:
            values: the hidden vectors.
            lengths: the number of real steps of each row; on the CPU.
            final: the final state of each row, such as `h_n` of a GRU. If None, it is the last real step, or zeros if
                the row is empty, and `Pool("final")` rejects the states: the backward half of a bidirectional
                encoder has read only one step there.

        Raises:
            ShapeError: if the tensors do not fit each other.
            LengthError: if a length is negative or larger than the width.
        """
        steps = _make_steps(values, lengths)
        if final is not None:
            return States(steps, final)
        # Without checks: final states that were taken from the steps fit them.
        return _build(States, steps, last_by_row(steps), "States.from_padded got no final states")

    @property
    def lengths(self) -> Int64[Tensor, " batch"]:
        """The number of steps of each row, in reading order; on the CPU."""
        return self.steps.lengths

    @property
    def width(self) -> int:
        """The size of the time axis in the padded layout."""
        return self.steps.width

    @property
    def order(self) -> PackingOrder:
        """The positions of the steps when packed."""
        return self.steps.order

    @property
    def metadata(self) -> BatchMetadata:
        """Row ids, targets and masks."""
        return self.steps.metadata

    @property
    def mask(self) -> Bool[Tensor, "batch time"]:
        """True at the real steps of the rectangle that `padded` returns."""
        return self.steps.mask

    def packed(self) -> Packed[Hidden]:
        """Return the hidden vectors of the real steps only."""
        return self.steps.packed()

    def padded(self) -> Padded[Hidden]:
        """Return the hidden vectors in a rectangle, with zeros in the padding."""
        return self.steps.padded().fill_padding(0) if isinstance(self.steps, Padded) else self.steps.padded()

    def with_values(self, steps: Batch[Hidden], *, stage: str = "a stage") -> Self:
        """Return these states with other vectors per step, in the current layout; final states are unchanged.

        Args:
            steps: the vectors, for the same rows.
            stage: the stage that computed them. `Pool("final")`, for which they have no effect, names it in its error.
        """
        now = self.steps
        steps = steps if isinstance(now, Padded) else steps.packed()
        outdated = f"{stage} changed the steps after the encoder"
        # Steps like the present ones surely fit the final states. By exact type: the rest is left to the checks of new
        # states. In a graph, whose sizes are symbolic, nothing is compared.
        if checks_enabled() and not (
            type(steps) is type(now)
            and steps.lengths is now.lengths
            and (steps.kind is Hidden or steps.kind is now.kind)
            and steps.values.dtype is now.values.dtype
            and steps.values.shape == now.values.shape
        ):
            return attrs.evolve(self, steps=steps, outdated=outdated)
        others = {"carry": self.carry, "bidirectional": self.bidirectional, "engine": self.engine}
        return _build(type(self), steps, self.final, outdated, others)

    def report(self) -> Report:
        """Return the numbers of real and padded steps, and the engine that computed these states."""
        return attrs.evolve(self.steps.report(), engines={} if self.engine is None else {self.engine: 1})


def _make_steps(values: Tensor, lengths: Tensor) -> Padded[Hidden]:
    """Return hidden vectors as a batch. Fast path: all of its checks in one expression."""
    are_plain = type(values) is Tensor and type(lengths) is Tensor and lengths.dtype is torch.int64 and lengths.is_cpu
    if are_plain and checks_enabled():
        rows, *others = values.shape
        if len(others) == 2 and lengths.shape == (rows,) and rows and values.is_floating_point():
            order = PackingOrder(lengths, values.device)
            order.read_lengths()
            if order.shortest >= 0 and order.longest <= others[0]:
                given = {"kind": Hidden, "values": values, "lengths": lengths, "order": order}
                given |= {"initial_carry": None, "fields": None, "inner": None, "metadata": number_rows(rows)}
                return build_unchecked(cast("type[Padded[Hidden]]", Padded), given)
    return Padded(Hidden, values, lengths)


_NONE: Final[Mapping[str, object]] = {"carry": None, "bidirectional": False, "engine": None}


def _build(cls: type[T], steps: Batch[Hidden], final: Tensor, outdated: str, others: Mapping[str, object] = _NONE) -> T:
    """Return states without checks."""
    return build_unchecked(cls, {"steps": steps, "final": final, "outdated": outdated, **others})


@as_pytree
@checked
@attrs.frozen(eq=False)
class Pooled(Collated):
    """One vector per row.

    Example:
        >>> import torch
        >>> Pooled(torch.zeros(2, 3)).row_ids.tolist()
        [0, 1]
    """

    values: Float[Tensor, "batch hidden"]
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(make_row_metadata, takes_self=True), kw_only=True)

    def __attrs_post_init__(self) -> None:
        if checks_enabled():
            check_metadata(self.metadata, self.values.shape[0])

    def with_values(self, values: Float[Tensor, "batch feature"]) -> Self:
        """Return the same rows with other vectors, which may have another size.

        A stage that makes its output with this method keeps the row ids and targets.

        Example:
            >>> import torch
            >>> Pooled(torch.ones(2, 3)).with_values(torch.zeros(2, 5)).values.shape
            torch.Size([2, 5])
        """
        return attrs.evolve(self, values=values)


def first_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Return the first step of each row; zeros for an empty row."""
    if isinstance(steps, Packed):
        return _select_by_row(steps, 0)
    if steps.width == 0:
        return zeros_by_row(steps)
    return steps.values[:, 0].masked_fill(empty_rows_mask(steps), 0)


def last_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Return the last real step of each row; zeros for an empty row."""
    if isinstance(steps, Packed):
        return _select_by_row(steps, 1)
    width = steps.values.shape[1]
    if width == 0:
        return zeros_by_row(steps)
    if steps.order.is_full(width):
        return steps.values.select(1, -1)  # half of the time of an index in brackets
    # An empty row has no last step: it gathers its first position, which may hold anything, and is filled with zeros.
    last = (steps.order.lengths_on_device - 1).clamp(min=0).reshape(-1, 1, 1).expand(-1, 1, steps.values.shape[2])
    return steps.values.gather(1, last).squeeze(1).masked_fill(empty_rows_mask(steps), 0)


def _select_by_row(steps: Packed[Hidden], end: Literal[0, 1]) -> Float[Tensor, "batch feature"]:
    """Return the first or the last packed step of each nonempty row, and zeros for the empty ones."""
    order = steps.order
    if torch.compiler.is_compiling():
        # Empty rows select a row of zeros after the steps: a graph has no number of nonempty rows.
        values = torch.cat([steps.values, steps.values.new_zeros(1, steps.values.shape[-1])])
        return values.index_select(0, locate_ends(order.lengths, steps.values.shape[0])[end].to(values.device))
    selected = steps.values.index_select(0, order.last_steps if end else order.first_steps)
    if order.nonempty_count == len(order.lengths):
        return selected
    return zeros_by_row(steps).index_copy(0, order.nonempty_rows, selected)


def empty_rows_mask(steps: Batch[Hidden]) -> Bool[Tensor, "batch 1"]:
    """Return a mask that is True at the empty rows."""
    return (steps.order.lengths_on_device == 0).unsqueeze(-1)


def zeros_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Return a zero vector for each row."""
    return steps.values.new_zeros(steps.lengths.shape[0], steps.values.shape[-1])
