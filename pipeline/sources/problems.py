"""What is wrong with a record, where it stands, and what is done about it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, final

import attrs

from pipeline.data.rows import Example, X_co
from pipeline.errors import OptionError, RecordError

SHOWN: Final = 200
"""How much of a malformed record a problem shows, in characters."""

REMEMBERED: Final = 100
"""How many problems of one source are kept in full; beyond them, they are counted."""


@final
@attrs.frozen
class Problem:
    """A malformed record.

    Attributes:
        where: its place, as it is written in errors: `reviews.csv, line 7`.
        file: the file, or what the data set is called.
        number: its first line in the file, from 1; for a data set, a table or a folder, its number, from 1.
        lines: how many lines it spans.
        kind: a short word for the rule that it breaks, by which problems are counted: `fields`, `encoding`, ...
        reason: the rule, and what arrived instead.
        text: how it begins; bytes that are no UTF-8 as escapes.
    """

    where: str
    file: str
    number: int
    lines: int
    kind: str
    reason: str
    text: str

    def error(self) -> RecordError:
        """The problem as an error."""
        msg = (
            f"{self.where}: {self.reason}; the record begins {self.text[:60]!r}; mend it, or read with "
            'on_bad_record="skip", or with a function that gives what to take in its place.'
        )
        return RecordError(msg, file=self.file, line=self.number, kind=self.kind, text=self.text)


Malformed: TypeAlias = Literal["raise", "skip"] | Callable[[Problem], Example[X_co] | None]
"""What becomes of malformed records: an error, left out and counted, or what a function makes of them, None for out."""


class UnfitError(Exception):
    """A record breaks a rule of its format: what parsers raise, before anyone knows where it stands."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind: Final = kind
        self.reason: Final = reason


@final
@attrs.frozen
class Skipped:
    """The malformed records that were left out.

    Attributes:
        kinds: how many of each kind.
        first: the first hundred of them, in full.

    Example:
        >>> print(Skipped({"fields": 2, "encoding": 1}))
        3 records left out: 2 fields, 1 encoding
    """

    kinds: Mapping[str, int] = attrs.field(factory=dict[str, int])
    first: Sequence[Problem] = ()

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self.kinds.values())

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        return f"{self.total} records left out" + (f": {kinds}" if kinds else "")


def checked_malformed(on_bad_record: Any) -> None:  # noqa: ANN401 - what came may be anything
    """Refuse what says nothing about malformed records.

    Raises:
        OptionError: if it is neither `raise`, `skip` nor a function.
    """
    if on_bad_record not in ("raise", "skip") and not callable(on_bad_record):
        msg = f'on_bad_record must be "raise", "skip" or a function of a Problem, but {on_bad_record!r} arrived.'
        raise OptionError(msg, on_bad_record=on_bad_record)


def beginning(record: bytes) -> str:
    """The first characters of a record, whatever its bytes."""
    return record[: 4 * SHOWN].decode("utf-8", "backslashreplace").rstrip("\r\n")[:SHOWN]
