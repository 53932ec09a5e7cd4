"""One direction of one layer whose steps are computed by a scan: by the compiled kernels, or in torch's operations."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import ClassVar, NamedTuple, Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import Function
from typing_extensions import override

from pipeline.extend import PackingOrder, name_transform
from pipeline_recurrent.engines.engine import needs_grad
from pipeline_recurrent.native.scans import Recurrence, ScanJob, computes, differentiate_product, scan_product
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

    @abstractmethod
    def project(self, x: Float[Tensor, "*axes feature"]) -> Float[Tensor, "*axes columns"]:
        """Return all that a step needs of its input, by one matrix product, in float32 or wider."""

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
        product = self.project(x)
        constants = [each.to(product.dtype) for each in self.make_constants()]
        job = ScanJob(self.recurrence, order, reverse, self.is_positive)
        formula = _Formula(self, order, reverse)
        if start is not None:
            start = start.to(product.dtype)
        if not order.nonempty_count or not computes(product, *constants):
            return formula.compute(product, start, *constants)
        size = self.state_size * (2 if self.is_complex else 1)
        began = product.new_zeros(order.nonempty_count, size) if start is None else start.contiguous()
        tensors = [product.contiguous(), began, *(each.contiguous() for each in constants)]
        if needs_grad(tensors):
            return _apply(job, formula, *tensors)
        return scan_product(job, tensors[0], tensors[1], tensors[2:])


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
    saved_tensors: Sequence[Tensor]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


@final
class _NativeScan(Function):
    """The kernels as one differentiable operation of product, initial states and constants."""

    @override
    @staticmethod
    def forward(
        ctx: _Context, job: ScanJob, formula: _Formula, product: Tensor, start: Tensor, *constants: Tensor
    ) -> Tensor:
        states = scan_product(job, product, start, constants)
        ctx.job, ctx.formula = job, formula
        ctx.save_for_backward(product, start, *constants, states)
        return states

    @override
    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        product, start, *constants, states = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        # Grad mode is on in a backward pass if its gradients will be differentiated themselves. A backward pass for a
        # batch of gradients is a transform, though the forward pass was none.
        if torch.is_grad_enabled() or name_transform(*gradients):
            return None, None, *_differentiate_formula(ctx.formula, (product, start, *constants), gradients[0], needed)
        found = differentiate_product(ctx.job, product, start, constants, states, gradients[0])
        return None, None, *(each if wanted else None for each, wanted in zip(found, needed, strict=True))


# Torch leaves the type of `apply` open.
_apply: Callable[..., Tensor] = attrgetter("apply")(_NativeScan)


def _differentiate_formula(
    formula: _Formula, tensors: Sequence[Tensor], by_states: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Return gradients that can be differentiated themselves, and be computed for a batch of gradients."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views: each is a node of its own, whose gradient does not reach what it was computed from.
        own = [each.view_as(each) for each in tensors]
        states = formula.compute(*own)
        inputs = [each for each, wanted in zip(own, needed, strict=True) if wanted]
        found = iter(torch.autograd.grad(states, inputs, by_states, create_graph=differentiable))
    return [next(found) if wanted else None for wanted in needed]
