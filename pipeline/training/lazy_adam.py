"""Adam for embeddings with sparse gradients: only the rows of ids that occur in a batch are read and written."""

from collections.abc import Callable
from typing import Any, cast, final, overload

import torch
from torch import Tensor
from torch.optim import Adam
from typing_extensions import override


@final
class LazyAdam(Adam):
    """Adam, lazy for weights with sparse gradients: a row without a gradient does not move.

    In Adam every row moves in every step, also without a gradient, as long as its average gradient is not zero. Here
    a row's averages decay only in steps in which it has a gradient, as in torch's `SparseAdam`; but `eps` is added as
    in Adam, so that both are equal where all rows have gradients. Weights with dense gradients are those of torch's
    Adam. Weight decay has no effect on lazy weights.

    Source: Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980.
    """

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @override
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one optimizer step."""
        loss: float | None = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        lazy: list[tuple[dict[str, Any], Tensor, Tensor]] = [
            (group, weight, weight.grad)
            for group in self.param_groups
            for weight in cast("list[Tensor]", group["params"])
            if weight.grad is not None and weight.grad.is_sparse
        ]
        for _, weight, _ in lazy:
            weight.grad = None
        # Torch leaves its type open.
        step: Callable[[], object] = getattr(super(), "step")  # noqa: B009
        step()
        for group, weight, gradient in lazy:
            weight.grad = gradient
            self._move_rows(group, weight, gradient.coalesce())
        return loss

    @torch.no_grad()
    def _move_rows(self, group: dict[str, Any], weight: Tensor, gradient: Tensor) -> None:
        state: dict[str, Tensor] = self.state[weight]
        if not state:
            # The names and types of torch's Adam, so that its states can be loaded.
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        rows, own = gradient.indices()[0], gradient.values()
        lr, (beta, beta_sq), step = float(group["lr"]), group["betas"], float(state["step"])
        mean = state["exp_avg"].index_select(0, rows).lerp_(own, 1 - beta)
        square = state["exp_avg_sq"].index_select(0, rows).mul_(beta_sq).addcmul_(own, own, value=1 - beta_sq)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        root = square.div_(1 - beta_sq**step).sqrt_().add_(group["eps"])
        weight.index_add_(0, rows, mean.div_(root), alpha=-lr / (1 - beta**step))
