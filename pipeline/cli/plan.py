"""`python -m pipeline plan FILE`: forecast an epoch over the rows of a file."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt
from rich.console import Console

from pipeline.batching.policies import TooLong
from pipeline.errors import OptionError, RecordError, SourceError
from pipeline.forecast import plan
from pipeline.sources import Arrow, Conllu, Csv, JsonLines, Parquet, Source, TextFolder, TextLines, Tsv, lengths_of
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_words import TokenizeWords

Unit: TypeAlias = Literal["lengths", "words", "characters", "tokens"]

LengthCounts: TypeAlias = npt.NDArray[np.integer] | Mapping[int, int]
"""The length of each row, or the number of rows of each length."""

# Files that contain lengths, unless --unit says that they contain text.
_LENGTH_FILES: Final = (".npy", ".txt")

# Longer numbers are neither lengths nor counts, and int() takes quadratic time for a million digits.
_MAX_DIGITS: Final = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add = parser.add_argument
    add(
        "file",
        type=Path,
        metavar="FILE",
        help="lengths (.npy, or .txt with one per line), or records: see --unit; - reads lines from standard input",
    )
    add("--unit", choices=get_args(Unit), help="unit of a row's steps (default: lengths for .npy and .txt, else words)")
    add("--text", metavar="NAME", help="field or column with the text (default: text)")
    add("--words", metavar="NAME", help="field or column with lists of words, instead of --text")
    add("--tokenizer", type=Path, metavar="PATH", help="tokenizer.json for --unit tokens")
    add("--histogram", action="store_true", help="each line of FILE is a length and the number of rows that have it")
    add(
        "--max-padded-steps",
        type=int,
        metavar="N",
        default=4_096,
        help="largest number of padded steps per batch (default: 4096)",
    )
    add("--rows", type=int, metavar="N", help="largest number of rows per batch (default: no limit)")
    add("--too-long", choices=get_args(TooLong), default="raise", help="treatment of rows longer than a batch may be")
    add("--world-size", type=int, metavar="N", default=1, help="number of ranks that train together (default: 1)")
    add("--seed", type=int, metavar="N", default=0, help="seed of the plans (default: 0)")
    add("--picture", type=Path, metavar="PATH", help="also draw a picture: .svg, .png or .pdf; needs matplotlib")
    add("--json", action="store_true", help="print all figures as JSON")


def print_forecast(console: Console, options: argparse.Namespace) -> None:
    """Forecast an epoch, print the table or the JSON, and draw the picture if it is requested.

    Raises:
        OptionError: if options contradict each other, or are out of range.
        SourceError: if the file cannot be read.
        RecordError: if a line of it is malformed.
        LengthError: if a row is too long for a batch.
    """
    forecast = plan(
        _read_lengths(options),
        options.max_padded_steps,
        rows=options.rows,
        too_long=options.too_long,
        world_size=options.world_size,
        seed=options.seed,
    )
    # Before anything is printed, since it may raise an error.
    picture = None if options.picture is None else forecast.picture(options.picture)
    if options.json:
        sys.stdout.write(f"{json.dumps(forecast.to_dict(), indent=2, allow_nan=False)}\n")
        return
    console.print(forecast)
    if picture is not None:
        console.print(f"wrote {picture}", markup=False, highlight=False, soft_wrap=True)


def _read_lengths(options: argparse.Namespace) -> LengthCounts:
    file: Path = options.file
    has_lengths = file.suffix in _LENGTH_FILES or _is_stream(file) or options.histogram
    unit: Unit = options.unit or ("lengths" if has_lengths else "words")
    if options.histogram and unit != "lengths":
        msg = f"--histogram needs a file of lengths, got --unit {unit}; leave one of them out."
        raise OptionError(msg, unit=unit)
    if (options.tokenizer is None) == (unit == "tokens"):
        msg = "--unit tokens and --tokenizer PATH need each other, got only one of them; add the other."
        raise OptionError(msg, unit=unit)
    if unit != "lengths":
        return _measure_records(_open_source(file, options.text, options.words), unit, options.tokenizer)
    if file.suffix == ".npy":
        return _load_array(file)
    numbers = _read_numbers(TextLines(str(file), blank="drop"), per_line=2 if options.histogram else None)
    return _to_histogram(numbers) if options.histogram else np.asarray(numbers, np.int64)


def _is_stream(file: Path) -> bool:
    """Return whether a file is standard input or a pipe: it has no suffix, and is read like a .txt file."""
    return str(file) == "-" or file.parts[:2] == ("/", "dev") or file.is_fifo()


def _load_array(file: Path) -> npt.NDArray[np.integer]:
    try:
        # Mapped, because a file of lengths may have a billion rows; without pickle, which could run code.
        return cast("npt.NDArray[np.integer]", np.load(file, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        msg = f"{file} cannot be read: {error.strerror or error}."
        raise SourceError(msg, file=file) from error
    except (ValueError, EOFError) as error:
        msg = f"{file} must be an array of numbers saved by numpy, got something else: {error}"
        raise RecordError(msg, file=file) from error


def _read_numbers(source: Source[str], *, per_line: int | None) -> list[list[int]]:
    """Read the numbers of each line: one or two, the same number in every line."""
    found: list[list[int]] = []
    for index, example in enumerate(source):
        words = example.input.split()
        if not words:
            continue
        # The first line decides whether each row has one length, or a source and a target.
        wanted = per_line or (len(found[0]) if found else min(len(words), 2))
        if len(words) != wanted or not all(map(_is_small_number, words)):
            rule = "a whole number" if wanted == 1 else "two whole numbers"
            shown = example.input if len(example.input) <= 40 else f"{example.input[:37]}..."
            msg = (
                f"{source.where(index)}: each line must be {rule}, 0 or more, got {shown!r}; "
                "for a file of text, use --unit words or --unit characters."
            )
            raise RecordError(msg, line=example.input)
        found.append([int(word) for word in words])
    return found


def _is_small_number(word: str) -> bool:
    # isdecimal alone would accept the digits of other scripts.
    return word.isascii() and word.isdecimal() and len(word) <= _MAX_DIGITS


def _to_histogram(numbers: Sequence[Sequence[int]]) -> Mapping[int, int]:
    counts: dict[int, int] = {}
    for length, rows in numbers:
        counts[length] = counts.get(length, 0) + rows
    return counts


def _open_source(file: Path, text: str | None, words: str | None) -> Source[str] | Source[Sequence[str]]:
    """Return the source for a file, by its suffix; in a folder, each text file is a record."""
    if text is not None and words is not None:
        raise OptionError("--text and --words exclude each other, got both; leave one out.")
    match file.suffix.lower():
        case ".csv":
            return Csv(file, text=text or "text")
        case ".tsv":
            return Tsv(file, text=text or "text")
        case ".conllu" | ".conllup":
            return Conllu(file)
        case ending if ending == ".txt" or _is_stream(file):
            return TextLines(str(file))
        case _ if file.is_dir():
            return TextFolder(file)
        case _:
            return _open_fields(file, text or "text", words)


def _open_fields(file: Path, text: str, words: str | None) -> Source[str] | Source[Sequence[str]]:
    """Return the source for a file of named fields, which may contain text or lists of words."""
    match file.suffix.lower():
        case ".jsonl" | ".ndjson":
            return JsonLines(file, text=text) if words is None else JsonLines(file, words=words)
        case ".parquet":
            return Parquet(file, text=text) if words is None else Parquet(file, words=words)
        case ".arrow" | ".feather":
            return Arrow(file, text=text) if words is None else Arrow(file, words=words)
        case ending:
            msg = (
                f"{file} must end in .npy, .txt, .jsonl, .csv, .tsv, .conllu, .conllup, .parquet or .arrow, or be a "
                f"folder of text files, got {ending or 'no suffix'}; the suffix determines the format."
            )
            raise OptionError(msg, file=file)


def _measure_records(
    source: Source[str] | Source[Sequence[str]], unit: Unit, tokenizer: Path | None
) -> npt.NDArray[np.integer]:
    if tokenizer is None:
        return np.fromiter((_measure(example.input, unit) for example in source), np.int64)
    tokenize = Tokenize.read(tokenizer)
    # A source contains either texts or lists of words; its first record shows which.
    first = next(iter(source), None)
    if first is None or isinstance(first.input, str):
        return lengths_of(cast("Source[str]", source), tokenize)
    return lengths_of(source, TokenizeWords(tokenize.tokenizer))


def _measure(value: str | Sequence[str], unit: Unit) -> int:
    if isinstance(value, str):
        return len(value) if unit == "characters" else len(value.split())
    return sum(map(len, value)) if unit == "characters" else len(value)
