"""The command line: `python -m pipeline`."""

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from rich.console import Console

from pipeline.cli import plan as planning
from pipeline.cli.inventory import dumped
from pipeline.cli.new_plugin import new_plugin
from pipeline.cli.plugins import listing
from pipeline.cli.welcome import versions, welcome
from pipeline.errors import PipelineError, PluginError
from pipeline.registry import PluginWarning, Registry, chosen, surveyed
from pipeline.registry.choice import STRICT
from pipeline.text import plain


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
        sys.stderr.write(f"error: {plain(str(error))}\n")
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
    plugins.add_argument("--json", action="store_true", help="for programs: all options and capabilities, as JSON")

    about = (
        "Write a package with an encoder of your own, which installs, type-checks and passes its tests as it is. "
        "Where a file is there already, nothing is written."
    )
    new = commands.add_parser("new-plugin", help="a package to begin a plugin with", description=about)
    new.set_defaults(command=_new_plugin)
    new.add_argument("name", metavar="NAME", help="what to call the encoder: leaky_mean gives pipeline-leaky-mean")
    new.add_argument("--into", type=Path, metavar="FOLDER", default=".", help="where to put it (default: here)")

    about = (
        "Show what an epoch will be like before anything is trained: padding, batches, the largest of them and how "
        "random they are, under every kind of policy that keeps to a budget."
    )
    plan = commands.add_parser("plan", help="what an epoch will be like", description=about)
    plan.set_defaults(command=_plan)
    planning.add_arguments(plan)
    return parser


def _welcome(_: argparse.Namespace) -> None:
    welcome(_console(), _survey())


def _plugins(options: argparse.Namespace) -> None:
    found = _survey()
    if options.json:
        sys.stdout.write(f"{dumped(found)}\n")
    else:
        listing(_console(), found)
    broken = [plugin for plugin in found.plugins if plugin.failure is not None]
    if broken and chosen().strict:
        msg = f"plugins are loaded strictly ({STRICT}), and these could not be: {', '.join(map(str, broken))}."
        raise PluginError(msg)


def _survey() -> Registry:
    """What is installed, without a word about it on the way."""
    # What failed is in the list, and what a stranger's module prints is not.
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore", PluginWarning)
        return surveyed()


def _new_plugin(options: argparse.Namespace) -> None:
    written = new_plugin(options.name, options.into, _survey().encoders.names())
    # With its dot, where that is the folder: pip takes what has none for the name of a project.
    place = plain(shlex.quote(os.path.join(options.into, written.name)))  # noqa: PTH118
    sys.stdout.write(
        f"wrote {place}: an encoder that runs, for you to change. Next:\n\n"
        f"  pip install --editable {place} pytest\n"
        f"  pytest {place}\n"
        "  python -m pipeline plugins\n"
    )


def _plan(options: argparse.Namespace) -> None:
    planning.show(_console(), options)


def _console() -> Console:
    """Where to print: as wide as the terminal; as wide as need be into a pipe, so that a line stays a line."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if narrow else 10_000)


if __name__ == "__main__":
    sys.exit(main())
