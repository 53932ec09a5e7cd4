"""The demo from the library's source to the page."""

import platform
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console

from pipeline.demo.acts import act_one, act_two
from pipeline.demo.page import write
from pipeline.demo.score import Result
from pipeline.demo.screen import Screen
from pipeline.demo.show import show
from pipeline.demo.source import Line, library, split
from pipeline.errors import OptionError

_HELD_OUT = 1_500
_FEWEST_LINES = 100


def run(
    html: Path = Path("highlight.html"),
    lines: int = 16_000,
    epochs: int = 3,
    seed: int = 0,
    *,
    console: Console | None = None,
) -> Result:
    """Teach a model to highlight Python, and another to sort its lines; print what they learned, and write a page.

    Torch's random state and number of threads are afterwards what they were before.

    Args:
        html: the page to write; its folder must be there.
        lines: how many lines of the standard library's source to learn from, 100 or more.
        epochs: how often act one goes through them; act two does so once.
        seed: what fixes the lines, the first weights and the batches.
        console: where to print; standard output if None.

    Raises:
        OptionError: if there are too few lines or epochs, or the page cannot stand where it should.
        SourceError: if the standard library's source is not on this machine, or has fewer lines.
    """
    _check(html, lines, epochs)
    screen, started = Screen(Console() if console is None else console), perf_counter()
    with screen.busy("reading the standard library"):
        training, held_out = split(library(), lines, min(lines, _HELD_OUT), seed)
    screen.say(
        f"From the standard library of Python {platform.python_version()}: {_counted(training)} to learn from, "
        f"{_counted(held_out)} to be asked about; no file gives to both, and no line occurs twice."
    )
    with _seeded(seed), _one_thread():
        one = act_one(screen, training, held_out, epochs=epochs, seed=seed)
        two = act_two(screen, training, held_out, seed=seed)
    result = Result(html.resolve(), training, held_out, epochs, one, two, perf_counter() - started)
    write(result)
    show(result, screen)
    return result


def _counted(lines: Sequence[Line]) -> str:
    return f"{len(lines):,} lines of {len({line.file for line in lines}):,} files"


def _check(html: Path, lines: int, epochs: int) -> None:
    """Refuse at once what would fail after all the work."""
    for name, number, least in (("lines", lines, _FEWEST_LINES), ("epochs", epochs, 1)):
        if number < least:
            msg = f"{name} must be {least} or more, but {number} arrived."
            raise OptionError(msg, **{name: number})
    if html.is_dir() or not html.absolute().parent.is_dir():
        wrong = "is a folder" if html.is_dir() else f"would stand in {html.absolute().parent}, which is no folder"
        msg = f"html must be a file to write, but {html} {wrong}; name a file in a folder that is there."
        raise OptionError(msg, html=str(html))


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Torch's random numbers from a seed for a while; afterwards they go on as if nothing had been."""
    state = torch.get_rng_state()
    torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def _one_thread() -> Generator[None]:
    """One thread for a while: on matrices as small as these several gain little, and beside other work they stall."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
