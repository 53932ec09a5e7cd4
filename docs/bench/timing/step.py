"""What is timed: a step of training, or of inference."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Step: TypeAlias = Callable[[], tuple[Tensor, ...]]
"""A step that gives its output, and in training the gradients after it."""


def step_of(forward: Callable[[], Tensor], wanted: Sequence[Tensor], *, learning: bool) -> Step:
    """A step through a way to compute an output.

    The loss is the sum of the squares of all that comes out: each number has a gradient, and no two the same.

    Args:
        forward: the way; its padding, if it has any, has to be zeros.
        wanted: what gradients are asked for.
        learning: whether they are: if not, nothing is kept for them.

    Example:
        >>> weight = torch.tensor([3.0], requires_grad=True)
        >>> step_of(lambda: 2 * weight, [weight], learning=True)()
        (tensor([6.]), tensor([24.]))
        >>> step_of(lambda: 2 * weight, [weight], learning=False)()
        (tensor([6.]),)
    """

    def learn() -> tuple[Tensor, ...]:
        output = forward()
        return output.detach(), *torch.autograd.grad(output.square().sum(), wanted)

    def infer() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return (forward(),)

    return learn if learning else infer
