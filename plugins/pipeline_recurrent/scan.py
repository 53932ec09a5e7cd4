"""First-order linear recurrences over packed rows by a parallel scan, with gradients by a scan in reverse."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, Protocol, final

import torch
from torch import Tensor
from torch.autograd.function import Function
from typing_extensions import override

from pipeline.extend import PackingOrder, name_transform
from pipeline_recurrent.native.scans import ScanJob, computes, differentiate_terms, scan_terms

BLOCK: Final = 64
"""Steps of a block, and the length of rows up to which the steps are computed one after another.

Of n steps, the blocks take 3 x 64 operations per level, and there are log(n) / log(64) levels. A block of a batch of 32
rows with 128 features takes 1 MB, which fits into the cache. With 32 and 128 the same scan took as long."""

_WIDE: Final = 2048
"""Numbers per time from which a CPU computes one time after another: an operation then takes longer than its call.

For 32 rows of 4,096 steps with 128 features that takes less than half the time of the blocks, which read everything
three times."""


def scan(
    keep: Tensor, add: Tensor, order: PackingOrder, *, reverse: bool = False, deterministic: bool = False
) -> Tensor:
    """Return h[t] = keep[t] h[t - 1] + add[t] at every step of every row, where h[-1] is 0.

    There is no logarithm: a product of factors below 1 may become 0, but never overflows. The steps are computed in
    blocks, all blocks at once, then the state at the end of each block by a scan of the blocks, then the steps again
    from there.

    Args:
        keep: the factors, steps x feature in packed order, real or complex. The factor of a row's first step has no
            effect, because nothing comes before it.
        add: the terms, of the same shape and dtype.
        order: the packed order.
        reverse: go from the last step of each row to the first: h[t] = keep[t] h[t + 1] + add[t].
        deterministic: compute one step after another, so that no bit of a row depends on other rows.

    Source: Blelloch 1990, "Prefix Sums and Their Applications", CMU-CS-90-190; for recurrent networks Martin and Cundy
    2018, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length", arXiv:1709.04057. Theirs is a tree of two
    levels per halving; ours has blocks, which a CPU reads in order.

    Example:
        >>> half = torch.full((4, 1), 0.5)
        >>> scan(half, torch.ones(4, 1), PackingOrder(torch.tensor([3, 1]))).flatten().tolist()
        [1.0, 1.0, 1.5, 1.75]
    """
    if not order.nonempty_count:
        return add + keep * 0
    if add.is_meta:
        return torch.addcmul(add, keep, add)
    if name_transform():
        return unroll(keep, add, order, reverse=reverse)
    return _apply(keep, add, order, reverse, deterministic)


def unroll(keep: Tensor, add: Tensor, order: PackingOrder, *, reverse: bool = False) -> Tensor:
    """Compute a scan one step after another, without in-place changes, for transforms of torch; with autograd."""
    sizes = order.batch_size_list
    factors, terms = keep.split_with_sizes(sizes), add.split_with_sizes(sizes)
    states: list[Tensor] = []
    if reverse:
        for factor, term in zip(reversed(factors), reversed(terms), strict=True):
            rows = len(states[-1]) if states else 0
            later = term[:rows] + factor[:rows] * states[-1] if rows else term[:0]
            states.append(torch.cat([later, term[rows:]]))
        return torch.cat(states[::-1])
    for rows, factor, term in zip(sizes, factors, terms, strict=True):
        states.append(term + factor * states[-1][:rows] if states else term)
    return torch.cat(states)


class _Context(Protocol):
    order: PackingOrder
    reverse: bool
    saved_tensors: Sequence[Tensor]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


@final
class _Scan(Function):
    """A scan as one differentiable operation; its gradient is a scan in the other direction."""

    @override
    @staticmethod
    def forward(
        ctx: _Context, keep: Tensor, add: Tensor, order: PackingOrder, reverse: bool, deterministic: bool
    ) -> Tensor:
        states = compute_scan(keep, add, order, reverse=reverse, deterministic=deterministic)
        ctx.save_for_backward(keep, states)
        ctx.order, ctx.reverse = order, reverse
        return states

    @override
    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        by_states = gradients[0]
        keep, states = ctx.saved_tensors
        order, reverse = ctx.order, ctx.reverse
        is_plain = not (torch.is_grad_enabled() or name_transform(by_states))
        if is_plain and _suits_kernels(keep, by_states, order):
            job = ScanJob("linear", order, reverse)
            return *differentiate_terms(job, keep, states, by_states), None, None, None
        # A state passes to the one after it, times the factor there.
        after = shift_steps(keep, order, reverse=not reverse).conj().resolve_conj()
        # Differentiable, as all operations here, so that second derivatives are right.
        run = unroll if name_transform(by_states) else scan
        by_add = run(after, by_states, order, reverse=not reverse)
        return by_add * shift_steps(states, order, reverse=reverse).conj(), by_add, None, None, None


# Torch leaves the type of `apply` open.
_apply: Callable[[Tensor, Tensor, PackingOrder, bool, bool], Tensor] = attrgetter("apply")(_Scan)


def shift_steps(values: Tensor, order: PackingOrder, *, reverse: bool = False) -> Tensor:
    """Return for each packed step the values of the step before it in its row, or after it if `reverse`; else zeros."""
    rows = order.nonempty_count
    if order.is_full(order.longest):
        zeros = values.new_zeros(rows, *values.shape[1:])
        return torch.cat([values[rows:], zeros] if reverse else [zeros, values[: len(values) - rows]])
    if reverse:
        return values.new_zeros(values.shape).index_copy(0, order.previous_steps, values[rows:])
    return torch.cat([values.new_zeros(rows, *values.shape[1:]), values.index_select(0, order.previous_steps)])


def compute_scan(
    keep: Tensor, add: Tensor, order: PackingOrder, *, reverse: bool, deterministic: bool = False
) -> Tensor:
    """Compute a scan without autograd; see `scan`."""
    longest = order.longest
    if _suits_kernels(keep, add, order):
        return scan_terms(ScanJob("linear", order, reverse), keep, add)
    states = add.clone(memory_format=torch.contiguous_format)
    is_wide = add.device.type == "cpu" and add.numel() >= _WIDE * longest
    if longest <= BLOCK or is_wide or deterministic:
        add_product = _add_product_by_parts if deterministic else _add_product
        _scan_by_time(keep, states, order.batch_size_list, add_product, reverse=reverse)
        return states
    if order.is_full(longest):
        # Steps of the same time are one wide step.
        wide = keep.contiguous().view(longest, -1)
        _scan_blocks(wide, states.view(longest, -1), reverse=reverse)
        return states
    return _scan_ragged(keep, states, order, reverse=reverse)


def _suits_kernels(keep: Tensor, add: Tensor, order: PackingOrder) -> bool:
    """Return whether the compiled kernels can compute a scan. They get addresses, so the shapes must fit."""
    return add.ndim == 2 and keep.shape == add.shape and len(add) == order.steps and computes(keep, add)


def _scan_ragged(keep: Tensor, states: Tensor, order: PackingOrder, *, reverse: bool) -> Tensor:
    """Scan rows of unequal lengths, each in blocks of its own; see `scan`.

    Blocks across rows would need no padding, with a factor of 0 between two rows. But 0 times NaN is NaN, and would
    pass from one row to the next.
    """
    counts = (order.lengths + BLOCK - 1) // BLOCK
    row, time = order.locate_steps()
    slots = (counts.cumsum(0) - counts).to(keep.device)[row] * BLOCK + time
    blocks, features = int(counts.sum()), keep.shape[-1]
    factors, own = (
        each.new_zeros(blocks * BLOCK, features).index_copy_(0, slots, each).view(blocks, BLOCK, features)
        for each in (keep, states)
    )
    product, total = _summarize_blocks(factors, own, reverse=reverse)
    # The ends of a row's blocks are a shorter row.
    of_blocks = PackingOrder(counts, keep.device)
    reading = of_blocks.reading_order
    products, terms = (each.new_empty(each.shape).index_copy_(0, reading, each) for each in (product, total))
    ends = compute_scan(products, terms, of_blocks, reverse=reverse)
    before = shift_steps(ends, of_blocks, reverse=reverse).index_select(0, reading)
    _finish_blocks(factors, own, before, reverse=reverse)
    return own.flatten(0, 1).index_select(0, slots)


def _summarize_blocks(factors: Tensor, own: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """Return the product of each block's factors, and its state at the end if it began with zeros.

    Args:
        factors: blocks x steps x feature.
        own: the terms, of the same shape.
        reverse: the direction.
    """
    steps = range(factors.shape[1])[:: -1 if reverse else 1]
    product, total = factors[:, steps[0]].clone(), own[:, steps[0]].clone()
    for step in steps[1:]:
        product.mul_(factors[:, step])
        torch.addcmul(own[:, step], factors[:, step], total, out=total)
    return product, total


def _finish_blocks(factors: Tensor, own: Tensor, before: Tensor, *, reverse: bool) -> None:
    """Compute all states from the state before each block; `own` holds the terms, and then the states."""
    steps = range(factors.shape[1])[:: -1 if reverse else 1]
    for step in steps:
        own[:, step].addcmul_(factors[:, step], before)
        before = own[:, step]


def _add_product(own: Tensor, factors: Tensor, states: Tensor) -> None:
    own.addcmul_(factors, states)


def _add_product_by_parts(own: Tensor, factors: Tensor, states: Tensor) -> None:
    """Add a product by operations that round a number alike, wherever it lies in its tensor; complex ones do not."""
    if not own.is_complex():
        own.add_(factors * states)
        return
    parts, (x, y), (u, v) = (torch.view_as_real(each).unbind(-1) for each in (own, factors, states))
    parts[0].add_(x * u - y * v)
    parts[1].add_(x * v + y * u)


def _scan_by_time(
    keep: Tensor,
    states: Tensor,
    sizes: Sequence[int],
    add_product: Callable[[Tensor, Tensor, Tensor], None] = _add_product,
    *,
    reverse: bool,
) -> None:
    """Scan packed steps one time after another; `states` holds the terms, and then the states."""
    factors, own = keep.split_with_sizes(list(sizes)), states.split_with_sizes(list(sizes))
    for time in reversed(range(len(own) - 1)) if reverse else range(1, len(own)):
        if reverse:
            rows = sizes[time + 1]
            add_product(own[time][:rows], factors[time][:rows], own[time + 1])
        else:
            add_product(own[time], factors[time], own[time - 1][: sizes[time]])


def _scan_blocks(keep: Tensor, states: Tensor, *, reverse: bool) -> None:
    """Scan a single sequence, steps x feature, in place; see `scan`. `states` holds the terms, and then the states."""
    steps = len(states)
    blocks = steps // BLOCK
    if blocks < 2:
        _scan_by_time(keep, states, [1] * steps, reverse=reverse)
        return
    whole = blocks * BLOCK
    # The steps that fill no block come last in the direction of reading.
    inside = slice(steps - whole, steps) if reverse else slice(whole)
    factors, own = (each[inside].view(blocks, BLOCK, -1) for each in (keep, states))
    product, total = _summarize_blocks(factors, own, reverse=reverse)
    _scan_blocks(product, total, reverse=reverse)
    zeros = torch.zeros_like(total[:1])
    before = torch.cat([total[1:], zeros] if reverse else [zeros, total[:-1]])
    _finish_blocks(factors, own, before, reverse=reverse)
    rest = steps - whole
    for step in reversed(range(rest)) if reverse else range(whole, steps):
        states[step].addcmul_(keep[step], states[step + 1 if reverse else step - 1])
