"""Malformed records: the description of a problem, the counts of skipped records, and the choice between both."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias, final

import attrs

from pipeline.data.rows import Example, X_co
from pipeline.errors import RecordError

SHOWN: Final = 200
"""Number of characters of a malformed record that a problem shows."""

MAX_PROBLEMS: Final = 100
"""Number of problems that `Skipped.first` holds; later ones are only counted."""


@final
@attrs.frozen
class Problem:
    """A malformed record.

    Attributes:
        where: location of the record as errors show it: `reviews.csv, line 7`.
        file: the file, or the type of the data set.
        number: first line of the record in its file, from 1; in a table or a data set, its number, from 1.
        lines: number of lines of the record.
        kind: short name of the violated rule, by which problems are counted: `fields`, `encoding`, ...
        reason: the rule and the value that violates it.
        text: beginning of the record; bytes that cannot be decoded are shown as escapes.
    """

    where: str
    file: str
    number: int
    lines: int
    kind: str
    reason: str
    text: str

    def make_error(self) -> RecordError:
        """Return the error for this problem."""
        msg = (
            f"{self.where}: {self.reason}; the record begins {self.text[:60]!r}; fix it, or read with "
            'on_bad_record="skip" or with a function that returns a replacement.'
        )
        return RecordError(msg, file=self.file, line=self.number, kind=self.kind, text=self.text)


OnBadRecord: TypeAlias = Literal["raise", "skip"] | Callable[[Problem], Example[X_co] | None]
"""Rule for malformed records: raise an error, skip and count, or call a function that returns a replacement or None."""


class MalformedError(Exception):
    """A record violates a rule of its format. Raised by parsers, which do not know the location of the record.

    Attributes:
        kind: short name of the rule.
        reason: the rule and the value that violates it.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind: Final = kind
        self.reason: Final = reason


@final
@attrs.frozen
class Skipped:
    """Malformed records that were skipped.

    Attributes:
        kinds: number of records per kind of problem.
        first: the first 100 problems.

    Example:
        >>> print(Skipped({"fields": 2, "encoding": 1}))
        3 records skipped: 2 fields, 1 encoding
    """

    kinds: Mapping[str, int] = attrs.field(factory=dict[str, int])
    first: Sequence[Problem] = ()

    @property
    def total(self) -> int:
        """Number of skipped records."""
        return sum(self.kinds.values())

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        return f"{self.total} records skipped" + (f": {kinds}" if kinds else "")


def shorten(text: str) -> str:
    """Return the first characters of a record, with bytes that could not be decoded as escapes."""
    start = text[:SHOWN].rstrip("\r\n")
    return start.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")[:SHOWN]
