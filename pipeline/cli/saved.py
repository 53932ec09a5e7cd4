"""`python -m pipeline evaluate`, `predict` and `serve`: commands for a saved model."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.console import Console

from pipeline.cli.data import (
    AnySource,
    add_data_arguments,
    add_group_arguments,
    choose_fields_of,
    get_suffix,
    open_source,
)
from pipeline.core.stream_chain import StreamChain
from pipeline.errors import OptionError
from pipeline.text import escape_control_characters

Pipe: TypeAlias = StreamChain[Any, Any]


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate`."""
    add_folder(parser)
    add_device(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="examples with targets, as for train")
    add_data_arguments(parser, target=True)
    add_group_arguments(parser, target=True)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `predict`."""
    add_folder(parser)
    add_device(parser)
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="inputs: .csv, .tsv, .jsonl, .parquet, .arrow, .conllu or .txt")
    add("--output", type=Path, metavar="PATH", required=True, help="file to write: .csv, .jsonl, .parquet or .conllu")
    add_data_arguments(parser, target=False)
    add_group_arguments(parser, target=False)
    add("--column", metavar="NAME", help="column of the predictions (default: prediction; upos for CoNLL-U)")
    add("--restart", action="store_true", help="begin again, and replace an output that exists")
    add("--quiet", action="store_true", help="show no progress")


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    add_folder(parser)
    add_device(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default: this machine only)")
    add("--port", type=int, metavar="N", default=8000, help="port; 0 chooses a free one (default: 8000)")
    add("--max-delay-ms", type=float, metavar="MS", default=5.0, help="longest wait for other requests (default: 5)")
    add("--max-rows", type=int, metavar="N", default=64, help="inputs that are predicted together (default: 64)")
    add("--max-inputs", type=int, metavar="N", default=256, help="inputs per request (default: 256)")
    add("--max-length", type=int, metavar="N", default=10_000, help="characters per input (default: 10000)")
    add("--max-queue", type=int, metavar="N", default=1_024, help="inputs that may wait (default: 1024)")
    add("--quiet", action="store_true", help="write no line per request")


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Add the folder of a saved model."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of a saved model")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the device of the weights."""
    parser.add_argument("--device", metavar="NAME", help="such as cuda (default: cpu)")


def evaluate(console: Console, options: argparse.Namespace) -> None:
    """Print the loss, the metrics and the confusion matrix of a saved model on a file.

    Raises:
        PipelineError: if the folder, the file or an option is wrong.
    """
    pipe = load_pipe(options.folder, options.device)
    target: str = options.target or ("upos" if get_suffix(options.file) == ".conllu" else "label")
    found = pipe.evaluate(_open(pipe, options, target))
    if options.json:
        sys.stdout.write(f"{json.dumps(found.to_dict(), indent=2, allow_nan=False)}\n")
    else:
        console.print(found)


def predict(options: argparse.Namespace) -> None:
    """Write the predictions of a saved model for a file.

    Raises:
        PipelineError: if the folder, a file or an option is wrong.
    """
    from pipeline.inference.files import predict_file  # noqa: PLC0415 - other commands need not wait for it

    pipe = load_pipe(options.folder, options.device)
    written = predict_file(
        pipe,
        _open(pipe, options, None),
        options.output,
        column=options.column,
        resume=not options.restart,
        progress=False if options.quiet else None,
    )
    sys.stdout.write(f"{escape_control_characters(str(written))}\n")


def serve(options: argparse.Namespace) -> None:
    """Answer requests with the predictions of a saved model until the process gets a signal to stop.

    Raises:
        PipelineError: if the folder, the address or an option is wrong.
    """
    from pipeline import serving  # noqa: PLC0415 - as above

    serving.serve(
        load_pipe(options.folder, options.device),
        host=options.host,
        port=options.port,
        log=not options.quiet,
        max_delay_ms=options.max_delay_ms,
        max_rows=options.max_rows,
        max_inputs=options.max_inputs,
        max_length=options.max_length,
        max_queue=options.max_queue,
    )


def load_pipe(folder: Path, device: str | None = None) -> Pipe:
    """Return a saved pipe, with its weights on a device.

    Raises:
        LoadError: if the folder has none, or one that was changed.
        OptionError: if there is no such device.
    """
    from pipeline.saving.load import load  # noqa: PLC0415 - as above

    return load(folder, device=_check_device(device))


def _check_device(name: str | None) -> str | None:
    if name is not None:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            msg = f"--device must be a device of torch, got {name!r}: {reason:.120}; leave it out for the CPU."
            raise OptionError(msg, device=name) from error
    return name


def _open(pipe: Pipe, options: argparse.Namespace, target: str | None) -> AnySource:
    choice = choose_fields_of(pipe, options.file, options, target)
    return open_source(options.file, choice, encoding=options.encoding, on_bad_record=options.on_bad_record)
