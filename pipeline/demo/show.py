"""What the demo says in the end: padding, scores, and some lines, coloured."""

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from pipeline.demo.lexical import CLASSES
from pipeline.demo.score import Answer, Result, drawn, runs
from pipeline.demo.screen import Screen
from pipeline.demo.source import KINDS

_STYLES = {
    "keyword": "bold magenta",
    "name": "",
    "string": "green",
    "number": "cyan",
    "comment": "blue",
    "operator": "yellow",
    "space": "",
}
_MISTAKE = "bold white on red"
_LINES = 10
_MARGIN = max(map(len, KINDS)) + 3


def show(result: Result, screen: Screen) -> None:
    """Print all of it, and where to go from here."""
    _padding(result, screen)
    _scores(result, screen)
    _lines(result, screen)
    screen.title(f"Done in {result.seconds:.0f} s")
    screen.say(f"The page, with more lines: {result.page}", whole=True)
    screen.say("What next: read pipeline/demo/highlight.py, run python -m pipeline, take the tour in docs/tour.md.")


def _padding(result: Result, screen: Screen) -> None:
    screen.title("Padding in an epoch of act one, for the same batch sizes")
    table = screen.table("rows grouped", "batches", "real steps", "padded", "wasted")
    for name, report in (("by length (Bucket)", result.one.bucketed), ("by lot", result.one.unbucketed)):
        counts = (f"{number:,}" for number in (report.batches, report.steps, report.padded))
        table.add_row(name, *counts, f"{report.wasted:.1%}")
    screen.console.print(table)


def _scores(result: Result, screen: Screen) -> None:
    screen.title("Right answers for held-out lines")
    table = screen.table("share of", "pipe", "rule", "the rule")
    table.columns[-1].justify = "left"
    for contest in result.contests:
        table.add_row(contest.asked, f"{contest.model:.1%}", f"{contest.baseline:.1%}", contest.rule)
    screen.console.print(table)
    inside = sum(line.inside for line in result.held_out)
    screen.say(f"Counted in are {inside:,} lines that begin inside a string, though nothing in them says so.")


def _lines(result: Result, screen: Screen) -> None:
    sample = drawn(result.answers, _LINES, longest=screen.console.width - _MARGIN)
    screen.title("Held-out lines that fit the width, drawn by lot, as act one colours them")
    screen.console.print(Text("  ").join(Text(name, _STYLES[name]) for name in CLASSES if name != "space"))
    screen.say("In the margin what act two took the line for, with a ! where that is wrong.")
    for title, answers, number in (
        ("with mistakes", sample.wrong, sample.all_wrong),
        ("without", sample.right, sample.all_right),
    ):
        screen.console.print(f"\n{len(answers)} of the {number:,} lines {title}:", style="dim", highlight=False)
        for answer in answers:
            for line in _drawn(answer, screen.console):
                screen.console.print(line, no_wrap=True, overflow="ellipsis", highlight=False)


def _drawn(answer: Answer, console: Console) -> Iterable[Text]:
    """The line in the colours of its classes, and carets under what is wrong."""
    wrong = answer.kind != answer.line.kind
    kind = f"{answer.kind}{' !' if wrong else ''}".ljust(_MARGIN)
    line, carets = Text.assemble((kind, "bold red" if wrong else "dim")), Text(" " * _MARGIN, "bold red")
    for text, given, right in runs(answer.line, answer.classes):
        shown = "".join(_visible(character, console.encoding) for character in text)
        line.append(shown, _STYLES[given] if given == right else _MISTAKE)
        carets.append((" " if given == right else "^") * cell_len(shown))
    yield line
    if answer.mistakes:
        carets.rstrip()
        yield carets
        yield Text(f"{' ' * _MARGIN}right: {', '.join(answer.missed)}", "red")


def _visible(character: str, encoding: str) -> str:
    """A character that moves no cursor, and that the terminal can spell."""
    return (character if character.isprintable() else " ").encode(encoding, "replace").decode(encoding)
