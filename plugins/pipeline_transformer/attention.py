"""Attention within each row: compiled kernels of torch where they can be used, else products in blocks."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, final

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from pipeline.extend import draw_bits, find_last_kept, name_transform
from pipeline_transformer import native_attention
from pipeline_transformer.blocks import Block, attend_block, differentiate_block, list_blocks
from pipeline_transformer.flash import KERNELS, attend_group, differentiate_group
from pipeline_transformer.fused import make_mask
from pipeline_transformer.layout import Group
from pipeline_transformer.shapes import split_features
from pipeline_transformer.spec import AttentionForm

_SAVED_BYTES: Final = 2**28
"""The most memory, per layer, for weights that are saved for the backward pass; beyond it they are computed again."""


def attend_rows(
    projected: Float[Tensor, "steps feature"],
    groups: Sequence[Group],
    form: AttentionForm,
    bias: Float[Tensor, "heads query key"] | None = None,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "steps hidden"]:
    """Return the contexts of all heads of each step, side by side; on the CPU.

    No padding is computed. Without learned biases, windows and dropout, memory is linear in the lengths. Second
    derivatives exist.

    Args:
        projected: queries, keys and values of all heads side by side, row by row; see `RowLayout`.
        groups: the rows of each length.
        form: the heads, and which steps a step attends to.
        bias: a number per head and pair of steps that is added to the score, for the longest row.
        dropout: the probability with which a weight becomes 0; the others are divided by 1 - dropout.

    Source: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762; the kernels are those of Dao et al.
    2022, "FlashAttention", arXiv:2205.14135.

    Example:
        >>> form = AttentionForm(heads=1, kv_heads=1, size=1, causal=True, window=None)
        >>> steps = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 3.0]])
        >>> attend_rows(steps, [Group(0, 1, 2)], form).tolist()
        [[1.0], [2.0]]
    """
    tensors = [projected] if bias is None else [projected, bias]
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    fused = (
        KERNELS is not None
        and not dropout
        and form.window is None
        and not (bias is not None and bias.requires_grad and torch.is_grad_enabled())
    )
    longest = groups[0].length if groups else 0
    native = bias is None and native_attention.computes(projected, form, longest)
    call = _Call(groups, form, dropout, native=native, fused=fused, needs_gradient=needs_gradient)
    return _apply(call, projected, bias)


@final
@attrs.define(eq=False)
class _Call:
    """The arguments of an attention that are not tensors, and the number of tensors that it has saved."""

    groups: Sequence[Group]
    form: AttentionForm
    dropout: float
    native: bool
    fused: bool
    needs_gradient: bool
    saved_weights: bool = False

    def list_blocks(self) -> list[Block]:
        """Return the blocks of all groups."""
        return [block for group in self.groups for block in list_blocks(group, self.form)]


class _AttendRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, call: _Call, projected: Tensor, bias: Tensor | None) -> Tensor:
        """Return the contexts."""
        projected = projected.contiguous()
        contexts = projected.new_empty(projected.shape[0], call.form.heads * call.form.size)
        saved: list[Tensor] = []
        with _without_autocast():
            if call.native:
                saved = native_attention.attend(projected, call.list_blocks(), call.form, call.dropout, contexts)
            elif call.fused:
                saved = [attend_group(projected, group, call.form, bias, contexts) for group in call.groups]
            else:
                saved = _attend_in_blocks(call, projected, bias, contexts)
        save: Callable[..., None] = ctx.save_for_backward
        save(projected, bias, contexts if call.fused and not call.native else None, *saved)
        setattr(ctx, "call", call)  # noqa: B010 - torch does not declare the attributes of a context
        return contexts

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the projection and the bias."""
        call: _Call = getattr(ctx, "call")  # noqa: B009
        tensors: tuple[Tensor | None, ...] = getattr(ctx, "saved_tensors")  # noqa: B009
        bias, contexts = tensors[1:3]
        projected, *saved = (tensor for tensor in (tensors[0], *tensors[3:]) if tensor is not None)
        needed: tuple[bool, ...] = getattr(ctx, "needs_input_grad")  # noqa: B009
        # With `create_graph=True` gradients are enabled here, and every operation must be differentiable.
        if torch.is_grad_enabled() or name_transform(*gradients):
            masks = saved[-len(call.list_blocks()) :] if call.dropout else []
            if call.native:
                masks = [make_mask(bits, call.dropout, projected.dtype) for bits in masks]
            return None, *_backward_with_graph(call, projected, bias, masks, gradients[0], needed[1:])
        with _without_autocast():
            gradient = gradients[0].contiguous()
            if call.native:
                blocks = call.list_blocks()
                of_projected = native_attention.differentiate(
                    projected, blocks, call.form, call.dropout, saved, gradient
                )
                return None, of_projected, None
            if contexts is not None:
                of_projected = torch.empty_like(projected)
                for group, sums in zip(call.groups, saved, strict=True):
                    differentiate_group(projected, group, call.form, bias, contexts, sums, gradient, of_projected)
                return None, of_projected, None
            # Long rows are divided into blocks, whose gradients add up.
            is_divided = any(not block.is_whole for block in call.list_blocks())
            of_projected = torch.zeros_like(projected) if is_divided else torch.empty_like(projected)
            of_bias = torch.zeros_like(bias) if bias is not None and needed[2] else None
            _differentiate_blocks(call, projected, bias, saved, gradient, of_projected, of_bias)
            return None, of_projected, of_bias


_apply: Final[Callable[..., Tensor]] = getattr(_AttendRows, "apply")  # noqa: B009
"""`_AttendRows.apply` with a type."""


def _without_autocast() -> AbstractContextManager[object]:
    """Compute in the dtype of the projection, which autocast has chosen already."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def _attend_in_blocks(call: _Call, projected: Tensor, bias: Tensor | None, contexts: Tensor) -> list[Tensor]:
    """Write the contexts, and return what the backward pass needs: weights, if they are few, then masks of dropout."""
    blocks = call.list_blocks()
    scores = sum(block.count_scores(call.form) for block in blocks)
    call.saved_weights = call.needs_gradient and scores * max(4, projected.element_size()) <= _SAVED_BYTES
    weights: list[Tensor] = []
    masks: list[Tensor] = []
    for block in blocks:
        mask = None
        if call.dropout:
            dtype = projected.dtype if projected.dtype.itemsize > 4 else torch.float32
            mask = draw_mask(block.shape_scores(call.form), call.dropout, dtype)
            if call.needs_gradient:
                masks.append(mask)
        found, own = attend_block(projected, block, call.form, bias, mask)
        block.select(contexts, block.queries).copy_(found)
        if call.saved_weights:
            weights.append(own)
    return weights + masks


def _differentiate_blocks(
    call: _Call,
    projected: Tensor,
    bias: Tensor | None,
    saved: Sequence[Tensor],
    gradient: Tensor,
    of_projected: Tensor,
    of_bias: Tensor | None,
) -> None:
    """Write the gradients block by block."""
    blocks = call.list_blocks()
    weights = _pad_with_none(saved[: len(blocks)] if call.saved_weights else [], blocks)
    masks = _pad_with_none(saved[len(saved) - len(blocks) :] if call.dropout else [], blocks)
    for block, own, mask in zip(blocks, weights, masks, strict=True):
        differentiate_block(projected, block, call.form, bias, own, mask, gradient, of_projected, of_bias)


def draw_mask(shape: Sequence[int], dropout: float, dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """Draw numbers of which each is 0 with a probability, else 1 / (1 - dropout); from 16 random bits for each."""
    mask = torch.empty(*shape, dtype=dtype, device="cpu")
    # Written as numbers: a comparison of its own, and then a conversion, take several times as long.
    torch.le(draw_bits(mask.shape), find_last_kept(dropout), out=mask)
    return mask.mul_(1 / (1 - dropout))


def _backward_with_graph(
    call: _Call,
    projected: Tensor,
    bias: Tensor | None,
    masks: Sequence[Tensor],
    gradient: Tensor,
    needed: Sequence[bool],
) -> Sequence[Tensor | None]:
    """Return differentiable gradients: compute the contexts again, with torch's operations."""
    create_graph = torch.is_grad_enabled()
    blocks = call.list_blocks()
    with torch.enable_grad(), _without_autocast():
        # A view is a node of its own in the graph.
        inputs = [None if tensor is None else tensor.view_as(tensor) for tensor in (projected, bias)]
        rows, own_bias = inputs
        assert rows is not None
        parts = [
            attend_block(rows, block, call.form, own_bias, mask)[0].reshape(-1, call.form.heads * call.form.size)
            for block, mask in zip(blocks, _pad_with_none(masks, blocks), strict=True)
        ]
        contexts = torch.cat(parts)
    wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need and tensor is not None]
    found = iter(torch.autograd.grad(contexts, wanted, gradient, create_graph=create_graph))
    return [next(found) if need else None for need in needed]


def _pad_with_none(saved: Sequence[Tensor], blocks: Sequence[Block]) -> Sequence[Tensor | None]:
    """Return a tensor per block; None per block if none was saved."""
    return saved or [None] * len(blocks)


def attend_padded(
    projected: Float[Tensor, "batch time feature"],
    mask: Bool[Tensor, "batch time"],
    form: AttentionForm,
    bias: Float[Tensor, "heads query key"] | None = None,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "batch time hidden"]:
    """Return `attend_rows` of a rectangle, by an operation that graphs and all devices have.

    Args:
        projected: queries, keys and values of all heads side by side; finite in the padding.
        mask: True at the real steps.
        form: see `attend_rows`, as for the other arguments.
        bias: for the width of the rectangle.
        dropout: the probability with which a weight becomes 0.
    """
    batch, width = projected.shape[0], projected.shape[1]
    sizes = [form.heads * form.size, form.kv_heads * form.size, form.kv_heads * form.size]
    query, key, values = (
        part.reshape(batch, width, -1, form.size).transpose(1, 2) for part in split_features(projected, sizes, dim=-1)
    )
    if form.sharing > 1:
        key, values = (part.unsqueeze(2).expand(-1, -1, form.sharing, -1, -1).flatten(1, 2) for part in (key, values))
    time = torch.arange(width, device=projected.device)
    # Steps in the padding attend to themselves too: a softmax over no key would be NaN.
    allowed = mask[:, None, None, :] & form.allows(time.unsqueeze(1), time) | (time.unsqueeze(1) == time)
    attn_mask = allowed if bias is None else bias.to(query.dtype).masked_fill(~allowed, -torch.inf)
    # Under transforms, torch's fused kernels have no forward-mode and no second derivatives.
    is_transformed = not torch.compiler.is_compiling() and name_transform() is not None
    with sdpa_kernel(SDPBackend.MATH) if is_transformed else nullcontext():
        contexts = scaled_dot_product_attention(
            query, key, values, attn_mask=attn_mask, dropout_p=dropout, scale=form.scale
        )
    return contexts.transpose(1, 2).flatten(2)
