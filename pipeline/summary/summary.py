"""The summary of a pipe: a table of its stages, as text, for a terminal, as HTML, and as a Mermaid flowchart."""

from collections.abc import Iterator, Sequence
from typing import Final

import attrs
from typing_extensions import override

from pipeline.errors import PipelineError
from pipeline.summary.types import TypeAndShape
from pipeline.summary.work import Work
from pipeline.tables import Column, ShownAsTable, Table
from pipeline.text import escape_control_characters

_COLUMNS: Final = ("", "stage", "output", "shape", Column("parameters", "right"), "multiply-adds")


@attrs.frozen
class StageEntry:
    """One stage of a pipe.

    Attributes:
        number: its position in the chain, from 1.
        stage: its name in the chain.
        part: the encoder, attention or pooling that it uses; empty if it uses none.
        input: type and shape of its input.
        output: type and shape of its output.
        parameters: the number of weights, without those shared with an earlier stage.
        frozen: the number of them that are not trained.
        work: its multiply-adds; None if they are not known.
        notes: other properties of the stage, and those that are not known.
    """

    number: int
    stage: str
    part: str
    input: TypeAndShape
    output: TypeAndShape
    parameters: int
    frozen: int
    work: Work | None
    notes: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The stage and its part: `encode (LSTM)`."""
        return f"{self.stage} ({self.part})" if self.part else self.stage

    def cells(self) -> Sequence[str]:
        """Return its row of the table."""
        # Data stages and dropout: empty cells are easier to skip than zeros.
        is_trivial = self.parameters == 0 and self.work == Work()
        work = "" if is_trivial else "?" if self.work is None else str(self.work)
        return str(self.number), self.title, self.output.type, self.output.shape, _count_weights(self), work


@attrs.frozen(repr=False)
class Summary(ShownAsTable):
    """A table of every stage of a pipe: types, shapes, weights and multiply-adds, computed without data.

    Attributes:
        input: type and shape of the pipe's input.
        entries: its stages in order.
        problem: the error that a run would raise; None if none is known.

    Example:
        >>> from pipeline import Classify, Pool
        >>> print((Pool("max") >> Classify(3, input_size=8)).check())
           stage       output  shape      parameters  multiply-adds
           input       States  steps x 8
        1  pool (max)  Pooled  batch x 8
        2  classify    Scores  batch x 3          27  24 per row
           total                                  27  24 per row
    """

    input: TypeAndShape
    entries: Sequence[StageEntry]
    problem: PipelineError | None = None

    @property
    def parameters(self) -> int:
        """The number of weights, each counted once."""
        return sum(entry.parameters for entry in self.entries)

    @property
    def frozen(self) -> int:
        """The number of weights that are not trained."""
        return sum(entry.frozen for entry in self.entries)

    @property
    def work(self) -> Work | None:
        """The multiply-adds of all stages; None if those of one are not known."""
        works = [entry.work for entry in self.entries if entry.work is not None]
        return sum(works, start=Work()) if len(works) == len(self.entries) else None

    @override
    def __repr__(self) -> str:
        return str(self)

    @override
    def table(self) -> Table:
        """Return the table, with the notes below it."""
        notes = [f"{entry.number} {entry.stage}: {', '.join(entry.notes)}" for entry in self.entries if entry.notes]
        return Table(
            _COLUMNS, self._make_rows(), totals=self._make_totals(), notes=notes, problem=self._format_problem()
        )

    def to_html(self) -> str:
        """Return the table as HTML, with a column for the notes.

        Example:
            >>> from pipeline import Classify, Pool
            >>> (Pool("max") >> Classify(3, input_size=8)).check().to_html().count("<tr")
            5
        """
        notes = ["", *(", ".join(entry.notes) for entry in self.entries)]
        rows = [[*row, note] for row, note in zip(self._make_rows(), notes, strict=True)]
        totals = [[*row, ""] for row in self._make_totals()]
        return Table([*_COLUMNS, "notes"], rows, totals=totals, problem=self._format_problem()).html()

    def to_mermaid(self) -> str:
        """Return a flowchart in Mermaid's language, which GitHub and many editors draw: stages, types and shapes.

        Example:
            >>> from pipeline import Classify, Pool
            >>> print((Pool("max") >> Classify(3, input_size=8)).check().to_mermaid())
            flowchart TD
                start(["input"])
                stage1["1 pool #40;max#41;"]
                stage2["2 classify<br/>27 parameters"]
                stop(["output"])
                start -->|"States steps x 8"| stage1
                stage1 -->|"Pooled batch x 8"| stage2
                stage2 -->|"Scores batch x 3"| stop
        """
        return "\n".join(["flowchart TD", *(f"    {line}" for line in self._make_flowchart())])

    @override
    def _repr_html_(self) -> str:
        return self.to_html()

    def _make_rows(self) -> Sequence[Sequence[str]]:
        first = ("", "input", self.input.type, self.input.shape, "", "")
        return [first, *(entry.cells() for entry in self.entries)]

    def _make_totals(self) -> Sequence[Sequence[str]]:
        first, *more = ["?"] if self.work is None else self.work.terms()
        rows = [("", "total", "", "", _count_weights(self), first)]
        return [*rows, *(("", "", "", "", "", f"+ {term}") for term in more)]

    def _format_problem(self) -> str:
        return "" if self.problem is None else f"does not run: {self.problem}"

    def _make_flowchart(self) -> Iterator[str]:
        yield 'start(["input"])'
        for entry in self.entries:
            lines = [f"{entry.number} {entry.title}"]
            lines += [f"{_count_weights(entry)} parameters"] if entry.parameters else []
            yield f'stage{entry.number}["{"<br/>".join(map(_quote_for_mermaid, lines))}"]'
        yield 'stop(["output"])'
        values = [self.input, *(entry.output for entry in self.entries)]
        nodes = ["start", *(f"stage{entry.number}" for entry in self.entries), "stop"]
        for value, before, after in zip(values, nodes, nodes[1:], strict=False):
            yield f'{before} -->|"{_quote_for_mermaid(str(value))}"| {after}'


def _count_weights(counted: StageEntry | Summary) -> str:
    """Return the number of weights in words: `1,280`, `1,200 frozen`, `1,280 (1,200 frozen)`; empty for 0."""
    number, frozen = counted.parameters, counted.frozen
    if frozen in (0, number):
        return "" if number == 0 else f"{number:,}{' frozen' if frozen else ''}"
    return f"{number:,} ({frozen:,} frozen)"


def _quote_for_mermaid(text: str) -> str:
    """Write every character that could mean something to Mermaid or HTML as its character code."""
    # Mermaid's own form of an HTML entity: #40; is a parenthesis. A list of harmless characters is safer than one of
    # harmful ones, which depend on Mermaid's version.
    return "".join(
        sign if sign.isalnum() or sign in " ,._-" else f"#{ord(sign)};" for sign in escape_control_characters(text)
    )
