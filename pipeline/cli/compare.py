"""`python -m pipeline compare FILE`: train models of several parts on a file, and print a table of their scores."""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.cli.data import Choice, get_suffix, open_source
from pipeline.cli.outputs import check_parent
from pipeline.cli.train import (
    NONE,
    Model,
    Pipe,
    add_example_arguments,
    add_size_arguments,
    add_training_arguments,
    choose_model,
    make_pipe,
    read_examples,
    read_fit_options,
)
from pipeline.errors import OptionError
from pipeline.pictures import check_picture
from pipeline.text import escape_control_characters
from pipeline.training.compare import compare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_example_arguments(parser)
    parser.add_argument("--test", type=Path, metavar="FILE", help="examples of the scores (default: as for validation)")
    models = parser.add_argument_group("models, of which every combination is trained").add_argument
    models("--encoders", nargs="+", metavar="NAME", help="registered encoders (default: lstm bilstm gru bigru)")
    models("--attentions", nargs="+", metavar="NAME", default=[NONE], help="registered attentions, or none (none)")
    models("--poolings", nargs="+", metavar="NAME", help="registered poolings of a classifier (default: mean max)")
    add_size_arguments(parser.add_argument_group("model").add_argument)
    training = parser.add_argument_group("training").add_argument
    add_training_arguments(training)
    training("--seeds", type=int, metavar="N", default=3, help="number of trainings of each model (default: 3)")
    training("--no-baseline", action="store_true", help="leave out the linear model of n-grams")
    result = parser.add_argument_group("result").add_argument
    result("--picture", type=Path, metavar="PATH", help="also draw a picture: .svg, .png or .pdf; needs matplotlib")
    result("--csv", type=Path, metavar="PATH", help="also write the table to this file")
    result("--json", action="store_true", help="print everything as JSON")
    result("--quiet", action="store_true", help="do not report each training on standard error")


def compare_models(console: Console, options: argparse.Namespace) -> None:
    """Train every combination of parts with each seed, and print the scores.

    Raises:
        PipelineError: if an option, the file or an example is wrong.
    """
    if options.seeds < 1:
        msg = f"--seeds must be 1 or more, got {options.seeds}."
        raise OptionError(msg, seeds=options.seeds)
    # Now, not after hours of training.
    check_parent("--picture", options.picture)
    check_parent("--csv", options.csv)
    if options.picture is not None:
        check_picture(options.picture)
    fit_options = read_fit_options(options)
    model = choose_model(options)
    # The seed of the split; each training has its own.
    options.seed = 0
    train, valid = read_examples(options, model)
    test = None
    if options.test is not None:
        target = options.target or ("upos" if get_suffix(options.test) == ".conllu" else "label")
        choice = Choice(text=options.text, words=options.words, target=None if model == "language_model" else target)
        test = open_source(options.test, choice, encoding=options.encoding, on_bad_record=options.on_bad_record)
    examples = [train, valid] if test is None else [train, valid, test]
    models: Mapping[str, Callable[[], Pipe]] = {
        " + ".join(name for name in names.values() if name not in {None, NONE}): partial(
            make_pipe, argparse.Namespace(**{**vars(options), **names}), model, *examples
        )
        for names in list_combinations(options, model)
    }
    found = compare(
        models,
        train,
        valid,
        test=test,
        seeds=range(options.seeds),
        epochs=options.epochs,
        baseline=not options.no_baseline,
        report=None if options.quiet else _report,
        progress=False,
        **fit_options,
    )
    if options.csv is not None:
        found.to_csv(options.csv)
    if options.json:
        sys.stdout.write(f"{json.dumps(found.to_dict(), indent=2)}\n")
    else:
        console.print(found)
    if options.picture is not None:
        found.plot(options.picture)


def list_combinations(options: argparse.Namespace, model: Model) -> list[dict[str, Any]]:
    """List the parts of each model: its encoder, its attention and its pooling by the names of `make_pipe`'s options.

    Raises:
        OptionError: if poolings are given for a model without one.

    Example:
        >>> chosen = argparse.Namespace(encoders=["lstm", "gru"], attentions=["none", "dot"], poolings=None)
        >>> for parts in list_combinations(chosen, "tagger"):
        ...     print(parts)
        {'encoder': 'lstm', 'attention': 'none', 'pooling': None}
        {'encoder': 'lstm', 'attention': 'dot', 'pooling': None}
        {'encoder': 'gru', 'attention': 'none', 'pooling': None}
        {'encoder': 'gru', 'attention': 'dot', 'pooling': None}
    """
    if options.poolings is not None and model != "classifier":
        msg = f"--poolings is for classifiers, got --model {model}; leave it out."
        raise OptionError(msg, poolings=options.poolings)
    causal = ["lstm", "gru"]
    encoders = options.encoders or (causal if model == "language_model" else ["lstm", "bilstm", "gru", "bigru"])
    poolings = (options.poolings or ["mean", "max"]) if model == "classifier" else [None]
    parts = (list(dict.fromkeys(names)) for names in (encoders, options.attentions, poolings))
    return [
        {"encoder": encoder, "attention": attention, "pooling": pooling}
        for encoder, attention, pooling in itertools.product(*parts)
    ]


def _report(line: str) -> None:
    sys.stderr.write(f"{escape_control_characters(line)}\n")
