"""What is timed is asserted equal first."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

_ZERO: Final = 1e-6


class UnequalError(Exception):
    """Two candidates that do not compute the same: to time them would compare nothing."""


def check_alike(answers: Mapping[str, Sequence[Tensor]], tolerance: float = 1e-3) -> None:
    """Refuse candidates that differ from the first one by more than rounding does.

    Args:
        answers: what each candidate gave, tensor by tensor.
        tolerance: how much of the largest number in a tensor a difference may be.

    Raises:
        UnequalError: if a candidate gives another number of tensors, other shapes, or other numbers.
    """
    (first, wanted), *others = answers.items()
    for name, came in others:
        if [each.shape for each in came] != [each.shape for each in wanted]:
            shapes = ", ".join(str(tuple(each.shape)) for each in came)
            msg = f"{name!r} must give what {first!r} gives, but gave tensors of {shapes}; mend it before timing it."
            raise UnequalError(msg)
        for index, (one, two) in enumerate(zip(came, wanted, strict=True)):
            allowed = tolerance * _largest(two)
            if not torch.allclose(one, two, rtol=0.0, atol=allowed):
                most = _largest(one - two)
                msg = (
                    f"tensor {index} of {name!r} must equal that of {first!r} within {allowed:.2g}, but differs by "
                    f"{most:.2g}; mend it before timing it."
                )
                raise UnequalError(msg)


def _largest(tensor: Tensor) -> float:
    """The largest number, whatever its sign; not quite zero if all are zero."""
    return max(_ZERO, float(tensor.detach().abs().max())) if tensor.numel() else _ZERO
