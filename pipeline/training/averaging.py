"""Exponential moving averages of the weights, for validation and for the end of training."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, final

import torch
from torch import Tensor, nn


@final
class WeightAverage:
    """Exponential moving average of the trainable weights of a module.

    The average of optimizer step n is d * average + (1 - d) * weights, where d = min(decay, (1 + n) / (10 + n)): the
    first averages forget faster, or they would be near the random weights of the beginning.

    Source: Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging", doi:10.1137/0330046; the
    decay of the first steps as in TensorFlow's `ExponentialMovingAverage(num_updates=...)`.

    Args:
        module: the module.
        decay: between 0 and 1; near 1 for a slow average.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(layer, 0.999)
        >>> with torch.no_grad():
        ...     _ = layer.weight.fill_(1.0)
        >>> average.update()
        >>> with average.applied():
        ...     inside = layer.weight.item()
        >>> inside != 1.0, layer.weight.item()
        (True, 1.0)
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay: Final = decay
        self.updates: int = 0
        self._weights: Final[Sequence[Tensor]] = [weight for weight in module.parameters() if weight.requires_grad]
        self.averages: Final[Sequence[Tensor]] = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, weight in zip(self.averages, self._weights, strict=True):
            average.lerp_(weight, 1 - decay)

    @contextmanager
    def applied(self) -> Generator[None]:
        """Put the averages into the module, and the weights back at the end."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchange averages and weights, in place: optimizers and other modules hold the same tensors."""
        for average, weight in zip(self.averages, self._weights, strict=True):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)
