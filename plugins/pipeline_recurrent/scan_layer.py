"""One direction of one layer whose steps are computed by a scan: by the compiled kernels, or in torch's operations."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import ClassVar, NamedTuple, Protocol, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.nn.functional import linear
from typing_extensions import override

from pipeline.extend import PackingOrder, has_hooks, name_transform
from pipeline_recurrent.engines.engine import is_autocast, needs_grad
from pipeline_recurrent.native.scans import (
    Projection,
    Recurrence,
    ScanJob,
    computes,
    differentiate_product,
    differentiate_projection,
    scan_product,
    scan_projection,
)
from pipeline_recurrent.scan import scan


class ScanLayer(nn.Module, ABC):
    """One direction of one layer: h[t] = keep[t] h[t - 1] + add[t], where neither depends on h.

    Attributes:
        recurrence: the compiled kernel that computes it.
        state_size: features of the state.
        output_size: features of the output.
        is_complex: whether the state is complex. The carry holds its real and imaginary parts.
        output_is_state: whether the output is the state itself.
        is_positive: whether the candidate is made positive.
        deterministic: whether no bit of a row may depend on other rows.
    """

    recurrence: ClassVar[Recurrence]
    state_size: int
    output_size: int
    is_complex: bool = False
    output_is_state: bool = True
    is_positive: bool = False
    deterministic: bool = False

    @property
    @abstractmethod
    def projection(self) -> nn.Linear:
        """The matrix product of the input: all that a step needs of it."""

    def project(self, x: Float[Tensor, "*axes feature"]) -> Float[Tensor, "*axes columns"]:
        """Return the product in float32 or wider: a state is a sum over many steps."""
        return widen(cast("Tensor", self.projection(x)))

    def make_constants(self) -> Sequence[Tensor]:
        """Return what is the same at all steps; nothing by default."""
        return ()

    @abstractmethod
    def make_terms(self, product: Float[Tensor, "*axes columns"], *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors and terms of all steps.

        They are *axes x state; of a complex state 2 x *axes x state, the real and the imaginary parts.
        """

    def read(
        self, states: Float[Tensor, "*axes state"], x: Float[Tensor, "*axes feature"]
    ) -> Float[Tensor, "*axes output"]:
        """Return the output of all steps, from their input and their states; the parts of complex ones side by side."""
        return states.to(x.dtype)

    def run(
        self, x: Float[Tensor, "steps feature"], order: PackingOrder, start: Tensor | None, *, reverse: bool
    ) -> Float[Tensor, "steps state"]:
        """Return the states of packed steps; the parts of complex ones side by side.

        Args:
            x: the input.
            order: the packed order, of one step at least.
            start: initial states, row x state, the longest row first; None for zeros.
            reverse: read each row from its last step to its first.
        """
        formula = _Formula(self, order, reverse)
        is_fused = _is_plain(self.projection, x)
        given = x if is_fused else self.project(x)
        constants = [each.to(given.dtype) for each in self.make_constants()]
        if start is not None:
            start = start.to(given.dtype)
        if not order.nonempty_count or not computes(given, *constants):
            return formula.compute(self.project(x) if is_fused else given, start, *constants)
        size = self.state_size * (2 if self.is_complex else 1)
        began = given.new_zeros(order.nonempty_count, size) if start is None else start
        weights: tuple[Tensor | None, Tensor | None] = (None, None)
        if is_fused:
            weights = self.projection.weight, self.projection.bias
        job = ScanJob(self.recurrence, order, reverse, self.is_positive)
        if needs_grad([*weights, given, began, *constants]):
            return _apply(job, formula, *weights, given, began, *constants)
        return _compute(job, *weights, given, began, constants, keep=False)[1]


def widen(values: Tensor) -> Tensor:
    """Return at least float32: a state is a sum over many steps."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _is_plain(projection: nn.Linear, x: Tensor) -> bool:
    """Return whether a projection is no more than a product, which the kernels may ask for in parts."""
    weight = projection.weight
    return (
        type(projection) is nn.Linear
        and not has_hooks(projection)
        and not is_autocast(x.device.type)
        and computes(x, weight)
    )


class _Formula(NamedTuple):
    """The states of a layer in torch's operations."""

    layer: ScanLayer
    order: PackingOrder
    reverse: bool

    def compute(self, product: Tensor, start: Tensor | None, *constants: Tensor) -> Tensor:
        """Return the states, as `ScanLayer.run`."""
        layer, order = self.layer, self.order
        keep, add = layer.make_terms(product, *constants)
        if layer.is_complex:
            keep, add = torch.complex(keep[0], keep[1]), torch.complex(add[0], add[1])
        if start is not None:
            began = torch.complex(*start.chunk(2, dim=-1)) if layer.is_complex else start
            # A forward direction begins at the first packed steps, which are the first steps of all rows.
            first = order.sorted_last_steps if self.reverse else torch.arange(order.nonempty_count, device=add.device)
            add = add.index_add(0, first, keep.index_select(0, first) * began)
        states = scan(keep, add, order, reverse=self.reverse, deterministic=layer.deterministic)
        return torch.cat([states.real, states.imag], dim=-1) if layer.is_complex else states


class _Context(Protocol):
    job: ScanJob
    formula: _Formula
    needs_input_grad: Sequence[bool]
    saved_tensors: Sequence[Tensor | None]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


def _compute(
    job: ScanJob,
    weight: Tensor | None,
    bias: Tensor | None,
    given: Tensor,
    start: Tensor,
    constants: Sequence[Tensor],
    *,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Return product and states; without a weight, the product is given."""
    if weight is None:
        return given, scan_product(job, given, start, constants)
    return scan_projection(job, Projection(given, weight, bias), start, constants, keep=keep)


@final
class _NativeScan(Function):
    """The kernels as one differentiable operation of weight, bias, input, initial states and constants.

    Without a weight, the product is given in place of the input.
    """

    @override
    @staticmethod
    def forward(
        ctx: _Context,
        job: ScanJob,
        formula: _Formula,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor,
        start: Tensor,
        *constants: Tensor,
    ) -> Tensor:
        product, states = _compute(job, weight, bias, given, start, constants, keep=True)
        ctx.job, ctx.formula = job, formula
        ctx.save_for_backward(weight, bias, given, start, *constants, product, states)
        return states

    @override
    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias = ctx.saved_tensors[:2]
        given, start, *constants, product, states = cast("Sequence[Tensor]", ctx.saved_tensors[2:])
        needed, job, by_states = ctx.needs_input_grad[2:], ctx.job, gradients[0]
        # Grad mode is on in a backward pass if its gradients will be differentiated themselves. A backward pass for a
        # batch of gradients is a transform, though the forward pass was none.
        if torch.is_grad_enabled() or name_transform(*gradients):
            tensors = [weight, bias, given, start, *constants]
            return None, None, *_differentiate_formula(ctx.formula, tensors, by_states, needed)
        found: Sequence[Tensor | None]
        if weight is None:
            found = None, None, *differentiate_product(job, product, start, constants, states, by_states)
        else:
            layer = Projection(given, weight, bias), start, constants
            found = differentiate_projection(job, *layer, product, states, by_states, needs_x=needed[2])
        return None, None, *(each if wanted else None for each, wanted in zip(found, needed, strict=True))


# Torch leaves the type of `apply` open.
_apply: Callable[..., Tensor] = attrgetter("apply")(_NativeScan)


def _differentiate_formula(
    formula: _Formula, tensors: Sequence[Tensor | None], by_states: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Return gradients that can be differentiated themselves, and be computed for a batch of gradients."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views: each is a node of its own, whose gradient does not reach what it was computed from.
        own = [None if each is None else each.view_as(each) for each in tensors]
        weight, bias = own[:2]
        given, start, *constants = cast("Sequence[Tensor]", own[2:])
        states = formula.compute(given if weight is None else linear(given, weight, bias), start, *constants)
        inputs = [each for each, wanted in zip(own, needed, strict=True) if wanted and each is not None]
        found = iter(torch.autograd.grad(states, inputs, by_states, create_graph=differentiable))
    return [next(found) if wanted else None for wanted in needed]
