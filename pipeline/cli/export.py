"""`python -m pipeline export`: a saved model as a file that runs without this library."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from pipeline.cli.outputs import check_parent
from pipeline.cli.saved import add_folder, load_pipe
from pipeline.errors import OptionError
from pipeline.export.options import Form
from pipeline.text import escape_control_characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_folder(parser)
    add = parser.add_argument
    add("file", type=Path, metavar="PATH", help="file to write: .onnx (needs the extra export), or .pt2 for torch")
    add(
        "--form",
        choices=get_args(Form),
        default="rows",
        help="rows: takes whole rows; step: takes a step of each row and the state of the steps before (default: rows)",
    )
    add("--batches", type=int, metavar="N", default=100, help="random batches to compare with the model (default: 100)")
    add("--tolerance", type=float, metavar="X", default=1e-5, help="difference that is allowed (default: 1e-5)")
    add(
        "--size",
        metavar="NAME=N",
        action="append",
        default=[],
        help="number of ids or features of an input, if no stage states it; may be repeated",
    )


def export(options: argparse.Namespace) -> None:
    """Write a saved model to a file, and print its inputs, its outputs and the files.

    Raises:
        PipelineError: if the folder, the file or an option is wrong, or the model cannot be exported.
    """
    check_parent("PATH", options.file)
    sizes = _read_sizes(options.size)
    written = load_pipe(options.folder).export(
        options.file, form=options.form, batches=options.batches, tolerance=options.tolerance, sizes=sizes
    )
    lines = [*str(written).splitlines(), f"wrote {', '.join(str(file) for file in written.files)}"]
    sys.stdout.writelines(f"{escape_control_characters(line)}\n" for line in lines)


def _read_sizes(given: Sequence[str]) -> Mapping[str, int]:
    sizes: dict[str, int] = {}
    for each in given:
        name, _, number = each.rpartition("=")
        if not name or not number.isdecimal() or not int(number):
            msg = f"--size must be the name of an input and a number above 0, got {each!r}; write --size amount=2."
            raise OptionError(msg, size=each)
        sizes[name] = int(number)
    return sizes
