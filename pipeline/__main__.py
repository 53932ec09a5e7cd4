"""The command line: `python -m pipeline`."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from pipeline.cli.plugins import listing
from pipeline.cli.welcome import versions, welcome
from pipeline.errors import PipelineError
from pipeline.registry import PluginWarning, registry


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and give its exit status: 0 if it did its work, 1 if this library refused it."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    reconfigure: object = getattr(sys.stdout, "reconfigure", None)
    if callable(reconfigure):
        # A letter that the terminal cannot spell is no reason to fail.
        reconfigure(errors="backslashreplace")
    try:
        command(options)
    except PipelineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    about = "Models over sequences of unequal length in PyTorch. Without a command: what to do next."
    parser = argparse.ArgumentParser("python -m pipeline", description=about)
    parser.add_argument("--version", action="version", version=versions())
    parser.set_defaults(command=_welcome)
    commands = parser.add_subparsers(title="commands", metavar="command")

    about = "List every encoder, attention, pool and tokenizer that is installed, and the plugins that failed to load."
    plugins = commands.add_parser("plugins", help="what is installed", description=about)
    plugins.set_defaults(command=_plugins)

    about = "Teach a model to highlight Python source, and show what it learned."
    form = argparse.ArgumentDefaultsHelpFormatter
    demo = commands.add_parser("demo", help="a model that highlights Python", description=about, formatter_class=form)
    demo.set_defaults(command=_demo)
    demo.add_argument("--html", type=Path, metavar="PATH", default="highlight.html", help="the page to write")
    demo.add_argument("--lines", type=int, metavar="N", default=16_000, help="learn from so many lines")
    demo.add_argument("--epochs", type=int, metavar="N", default=3, help="go through them so many times")
    demo.add_argument("--seed", type=int, metavar="N", default=0, help="what makes a run repeatable")
    return parser


def _welcome(_: argparse.Namespace) -> None:
    welcome(_console())


def _plugins(_: argparse.Namespace) -> None:
    with warnings.catch_warnings():
        # What failed is in the list.
        warnings.simplefilter("ignore", PluginWarning)
        found = registry()
    listing(_console(), found)


def _demo(options: argparse.Namespace) -> None:
    # Here and not above: no other command needs it.
    from pipeline.demo import run  # noqa: PLC0415

    run(options.html, options.lines, options.epochs, options.seed)


def _console() -> Console:
    """Where to print: as wide as the terminal; as wide as need be into a pipe, so that a line stays a line."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if narrow else 10_000)


if __name__ == "__main__":
    sys.exit(main())
