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

from pipeline.cli import compare as comparing
from pipeline.cli import export as exporting
from pipeline.cli import generate as generating
from pipeline.cli import plan as planning
from pipeline.cli import saved
from pipeline.cli import train as training
from pipeline.cli.new_plugin import write_plugin
from pipeline.cli.option_names import translate_option_names
from pipeline.cli.plugin_kinds import PLUGIN_KINDS
from pipeline.cli.plugins import dump_inventory, make_table
from pipeline.cli.welcome import format_versions, print_welcome
from pipeline.errors import PipelineError, PluginError
from pipeline.registry import PluginWarning, Registry, current_choice, load_for_listing
from pipeline.registry.choice import STRICT
from pipeline.text import escape_control_characters, to_one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 for success, 1 for an error that this library reports."""
    parser = _make_parser()
    options, unknown = parser.parse_known_args(arguments)
    if "prompts" in options and not any(each.startswith("-") for each in unknown):
        # Of prompts before and after an option, argparse takes the first ones only.
        options.prompts = [*options.prompts, *unknown]
    elif unknown:
        chosen = f" {options.chosen}" if options.chosen else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}; {parser.prog}{chosen} --help lists all options")
    command: Callable[[argparse.Namespace], None] = options.command
    reconfigure: object = getattr(sys.stdout, "reconfigure", None)
    if callable(reconfigure):
        # A character that the terminal's encoding lacks is written as an escape instead of an error.
        reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            command(options)
    except PipelineError as error:
        sys.stderr.write(f"error: {escape_control_characters(translate_option_names(str(error), options))}\n")
        return 1
    return 0


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning on one line, without the line of the source that `warnings` adds."""
    sys.stderr.write(f"warning: {to_one_line(message)}\n")


def _make_parser() -> argparse.ArgumentParser:
    about = (
        "Models over sequences of unequal length in PyTorch. Without a command, print a first pipe and the commands."
    )
    parser = argparse.ArgumentParser("python -m pipeline", description=about)
    parser.add_argument("--version", action="version", version=format_versions())
    parser.set_defaults(command=_welcome)
    commands = parser.add_subparsers(title="commands", metavar="command", dest="chosen")

    about = "Train a model on the examples of a file, and save it in a folder. Its kind follows from the file."
    train = commands.add_parser("train", help="train a model on a file, and save it", description=about)
    train.set_defaults(command=training.train_model)
    training.add_arguments(train)

    about = (
        "Train a model with every combination of some encoders, attentions and poolings on the examples of a file, "
        "with several seeds each, and print their scores, the seconds per epoch and the number of weights. A linear "
        "model of n-grams stands beside them; it needs the extra sklearn."
    )
    compare = commands.add_parser("compare", help="compare encoders, attentions and poolings", description=about)
    compare.set_defaults(command=_compare)
    comparing.add_arguments(compare)

    about = "Print the loss, the metrics and the confusion matrix of a saved model on a file with targets."
    evaluate = commands.add_parser("evaluate", help="evaluate a saved model on a file", description=about)
    evaluate.set_defaults(command=_evaluate)
    saved.add_evaluate_arguments(evaluate)

    about = (
        "Write a file with its predictions: all columns are kept, and the prediction and its probability are added. "
        "An interrupted run is continued by the same command."
    )
    predict = commands.add_parser("predict", help="write a file with its predictions", description=about)
    predict.set_defaults(command=saved.predict)
    saved.add_predict_arguments(predict)

    about = (
        "Continue texts with a saved language model, one per line. Without a prompt, write a text from its beginning; "
        "the model must then begin texts with bos, as those of train do."
    )
    generate = commands.add_parser("generate", help="continue texts with a saved model", description=about)
    generate.set_defaults(command=generating.generate)
    generating.add_arguments(generate)

    about = (
        "Write a saved model to a file that runs without this library: ONNX, with a script that predicts with it, or a "
        "program of torch. It is compared with the model before it is written. Files of an earlier export are replaced."
    )
    export = commands.add_parser("export", help="write a saved model as ONNX or torch's program", description=about)
    export.set_defaults(command=exporting.export)
    exporting.add_arguments(export)

    about = (
        "Answer requests over HTTP with the predictions of a saved model: POST /predict, a page to try it at /, and "
        "GET /info, /health and /ready. Needs the extra serve."
    )
    serve = commands.add_parser("serve", help="answer requests with a saved model", description=about)
    serve.set_defaults(command=saved.serve)
    saved.add_serve_arguments(serve)

    about = "List all installed parts by kind, and the plugins that failed to load."
    plugins = commands.add_parser("plugins", help="list installed parts", description=about)
    plugins.set_defaults(command=_plugins)
    plugins.add_argument("--json", action="store_true", help="print all options and capabilities as JSON")

    about = (
        "Write a package with a part of your own. It installs, type-checks and passes its tests as written. "
        "Existing files are never overwritten."
    )
    new = commands.add_parser("new-plugin", help="write a package for a plugin", description=about)
    new.set_defaults(command=_new_plugin)
    new.add_argument("name", metavar="NAME", help="name of the part: leaky_mean gives package pipeline-leaky-mean")
    kind = f"kind of the part: {', '.join(PLUGIN_KINDS)} (default: encoder)"
    new.add_argument("--kind", default="encoder", choices=list(PLUGIN_KINDS), metavar="KIND", help=kind)
    new.add_argument("--into", type=Path, metavar="FOLDER", default=".", help="existing folder (default: this one)")

    about = (
        "Forecast an epoch before anything is trained: padding, the number of batches, the largest batch and the "
        "randomness of the order, under every kind of policy for the same limit."
    )
    plan = commands.add_parser("plan", help="forecast an epoch", description=about)
    plan.set_defaults(command=_plan)
    planning.add_arguments(plan)
    return parser


def _welcome(_: argparse.Namespace) -> None:
    print_welcome(_make_console(), _load_plugins())


def _plugins(options: argparse.Namespace) -> None:
    found = _load_plugins()
    if options.json:
        sys.stdout.write(f"{dump_inventory(found)}\n")
    else:
        _make_console().print(*make_table(found).rich())
    failed = [plugin for plugin in found.plugins if plugin.failure is not None]
    if failed and current_choice().strict:
        msg = f"with {STRICT}, all plugins must load, but these failed: {', '.join(map(str, failed))}."
        raise PluginError(msg)


def _load_plugins() -> Registry:
    # Without warnings and without the plugins' own output: failures are in the list.
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore", PluginWarning)
        return load_for_listing()


def _new_plugin(options: argparse.Namespace) -> None:
    offers = getattr(_load_plugins(), PLUGIN_KINDS[options.kind].catalogue).offers
    written = write_plugin(
        options.name, options.into, {offer.name: str(offer.plugin) for offer in offers}, options.kind
    )
    # os.path.join keeps the "./" of the current folder, without which pip takes the path for the name of a project.
    path = escape_control_characters(shlex.quote(os.path.join(options.into, written.name)))  # noqa: PTH118
    sys.stdout.write(
        f"wrote {path}: a working {options.kind} for you to change. Next:\n\n"
        f"  pip install --editable {path} pytest\n"
        f"  pytest {path}\n"
        "  python -m pipeline plugins\n"
    )


def _evaluate(options: argparse.Namespace) -> None:
    saved.evaluate(_make_console(), options)


def _compare(options: argparse.Namespace) -> None:
    comparing.compare_models(_make_console(), options)


def _plan(options: argparse.Namespace) -> None:
    planning.print_forecast(_make_console(), options)


def _make_console() -> Console:
    """Return a console as wide as the terminal, or without a limit in a pipe, where a line must stay one line."""
    limited = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if limited else 10_000)


if __name__ == "__main__":
    sys.exit(main())
