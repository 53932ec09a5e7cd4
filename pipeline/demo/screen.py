"""What the demo says while it works. Bars move in a terminal alone: in a file or a CI log they would be a flood."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final, final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipeline.demo.highlight import Step

_RECENT = 20
"""Over how many steps the running loss is a mean."""


@final
class Screen:
    """A console, and what is said on it.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console: Final = console
        # Where colour is forced, as CI services like to, rich takes a log for a terminal.
        self._moves: Final = console.is_interactive and console.file.isatty()

    def say(self, text: str, *, whole: bool = False) -> None:
        """Print a sentence; a `whole` one is never broken into lines, so that a path in it can be copied."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=whole)

    def title(self, text: str) -> None:
        """Begin a new part."""
        self.console.print()
        self.console.print(text, style="bold", markup=False, highlight=False)

    def table(self, *columns: str) -> Table:
        """A table without lines, the first column of names, the others of numbers."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left")
        return table

    @contextmanager
    def busy(self, what: str) -> Generator[None]:
        """Show that something takes its time."""
        with self._progress(SpinnerColumn("line"), TextColumn("{task.description}")) as progress:
            progress.add_task(what, total=None)
            yield

    def follow(self, steps: Iterator[Step], *, rows: int) -> list[Step]:
        """All steps of a training over so many rows, behind a bar; then a sentence that sums them up."""
        started, done = perf_counter(), list[Step]()
        bar = BarColumn(bar_width=min(40, self.console.width // 3))
        with self._progress(bar, TextColumn("{task.description}"), TimeRemainingColumn()) as progress:
            task = progress.add_task("", total=rows)
            for step in steps:
                done.append(step)
                said = f"step {len(done):,}, loss {_running_loss(done):.3f}"
                progress.update(task, advance=step.report.rows, description=said)
        self.say(
            f"{len(done):,} steps in {perf_counter() - started:.1f} s: loss {done[0].loss:.2f} in the first, "
            f"{_running_loss(done):.3f} over the last {min(len(done), _RECENT)}"
        )
        return done

    def _progress(self, *columns: ProgressColumn) -> Progress:
        return Progress(*columns, console=self.console, transient=True, disable=not self._moves)


def _running_loss(done: list[Step]) -> float:
    recent = done[-_RECENT:]
    return sum(step.loss for step in recent) / len(recent)
