"""The demo from the library's source to the page."""

import argparse
import inspect
import platform
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console

from highlight.baseline import WindowRule, find_most_frequent
from highlight.model import CharacterPipe, build_character_pipe, build_line_pipe, train
from highlight.page import write
from highlight.results import (
    CharacterResult,
    Comparison,
    LineResult,
    Result,
    score,
    score_characters,
    score_lines,
    shuffle_batches,
)
from highlight.saved import save_and_predict
from highlight.source import Line, find_library, label_lines, split_lines
from highlight.terminal import Screen, show
from pipeline import Example, Report
from pipeline.errors import OptionError, PipelineError

_HELD_OUT = 1_500
_MIN_LINES = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status: 0 on success, 1 if the library raised an error."""
    about = "Teach a model to highlight Python source, and show what it learned."
    parser = argparse.ArgumentParser(
        "python docs/examples/highlight", description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--html", type=Path, metavar="PATH", default=Path("highlight.html"), help="the page to write")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        default=Path("highlight-model"),
        help="the folder for the pipe of task one",
    )
    parser.add_argument("--lines", type=int, metavar="N", default=16_000, help="the number of training lines")
    parser.add_argument("--epochs", type=int, metavar="N", default=3, help="the number of epochs of task one")
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="makes a run repeatable")
    options = parser.parse_args(arguments)
    reconfigure: object = getattr(sys.stdout, "reconfigure", None)
    if callable(reconfigure):
        # A character that the terminal cannot encode is no reason to fail.
        reconfigure(errors="backslashreplace")
    try:
        run(options.html, options.model, options.lines, options.epochs, options.seed)
    except PipelineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def run(
    html: Path = Path("highlight.html"),
    model: Path = Path("highlight-model"),
    lines: int = 16_000,
    epochs: int = 3,
    seed: int = 0,
    *,
    console: Console | None = None,
) -> Result:
    """Train both models, print what they learned, write a page, and predict with a saved pipe in a new process.

    Torch's random state and number of threads are restored.

    Args:
        html: the page to write; its folder must exist.
        model: the folder for the pipe of task one; an older one is replaced.
        lines: the number of training lines, 100 or more.
        epochs: the number of epochs of task one; task two takes one epoch.
        seed: fixes the lines, the initial weights and the batches.
        console: where to print; by default standard output.

    Raises:
        OptionError: if there are too few lines or epochs, or the page cannot be written.
        SourceError: if the standard library's source is missing, or has too few lines.
    """
    _check_options(html, model, lines, epochs)
    screen, started = Screen(Console() if console is None else console), perf_counter()
    with screen.busy("reading the standard library"):
        training, held_out = split_lines(find_library(), lines, min(lines, _HELD_OUT), seed)
    screen.say(
        f"From the standard library of Python {platform.python_version()}: {_count(training)} to learn from, "
        f"{_count(held_out)} held out. No file is in both parts, and no line occurs twice."
    )
    with _seeded(seed), _one_thread():
        pipe, one = classify_characters(screen, training, held_out, epochs=epochs, seed=seed)
        two = classify_lines(screen, training, held_out, seed=seed)
        with screen.busy("predicting in a new process"):
            saved = save_and_predict(pipe, model, [line.text for line in held_out], one.predicted)
    result = Result(html.resolve(), training, held_out, epochs, one, two, saved, perf_counter() - started)
    write(result)
    show(result, screen)
    return result


def classify_characters(
    screen: Screen, training: Sequence[Line], held_out: Sequence[Line], *, epochs: int, seed: int
) -> tuple[CharacterPipe, CharacterResult]:
    """Task one: train the pipe, predict the held-out lines, and compare with a rule. Return the pipe, too."""
    data, model = build_character_pipe([line.text for line in training], seed)
    pipe = data >> model
    screen.title("Task one: the class of each character")
    screen.say(repr(pipe))
    examples = [Example(line.text, target=line.classes) for line in training]
    history = screen.follow(lambda progress: train(pipe, examples, epochs=epochs, seed=seed, progress=progress))
    with screen.busy("predicting the held-out lines"):
        predicted = list(pipe.predict(line.text for line in held_out))
        rule = WindowRule(training)
        by_rule = [rule.classify(line.text) for line in held_out]
        own = label_lines(inspect.getsource(build_character_pipe), "docs/examples/highlight/model.py")
    description = "most frequent class in the 7 characters around"
    # Every epoch cuts the same rows into the same batches, in another order.
    batches = [batch.report() for batch in data(examples)]
    result = CharacterResult(
        held_out,
        predicted,
        list(zip(own, pipe.predict(line.text for line in own), strict=True)),
        Comparison(
            "characters", score_characters(predicted, held_out), score_characters(by_rule, held_out), description
        ),
        Comparison("whole lines", score_lines(predicted, held_out), score_lines(by_rule, held_out), description),
        sum(batches, start=Report()),
        shuffle_batches([len(line.text) for line in training], batches, seed),
        history,
    )
    return pipe, result


def classify_lines(screen: Screen, training: Sequence[Line], held_out: Sequence[Line], *, seed: int) -> LineResult:
    """Task two: train the pipe for one epoch, predict the held-out lines, and compare with a rule."""
    data, model = build_line_pipe([line.text for line in training], seed)
    pipe = data >> model
    screen.title("Task two: the kind of each line")
    screen.say(repr(pipe))
    examples = [Example(line.text, target=line.kind) for line in training]
    history = screen.follow(lambda progress: train(pipe, examples, epochs=1, seed=seed, progress=progress))
    with screen.busy("predicting the held-out lines"):
        predicted = list(pipe.predict(line.text for line in held_out))
    screen.title("One line on its way through task two")
    screen.console.print(pipe.inspect("import this"))
    guess = find_most_frequent(line.kind for line in training)
    by_model = score([kind == line.kind for kind, line in zip(predicted, held_out, strict=True)])
    by_rule = score([guess == line.kind for line in held_out])
    comparison = Comparison("kinds of lines", by_model, by_rule, f"always {guess}, the most frequent")
    return LineResult(predicted, comparison, history)


def _count(lines: Sequence[Line]) -> str:
    return f"{len(lines):,} lines of {len({line.file for line in lines}):,} files"


def _check_options(html: Path, model: Path, lines: int, epochs: int) -> None:
    """Reject at once options that would fail after all the work."""
    for name, number, least in (("lines", lines, _MIN_LINES), ("epochs", epochs, 1)):
        if number < least:
            msg = f"{name} must be {least} or more, got {number}."
            raise OptionError(msg, **{name: number})
    folder = html.absolute().parent
    if html.is_dir() or not folder.is_dir():
        wrong = f"{html} is a folder" if html.is_dir() else f"{folder}, the folder of {html}, does not exist"
        msg = f"html must be a file to write, but {wrong}; name a file in an existing folder."
        raise OptionError(msg, html=str(html))
    if model.exists() and not (model / "manifest.json").is_file():
        msg = f"model must be a new folder or one of a saved pipe, got {str(model)!r}; name another one."
        raise OptionError(msg, model=str(model))
    if not model.absolute().parent.is_dir():
        msg = f"model must be in an existing folder, got {str(model)!r}; make {str(model.parent)!r} first."
        raise OptionError(msg, model=str(model))


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Seed torch's random numbers; restore their state afterwards."""
    state = torch.get_rng_state()
    torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def _one_thread() -> Generator[None]:
    """Use one thread: on matrices this small more threads gain little, and they stall if the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
