"""Types of targets other than one class: numbers, several classes per row, and several targets by name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import ClassVar, Final, TypeAlias, cast, final

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from typing_extensions import override

from pipeline.checks.hints import describe
from pipeline.checks.options import check_int
from pipeline.errors import TargetError
from pipeline.labels import Labels, check_labels, get_scalar, is_missing, to_steps

MISSING: Final = torch.nan
"""The target of a row without one, if targets are numbers. Classes have `IGNORED` instead."""


class TargetType(ABC):
    """Converts the targets of a batch's rows to one tensor with one entry per row.

    Attributes:
        is_sequence: whether targets are sequences of ids with lengths of their own, `IGNORED` (-100) in the padding.
    """

    is_sequence: ClassVar[bool] = False

    @abstractmethod
    def convert(self, targets: Sequence[object], row_ids: Sequence[int]) -> Shaped[Tensor, "batch *size"]:
        """Return the targets as floating-point numbers, NaN for rows without a target; or as sequences of ids.

        Args:
            targets: the target of each row; None if it has none.
            row_ids: the row ids, for errors.

        Raises:
            TargetError: naming the row, if a target is not of this type.
        """


@final
class Numbers(TargetType):
    """Numbers to predict by regression: one per row, or a vector of them.

    A vector is a list of floats, an array or a tensor: a list of integers would be taken for one class per step. A text
    with a number, as CSV files have it, is as good as the number.

    Args:
        size: the number of numbers per row; None for a single number.

    Example:
        >>> Numbers().convert([2.5, None], [0, 1]).tolist()
        [2.5, nan]
        >>> Numbers(2).convert([[2.5, 1], None], [0, 1]).tolist()
        [[2.5, 1.0], [nan, nan]]
    """

    def __init__(self, size: int | None = None) -> None:
        self.size: Final = None if size is None else check_int("size", size, minimum=1)

    @override
    def convert(self, targets: Sequence[object], row_ids: Sequence[int]) -> Float[Tensor, "batch *size"]:
        shape = () if self.size is None else (self.size,)
        rows: list[object] = []
        for target, row in zip(targets, row_ids, strict=True):
            if is_missing(target):
                rows.append(np.full(shape, np.nan))
                continue
            rows.append(_to_numbers(target, shape, row))
        return torch.tensor(np.array(rows, np.float64), dtype=torch.get_default_dtype(), device="cpu")

    @override
    def __repr__(self) -> str:
        return f"Numbers({'' if self.size is None else self.size})"


def _to_numbers(target: object, shape: tuple[int, ...], row: int) -> object:
    rule = "a finite number" if not shape else f"{shape[0]} finite numbers"
    value = get_scalar(target)
    try:
        value = float(value) if isinstance(value, str) else value
        array = np.array(to_steps(value))
    except (TypeError, ValueError, RuntimeError):
        array = np.array("")
    # A larger number would be infinite in the tensor.
    largest = torch.finfo(torch.get_default_dtype()).max
    if array.dtype.kind not in "iuf" or array.shape != shape or not (np.abs(array) <= largest).all():
        msg = (
            f"the target of row {row} must be {rule}, got {describe(target)} {target!r:.60}; convert it, or use None "
            "for a row without a target."
        )
        raise TargetError(msg, row=row)
    return array


@final
class MultiLabels(TargetType):
    """Several classes per row, or no class: targets are sets of class names.

    A list would be taken for one class per step; pass a set.

    Args:
        labels: the classes.

    Raises:
        OptionError: if they are not `Labels`.

    Example:
        >>> MultiLabels(Labels(["art", "law", "sea"])).convert([{"sea", "art"}, set(), None], [0, 1, 2]).tolist()
        [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [nan, nan, nan]]
    """

    def __init__(self, labels: Labels) -> None:
        check_labels("labels", labels)
        self.labels: Final = labels

    @override
    def convert(self, targets: Sequence[object], row_ids: Sequence[int]) -> Float[Tensor, "batch classes"]:
        values = torch.zeros(len(targets), len(self.labels), device="cpu")
        for index, (target, row) in enumerate(zip(targets, row_ids, strict=True)):
            if is_missing(target):
                values[index] = MISSING
                continue
            if not isinstance(target, AbstractSet):
                msg = f"the target of row {row} must be a set of class names, got {target!r:.60}; pass set(names)."
                raise TargetError(msg, row=row)
            for name in cast("AbstractSet[object]", target):
                if not isinstance(name, str):
                    msg = f"the target of row {row} must be a set of class names, got {name!r} in it; use the names."
                    raise TargetError(msg, row=row)
                values[index, self.labels.to_id(name, row=row)] = 1
        return values

    @override
    def __repr__(self) -> str:
        return f"MultiLabels({self.labels!r})"


Targets: TypeAlias = Labels | TargetType
"""The type of a target: one class by its name (`Labels`), numbers, or several classes."""

NamedTargets: TypeAlias = Mapping[str, Targets]
"""The types of several targets per row, by their names."""
