"""Output in the terminal: progress while the demo works, then padding, scores and some coloured lines."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Final, final

from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from highlight.results import LinePrediction, Result, draw_sample, split_into_runs
from highlight.saved import PROGRAM
from highlight.source import CLASSES, KINDS
from pipeline.training import History

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
_SHOWN_LINES = 10
_MARGIN = max(map(len, KINDS)) + 3


@final
class Screen:
    """A console, with progress bars only where it is a terminal: a file or a CI log would be flooded.

    Args:
        console: the console to print on.
    """

    def __init__(self, console: Console) -> None:
        self.console: Final = console
        # rich takes a log for a terminal where colour is forced, as CI services do; so ask the file as well.
        self._moves: Final = console.is_interactive and console.file.isatty()

    def say(self, text: str, *, whole: bool = False) -> None:
        """Print a sentence; `whole` ones are never wrapped, so that a path in them can be copied."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=whole)

    def title(self, text: str) -> None:
        """Begin a new part."""
        self.console.print()
        self.console.print(text, style="bold", markup=False, highlight=False)

    @contextmanager
    def busy(self, doing: str) -> Generator[None]:
        """Show a spinner."""
        columns = (SpinnerColumn("line"), TextColumn("{task.description}"))
        with Progress(*columns, console=self.console, transient=True, disable=not self._moves) as progress:
            progress.add_task(doing, total=None)
            yield

    def follow(self, train: Callable[[bool | None], History]) -> History:
        """Run a training, with the progress of `fit` on a terminal only, and print one sentence about it."""
        history = train(None if self._moves else False)
        seconds = sum(epoch.seconds for epoch in history)
        first, last = history.epochs[0], history.epochs[-1]
        losses = f"loss {first.train_loss:.3f}"
        if first is not last:
            losses = f"{losses} in the first epoch, {last.train_loss:.3f} in the last"
        self.say(f"{last.optimizer_steps:,} optimizer steps in {seconds:.1f} s: {losses}")
        return history


def show(result: Result, screen: Screen) -> None:
    """Print the whole result, and what to read next."""
    _show_padding(result, screen)
    _show_scores(result, screen)
    _show_lines(result, screen)
    _show_saved(result, screen)
    screen.title(f"Done in {result.seconds:.0f} s")
    screen.say(f"The page, with more lines: {result.page}", whole=True)
    screen.say("Next: read docs/examples/highlight/model.py, run python -m pipeline, follow docs/tutorial.md.")


def _show_saved(result: Result, screen: Screen) -> None:
    saved = result.saved
    screen.title("Saved, and loaded in a new process")
    screen.say(f"The pipe of task one: {saved.folder}", whole=True)
    screen.say(
        f"{saved.size:,} bytes. A new process loaded it and predicted {saved.predicted:,} held-out lines in "
        f"{saved.seconds:.1f} s; {saved.equal:,} of them as above. Its whole program:"
    )
    for line in PROGRAM.splitlines():
        screen.say(f"    {line}".rstrip(), whole=True)


def _make_table(*columns: str) -> Table:
    """Make a table without borders: names in the first column, numbers in the others."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _show_padding(result: Result, screen: Screen) -> None:
    screen.title("Padding in one epoch of task one, for the same batch sizes")
    table = _make_table("rows grouped", "batches", "real steps", "padded", "padding")
    for name, report in (("by length (Bucket)", result.one.bucketed), ("at random", result.one.shuffled)):
        counts = (f"{number:,}" for number in (report.batches, report.steps, report.padded))
        table.add_row(name, *counts, f"{report.wasted:.1%}")
    screen.console.print(table)


def _show_scores(result: Result, screen: Screen) -> None:
    screen.title("Accuracy on held-out lines")
    table = _make_table("share of", "pipe", "rule", "the rule")
    table.columns[-1].justify = "left"
    for comparison in result.comparisons:
        table.add_row(comparison.measured, f"{comparison.model:.1%}", f"{comparison.baseline:.1%}", comparison.rule)
    screen.console.print(table)
    inside = sum(line.inside for line in result.held_out)
    screen.say(f"This includes {inside:,} lines that begin inside a string, though nothing in them shows it.")


def _show_lines(result: Result, screen: Screen) -> None:
    sample = draw_sample(result.predictions, _SHOWN_LINES, max_length=screen.console.width - _MARGIN)
    screen.title("Held-out lines that fit the width, drawn at random, as task one colours them")
    screen.console.print(Text("  ").join(Text(name, _STYLES[name]) for name in CLASSES if name != "space"))
    screen.say("The margin shows the kind that task two predicted, with a ! if it is wrong.")
    for title, predictions, number in (
        ("with mistakes", sample.wrong, sample.all_wrong),
        ("without", sample.right, sample.all_right),
    ):
        screen.console.print(f"\n{len(predictions)} of the {number:,} lines {title}:", style="dim", highlight=False)
        for prediction in predictions:
            for line in _color(prediction, screen.console):
                screen.console.print(line, no_wrap=True, overflow="ellipsis", highlight=False)


def _color(prediction: LinePrediction, console: Console) -> Iterable[Text]:
    """Yield the line in the colours of its predicted classes, with carets under mistakes."""
    wrong = prediction.kind != prediction.line.kind
    kind = f"{prediction.kind}{' !' if wrong else ''}".ljust(_MARGIN)
    line, carets = Text.assemble((kind, "bold red" if wrong else "dim")), Text(" " * _MARGIN, "bold red")
    for text, predicted, right in split_into_runs(prediction.line, prediction.classes):
        shown = "".join(_make_visible(character, console.encoding) for character in text)
        line.append(shown, _STYLES[predicted] if predicted == right else _MISTAKE)
        carets.append((" " if predicted == right else "^") * cell_len(shown))
    yield line
    if prediction.mistakes:
        carets.rstrip()
        yield carets
        yield Text(f"{' ' * _MARGIN}right: {', '.join(prediction.missed)}", "red")


def _make_visible(character: str, encoding: str) -> str:
    """Replace a character that would move the cursor, or that the terminal cannot encode."""
    return (character if character.isprintable() else " ").encode(encoding, "replace").decode(encoding)
