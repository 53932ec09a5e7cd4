"""Sequences that are numbered already."""

from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias, cast, final

import torch
from torch import Tensor
from typing_extensions import override

from pipeline.checks.shapes import described
from pipeline.data.lists import tensors_of
from pipeline.data.rows import Example, Ids, Row
from pipeline.errors import ValuesError
from pipeline.stages.input_stage import InputStage

Numbered: TypeAlias = Sequence[int] | Tensor


@final
class FromIds(InputStage[Numbered, Ids]):
    """Whole numbers in, as lists or tensors, rows of ids out.

    Example:
        >>> [len(row) for row in FromIds().map([[1, 2, 3], [], [4]])]
        [3, 0, 1]
    """

    @override
    def rows(self, examples: Sequence[Example[Numbered]], places: Sequence[int]) -> list[Row[Ids]]:
        """The rows of some examples.

        Raises:
            ValuesError: if an input is no sequence of whole numbers from 0.
        """
        inputs = [example.input for example in examples]
        ids = _together(inputs) or [_ids(value, place) for value, place in zip(inputs, places, strict=True)]
        return [
            Row(Ids(values), example.target, place)
            for values, example, place in zip(ids, examples, places, strict=True)
        ]


def _together(inputs: Sequence[object]) -> list[Tensor] | None:
    """The ids of lists of plain numbers, all made at once; None if there is anything else among them."""
    if any(type(value) is not list for value in inputs):
        return None
    lists = cast("Sequence[list[object]]", inputs)
    if not {type(number) for number in chain.from_iterable(lists)} <= {int}:
        return None
    numbers = cast("Sequence[list[int]]", lists)
    if min(chain.from_iterable(numbers), default=0) < 0:
        return None
    try:
        return tensors_of(numbers)
    except OverflowError:
        return None


def _ids(value: object, place: int) -> Tensor:
    try:
        ids = value if isinstance(value, Tensor) else torch.tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refused(value, place) from error
    if ids.shape == (0,):
        return ids.to(torch.int64)
    if ids.ndim != 1 or ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool:
        raise _refused(value, place)
    if int(ids.min()) < 0:
        step = int(ids.argmin())
        msg = f"row {place}, step {step} is {int(ids[step])}, but ids count from 0."
        raise ValuesError(msg, row=place, step=step)
    return ids.to(torch.int64)


def _refused(value: object, place: int) -> ValuesError:
    msg = (
        f"row {place} must be whole numbers, one a step, but {described(value)} arrived; "
        "text goes to Tokenize, features to FromFeatures."
    )
    return ValuesError(msg, row=place)
