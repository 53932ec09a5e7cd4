"""One sequence at a time: examples and rows."""

from collections.abc import Mapping, Sequence
from typing import Final, Generic, final

import attrs
from typing_extensions import TypeIs, TypeVar

from pipeline.data.kinds import Composite, K, K_co, Kind, Nested, get_kind_class
from pipeline.errors import OptionError, TargetError, TextError
from pipeline.labels import OneTarget, Target, is_step_target

FILLER: Final = -1
"""The row id of an empty row that fills a batch up to its shape and belongs to no input."""


X_co = TypeVar("X_co", covariant=True)


@attrs.frozen(eq=False)
class Example(Generic[X_co]):
    """An input and, in training, its target.

    Example:
        >>> Example("a fine film", target="positive").target
        'positive'
    """

    input: X_co
    target: Target = None


@attrs.frozen(eq=False)
class Row(Generic[K_co]):
    """One sequence with its target, before it is collated into a batch.

    Attributes:
        sequence: the steps.
        target: the target of its example; one class per step is a list with one entry per step.
        row_id: the position of its example in the input, from 0.
        answer_mask: True at the steps that need a prediction; None means all. Steps that a tokenizer adds (bos, eos,
            and all but the first token of a word) need none.
        start_step: the step of the original row at which the sequence begins; above 0 for later parts of a cut row.
    """

    sequence: K_co
    target: Target = None
    row_id: int = 0
    answer_mask: Sequence[bool] | None = None
    start_step: int = 0

    def __len__(self) -> int:
        return len(self.sequence)


def is_row(value: object) -> TypeIs[Row[Kind]]:
    """Return whether a value is a row."""
    return isinstance(value, Row)


def reject_single_text(inputs: object) -> None:
    """Reject one text, or bytes, where an iterable of inputs is expected.

    To a type checker a text is an iterable of texts, and bytes are one of integers.

    Raises:
        TextError: if the inputs are one text, or bytes.
    """
    if isinstance(inputs, str | bytes | bytearray):
        msg = f"inputs must be an iterable of inputs, got one text, {inputs[:40]!r}; pass [text]."
        raise TextError(msg)


def cut_row(row: Row[K], begin: int, end: int) -> Row[K]:
    """Return the steps of a row from `begin` to `end` as a row with the same id. Steps are not copied.

    Targets and answer masks of steps are cut along; a target of the whole row is repeated in each part.

    Raises:
        TargetError: if the row has a list of targets, but not one per step.
        OptionError: for a later part of a row with sides.

    Example:
        >>> import torch
        >>> from pipeline import Ids
        >>> row = Row(Ids(torch.tensor([5, 6, 7])), target=[0, None, 1], row_id=4)
        >>> part = cut_row(row, 1, 3)
        >>> part.sequence.values.tolist(), part.target, part.row_id, part.start_step
        ([6, 7], [None, 1], 4, 1)
    """
    return RowCutter(row).cut(begin, end)


@final
class RowCutter(Generic[K]):
    """Cuts one row into several parts, as `cut_row` does. Its targets are checked once, not for each part.

    Args:
        row: the row.

    Raises:
        TargetError: if the row has a list of targets, but not one per step.
    """

    def __init__(self, row: Row[K]) -> None:
        self.row: Final = row
        target = row.target
        named = target if isinstance(target, Mapping) else {"": target}
        self._by_step: Final = {
            name: steps for name, each in named.items() if (steps := _find_step_target(row, each)) is not None
        }

    def cut(self, begin: int, end: int) -> Row[K]:
        """Return the steps from `begin` to `end`, with the targets and the answer mask of these steps.

        Raises:
            OptionError: for a later part of a row with sides.
        """
        row = self.row
        if begin:
            # The first part alone is the row, truncated.
            reject_split(type(row.sequence))
        window = slice(begin, end)
        answer_mask = None if row.answer_mask is None else row.answer_mask[window]
        target = row.target
        if isinstance(target, Mapping):
            target = {**target, **{name: steps[window] for name, steps in self._by_step.items()}}
        elif self._by_step:
            target = self._by_step[""][window]
        return Row(row.sequence.cut(window), target, row.row_id, answer_mask, row.start_step + begin)


def reject_split(kind: type[Kind]) -> None:
    """Reject a kind whose rows cannot be split into parts.

    Raises:
        OptionError: for a class derived from `Sides`. A part would pair steps of one side with those at the same place
            of another, or with nothing.
    """
    found = get_kind_class(kind)
    if isinstance(found, type) and issubclass(found, Composite) and not found.aligned:
        msg = (
            f"rows of {found.__name__} cannot be split, because their sides belong together as a whole; "
            'use Bucket(..., too_long="truncate") or too_long="alone", or shorten the sides before.'
        )
        raise OptionError(msg, kind=found.__name__)


def reject_cut(kind: type[Kind]) -> None:
    """Reject a kind whose rows cannot be cut where a policy says, since it counts other steps.

    Raises:
        OptionError: for nested rows, which are planned by the number of their inner steps.
    """
    if get_kind_class(kind) is Nested:
        msg = (
            "rows of Nested cannot be truncated or split by a number of inner steps; use too_long='alone', or limit "
            "them in the input stage: TokenizeDocument(..., max_sentences=...)."
        )
        raise OptionError(msg, kind="Nested")


def make_filler(row: Row[K]) -> Row[K]:
    """Return an empty row of the same kind, without a target, that belongs to no input.

    Example:
        >>> import torch
        >>> from pipeline import Ids
        >>> filler = make_filler(Row(Ids(torch.tensor([5, 6, 7])), target=[0, None, 1], row_id=4))
        >>> len(filler), filler.target, filler.row_id
        (0, None, -1)
    """
    return Row(row.sequence.cut(slice(0)), row_id=FILLER)


def _find_step_target(row: Row[K], target: OneTarget) -> Sequence[int | str | None] | None:
    """Return a target that has one class per step of the row; None for one of the whole row."""
    if not is_step_target(target):
        return None
    if len(target) != len(row):
        msg = (
            f"target of row {row.row_id} must have one entry per step, got {len(target)} for {len(row)} steps; "
            "use None for steps without a target, and floats for a vector of numbers."
        )
        raise TargetError(msg, row=row.row_id)
    return target
