"""Merge the two directions of a bidirectional encoder."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Merge = Literal["concat", "mean", "sum", "max", "mul"]
"""How the two directions of the last layer are joined, for hidden vectors and final states alike."""


def merge_directions(
    forward: Float[Tensor, "*axes hidden"], backward: Float[Tensor, "*axes hidden"], merge: Merge
) -> Float[Tensor, "*axes merged"]:
    """Join the two directions: side by side for concat, elementwise for the others.

    Example:
        >>> one, two = torch.tensor([1.0, 4.0]), torch.tensor([3.0, 2.0])
        >>> [merge_directions(one, two, merge).tolist() for merge in ("concat", "mean", "max", "mul")]
        [[1.0, 4.0, 3.0, 2.0], [2.0, 3.0], [3.0, 4.0], [3.0, 8.0]]
    """
    match merge:
        case "concat":
            return torch.cat([forward, backward], dim=-1)
        case "mean":
            return (forward + backward) / 2
        case "sum":
            return forward + backward
        case "max":
            return torch.maximum(forward, backward)
        case "mul":
            return forward * backward
