"""Tests of a summary as text, on a terminal, as HTML and as a flowchart."""

from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from operator import methodcaller
from typing import cast

import torch
from rich.console import Console
from rich.text import Text
from torch import nn
from typing_extensions import override

from pipeline import (
    AttendEarlier,
    Batch,
    Bucket,
    Causal,
    Chain,
    Classify,
    Dropout,
    Embed,
    Encode,
    Encoder,
    FromIds,
    Ids,
    ModuleStage,
    Pack,
    Pad,
    Pool,
    Pooled,
    Scores,
    Stage,
    Tokenize,
    classifier,
)
from pipeline.summary.types import TypeAndShape
from pipeline_recurrent import LSTM
from support.summaries import HOSTILE, Best, Rectangular, small

html: Callable[[object], str] = methodcaller("_repr_html_")
"""The HTML that a notebook shows."""


def make_hostile_class(cls: type, **attributes: object) -> Callable[..., object]:
    """Return a class whose name has special characters of terminals, rich, HTML and Mermaid."""
    return type(HOSTILE, (cls,), {"__module__": __name__, **attributes})


def make_hostile_pipe() -> Chain[Batch[Ids], Scores]:
    """Return a pipe with such names for a stage, a type and a part."""
    scores = cast("Stage[Scores, Scores]", make_hostile_class(Best)())
    encoder = cast("Encoder[Causal]", make_hostile_class(Rectangular)(4, 6))
    return Embed(9, 4) >> Encode(encoder) >> Pool("max") >> Classify(2) >> scores


def test_a_whole_pipe_as_text() -> None:
    """Axes have names where the batch decides their size, and numbers where the model does."""
    tokenize = Tokenize.train(["a fine film", "a dull film"])
    data = tokenize >> Bucket(rows=8) >> Pad()
    pipe = data >> Pack() >> Embed(8, 100) >> Encode(LSTM(100, 128, bidirectional=True)) >> Pool("max") >> Classify(6)
    expected = """\
   stage          output           shape          parameters  multiply-adds
   input          str
1  tokenize       Row[Ids]         time
2  bucket         list[Row[Ids]]   batch of time
3  pad            Padded[Ids]      batch x time
4  pack           Packed[Ids]      steps
5  embed          Packed[Vectors]  steps x 100           800  0
6  encode (LSTM)  States           steps x 256       235,520  233,472 per step
7  pool (max)     Pooled           batch x 256
8  classify       Scores           batch x 6           1,542  1,536 per row
   total                                             237,862  233,472 per step
                                                              + 1,536 per row
6 encode: bidirectional"""
    assert str(pipe) == str(pipe.check()) == repr(pipe.check()) == expected
    assert repr(pipe) == "Tokenize >> Bucket >> Pad >> Pack >> Embed >> Encode >> Pool >> Classify"
    entries = pipe.check().entries
    assert [entry.number for entry in entries] == list(range(1, 9))
    assert [entry.input for entry in entries[1:]] == [entry.output for entry in entries[:-1]]
    assert entries[0].input == pipe.check().input == TypeAndShape("str")


def test_frozen_weights_are_counted_separately() -> None:
    """Their number is shown per stage and in total."""
    model = Embed.from_pretrained(torch.ones(9, 4)) >> Encode(LSTM(4, 6)) >> Pool("max") >> Classify(2)
    for weight in cast("nn.Linear", model.get_submodule("classify.linear")).parameters():
        weight.requires_grad_(weight.ndim == 2)
    summary = model.check()
    assert [(entry.parameters, entry.frozen) for entry in summary.entries] == [(36, 36), (288, 0), (0, 0), (14, 2)]
    assert (summary.parameters, summary.frozen) == (338, 38)
    table = summary.table()
    shown = [row[4] for row in [*table.rows, *table.totals]]
    assert shown == ["", "36 frozen", "288", "", "14 (2 frozen)", "338 (38 frozen)", ""]


def test_hostile_names_on_a_terminal() -> None:
    """Control characters are escaped, and markup has no effect."""
    lines: list[str] = []
    for width in (80, 120, 300):
        console = Console(width=width, force_terminal=True, color_system="truecolor")
        with console.capture() as capture:
            console.print(make_hostile_pipe())
        text = capture.get()
        assert "\x1b[31m" not in text
        lines = list(strip_styles(text))
        assert all(len(line) <= width for line in lines)
    escaped = HOSTILE.replace("\x1b", r"\x1b").replace("\n", r"\n")
    shown = str(make_hostile_pipe())
    assert [line.rstrip() for line in lines if line] == shown.splitlines()
    assert shown.splitlines()[6].startswith(f"5  {escaped}  ")
    assert all(line.isprintable() for line in shown.splitlines())


class Failing(ModuleStage[Pooled, Pooled]):
    """A stage that fails with a hostile message."""

    @override
    def forward(self, value: Pooled) -> Pooled:
        """Fail."""
        raise NotImplementedError(HOSTILE)


def test_hostile_error_messages() -> None:
    """A note is escaped too, and has one line."""
    pipe = small() >> Pool("max") >> Failing() >> Classify(2, input_size=6)
    escaped = " ".join(HOSTILE.replace("\x1b", r"\x1b").split())
    note = f"not known without data: NotImplementedError: {escaped}"
    assert str(pipe).splitlines()[-1] == f"4 failing: {note}"
    assert note in Cells(html(pipe)).cells


def strip_styles(text: str) -> Iterator[str]:
    """Yield the visible text of lines, without rich's styles."""
    return (line.plain for line in Text.from_ansi(text).split("\n"))


class Cells(HTMLParser):
    """The cells of an HTML table, its tags, and the tags that are still open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(page)
        self.close()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag, which may have a style attribute only."""
        assert {name for name, _ in attrs} <= {"style"}
        self.tags.add(tag)
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    @override
    def handle_endtag(self, tag: str) -> None:
        """Check that tags are closed in order."""
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        """Add text to a cell."""
        if self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_html() -> None:
    """There is nothing but a table and text, whatever the names; nothing is fetched."""
    page = html(make_hostile_pipe())
    found = Cells(page)
    assert not found.open
    assert found.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    summary = make_hostile_pipe().check()
    table = summary.table()
    rows = [
        [*row, note] for row, note in zip(table.rows, ["", *(", ".join(e.notes) for e in summary.entries)], strict=True)
    ]
    flat = ["", "stage", "output", "shape", "parameters", "multiply-adds", "notes"]
    flat += [cell for row in [*rows, *([*row, ""] for row in table.totals)] for cell in row]
    assert found.cells == flat
    assert "http" not in page
    assert "#" not in page.replace("#quot;", ""), "colours are the page's own"
    waiting = html(Pool("attention") >> Classify(2))
    assert Cells(waiting).tags >= {"p", "strong"}
    assert "does not run: stage 1 `Pool`" in waiting


def test_mermaid_flowchart() -> None:
    """Nodes are numbered stages, arrows have types and shapes, and special characters in names are escaped."""
    assert make_hostile_pipe().mermaid() == (
        "flowchart TD\n"
        '    start(["input"])\n'
        '    stage1["1 embed<br/>36 parameters"]\n'
        f'    stage2["2 encode #40;{ESCAPED}#41;<br/>30 parameters"]\n'
        '    stage3["3 pool #40;max#41;"]\n'
        '    stage4["4 classify<br/>14 parameters"]\n'
        f'    stage5["5 {ESCAPED}"]\n'
        '    stop(["output"])\n'
        '    start -->|"Padded#91;Ids#93; batch x time"| stage1\n'
        '    stage1 -->|"Padded#91;Vectors#93; batch x time x 4"| stage2\n'
        '    stage2 -->|"States#91;Causal#93; batch x time x 6"| stage3\n'
        '    stage3 -->|"Pooled batch x 6"| stage4\n'
        '    stage4 -->|"Scores batch x 2"| stage5\n'
        '    stage5 -->|"list#91;int#93;"| stop'
    )


ESCAPED = (
    "end#34;#93;#59; #35;quot#59; #96;x#96; #60;script#62;alert#40;#34;x#34;#41;#60;#47;script#62; "
    "#91;red#93;r#91;#47;red#93; #92;x1b#91;31m#92;n#124; #38; #37;#37;"
)


def test_all_kinds_of_chains_are_printed() -> None:
    """A chain, a stream chain, and a type-preserving chain."""
    model = classifier(9, 2, embedding_dim=3, hidden_size=4)
    for chain in (
        model,
        FromIds() >> Bucket(rows=2) >> Pad() >> model,
        Dropout() >> AttendEarlier("dot", input_size=3),
    ):
        console = Console(width=200)
        with console.capture() as capture:
            console.print(chain)
        assert [line.split() for line in capture.get().splitlines()] == [
            line.split() for line in str(chain).splitlines()
        ]
