"""What a pipe looks like before it runs; printed, a table."""

from collections.abc import Iterator, Sequence
from typing import Final

import attrs
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from pipeline.errors import PipelineError
from pipeline.summary.types import Flowing
from pipeline.summary.work import Work
from pipeline.text import plain

HEADINGS: Final = ("", "stage", "gives", "shape", "parameters", "multiply-adds")
"""What the columns of the table hold; the first, a stage's place."""


@attrs.frozen
class Entry:
    """One stage of a pipe.

    Attributes:
        place: its number in the chain, from 1.
        stage: its name in the chain.
        part: the encoder, attention or pool that it has a place for; empty if it has none.
        takes: what comes in.
        gives: what goes out.
        parameters: how many weights it has, without those that it shares with a stage before it.
        frozen: how many of them are not trained.
        work: its multiply-adds; None if they are not known.
        notes: what it does beside, and what is not known of it.
    """

    place: int
    stage: str
    part: str
    takes: Flowing
    gives: Flowing
    parameters: int
    frozen: int
    work: Work | None
    notes: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The stage and what it holds: `encode (LSTM)`."""
        return f"{self.stage} ({self.part})" if self.part else self.stage

    def cells(self) -> Sequence[str]:
        """The entry as a row of a table, under `HEADINGS`."""
        weightless = self.parameters == 0 and self.work == Work()
        work = "" if weightless else "?" if self.work is None else str(self.work)
        return str(self.place), self.title, self.gives.type, self.gives.shape, weights(self), work


@attrs.frozen(repr=False)
class Summary:
    """Every stage of a pipe: what goes in and out, weights and work, found without data. Printed, it is a table.

    Attributes:
        takes: what goes into the pipe.
        entries: its stages in order.
        problem: what keeps it from running, as the error that a run would raise; None if nothing is known to.

    Example:
        >>> from pipeline import Classify, Pool
        >>> print((Pool("max") >> Classify(3, input_size=8)).check())
           stage       gives   shape      parameters  multiply-adds
           input       States  steps x 8
        1  pool (max)  Pooled  batch x 8
        2  classify    Scores  batch x 3          27  24 a row
           total                                  27  24 a row
    """

    takes: Flowing
    entries: Sequence[Entry]
    problem: PipelineError | None = None

    @property
    def parameters(self) -> int:
        """How many weights there are, each counted once."""
        return sum(entry.parameters for entry in self.entries)

    @property
    def frozen(self) -> int:
        """How many of them are not trained."""
        return sum(entry.frozen for entry in self.entries)

    @property
    def work(self) -> Work | None:
        """The multiply-adds of all stages; None if those of one are not known."""
        works = [entry.work for entry in self.entries if entry.work is not None]
        return sum(works, start=Work()) if len(works) == len(self.entries) else None

    def stages(self) -> Sequence[Sequence[str]]:
        """The table under `HEADINGS`: what goes in, and the stages. Control characters are spelt out."""
        first = ("", "input", self.takes.type, self.takes.shape, "", "")
        return [[plain(cell) for cell in row] for row in (first, *(entry.cells() for entry in self.entries))]

    def totals(self) -> Sequence[Sequence[str]]:
        """What stands below the stages: all weights and all work, a line a step's and a row's."""
        first, *more = ["?"] if self.work is None else self.work.terms()
        return [("", "total", "", "", weights(self), first), *(("", "", "", "", "", f"+ {term}") for term in more)]

    def remarks(self) -> Iterator[str]:
        """What stands below the table: the notes of each stage that has some."""
        for entry in self.entries:
            if entry.notes:
                yield plain(f"{entry.place} {entry.stage}: {', '.join(entry.notes)}")

    def trouble(self) -> str:
        """Why the pipe would not run, in a line; empty if nothing is known to keep it from it."""
        return "" if self.problem is None else plain(f"does not run: {self.problem}")

    def __str__(self) -> str:
        rows = [HEADINGS, *self.stages(), *self.totals()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(_justified(row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, *self.remarks(), *filter(None, [self.trouble()])])

    __repr__ = __str__

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in HEADINGS:
            table.add_column(heading, overflow="fold", justify="right" if heading == "parameters" else "left")
        for row in self.stages():
            table.add_row(*map(Text, row))
        for row in self.totals():
            table.add_row(*(Text(cell, "bold") for cell in row))
        yield table
        for remark in self.remarks():
            yield Text(remark, "dim")
        if self.problem is not None:
            yield Text(self.trouble(), "red")


def weights(counted: Entry | Summary) -> str:
    """How many weights, in words: `1,280`, `1,200 frozen`, `1,280 (1,200 frozen)`; nothing for none."""
    number, frozen = counted.parameters, counted.frozen
    if frozen in (0, number):
        return "" if number == 0 else f"{number:,}{' frozen' if frozen else ''}"
    return f"{number:,} ({frozen:,} frozen)"


def _justified(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for heading, cell, width in zip(HEADINGS, row, widths, strict=True):
        yield cell.rjust(width) if heading == "parameters" else cell.ljust(width)
