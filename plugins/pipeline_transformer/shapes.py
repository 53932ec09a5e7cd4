"""Functions on shapes that torch leaves partly untyped, with types."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

split_features: Final[Callable[..., tuple[Tensor, ...]]] = getattr(torch, "split")  # noqa: B009
"""Split a tensor into views of some sizes: `split_features(tensor, sizes, dim=-1)`."""

unfold_axis: Final[Callable[[Tensor, int, Sequence[int]], Tensor]] = getattr(torch, "unflatten")  # noqa: B009
"""Replace an axis by several ones: `unfold_axis(tensor, dim, sizes)`."""
