"""`python -m pipeline plan FILE`: what an epoch over the rows of a file will be like."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt
from rich.console import Console

from pipeline.batching.policy import LongRows
from pipeline.errors import OptionError, RecordError, SourceError
from pipeline.forecast import plan
from pipeline.sources import Arrow, Conllu, Csv, JsonLines, Parquet, Source, TextFolder, TextLines, Tsv, lengths_of
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_words import TokenizeWords

Unit: TypeAlias = Literal["lengths", "words", "characters", "tokens"]

Counted: TypeAlias = npt.NDArray[np.integer] | Mapping[int, int]
"""Lengths row by row, or how many rows have which."""

_LENGTHS: Final = (".npy", ".txt")
"""Files that hold lengths, unless a unit says that they hold text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="lengths (.npy, or .txt with one a line), or records: see --unit")
    add("--unit", choices=get_args(Unit), help="what a row's steps are (default: lengths in .npy and .txt, else words)")
    add("--text", metavar="NAME", help="the field or column of the text (default: text)")
    add("--words", metavar="NAME", help="the field or column of the words, where they are in lists")
    add("--tokenizer", type=Path, metavar="PATH", help="the tokenizer.json that --unit tokens counts by")
    add("--histogram", action="store_true", help="a line of FILE is a length, and how many rows have it")
    add(
        "--max-padded-steps",
        type=int,
        metavar="N",
        default=4_096,
        help="the budget: padded steps a batch (default: 4096)",
    )
    add("--rows", type=int, metavar="N", help="how many rows a batch may have (default: as many as the budget allows)")
    add("--too-long", choices=get_args(LongRows), default="raise", help="what becomes of rows over the budget")
    add("--world-size", type=int, metavar="N", default=1, help="how many ranks train together (default: 1)")
    add("--seed", type=int, metavar="N", default=0, help="what the plans start from (default: 0)")
    add("--picture", type=Path, metavar="PATH", help="draw it too: .svg, .png or .pdf; needs matplotlib")
    add("--json", action="store_true", help="for programs: all figures as JSON")


def show(console: Console, options: argparse.Namespace) -> None:
    """Forecast, print the table or the JSON, and draw the picture if one is asked for.

    Raises:
        OptionError: for options that contradict each other, or are out of their range.
        SourceError: if the file cannot be read.
        RecordError: if a line of it is not what it should be.
        LengthError: if the budget has no room for a row.
    """
    counted = _counted(options)
    forecast = plan(
        counted,
        options.max_padded_steps,
        rows=options.rows,
        too_long=options.too_long,
        world_size=options.world_size,
        seed=options.seed,
    )
    # First, since it may be refused.
    drawn = None if options.picture is None else forecast.picture(options.picture)
    if options.json:
        sys.stdout.write(f"{json.dumps(forecast.to_dict(), indent=2, allow_nan=False)}\n")
        return
    console.print(forecast)
    if drawn is not None:
        console.print(f"wrote {drawn}", markup=False, highlight=False, soft_wrap=True)


def _counted(options: argparse.Namespace) -> Counted:
    file: Path = options.file
    unit: Unit = options.unit or ("lengths" if file.suffix in _LENGTHS or options.histogram else "words")
    if options.histogram and unit != "lengths":
        msg = f"--histogram needs a file of lengths, but --unit {unit} arrived; leave one of them out."
        raise OptionError(msg, unit=unit)
    if (options.tokenizer is None) == (unit == "tokens"):
        msg = "--unit tokens and --tokenizer PATH need each other, but one arrived alone."
        raise OptionError(msg, unit=unit)
    if unit != "lengths":
        return _lengths_of_records(_source(file, options.text, options.words), unit, options.tokenizer)
    if file.suffix == ".npy":
        return _array(file)
    numbers = _numbers(TextLines(file, blank="drop"), exactly=2 if options.histogram else None)
    return _histogram(numbers) if options.histogram else np.asarray(numbers, np.int64)


def _array(file: Path) -> npt.NDArray[np.integer]:
    try:
        return cast("npt.NDArray[np.integer]", np.load(file, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        msg = f"{file} cannot be read: {error.strerror or error}."
        raise SourceError(msg, file=file) from error
    except (ValueError, EOFError) as error:
        msg = f"{file} must be an array of numbers as numpy saves it, but it is none: {error}"
        raise RecordError(msg, file=file) from error


def _numbers(source: Source[str], *, exactly: int | None) -> list[list[int]]:
    """The numbers of each line: as many in all as in the first, one or two."""
    found: list[list[int]] = []
    for index, example in enumerate(source):
        words = example.input.split()
        if not words:
            continue
        wanted = exactly or (len(found[0]) if found else min(len(words), 2))
        if len(words) != wanted or not all(map(_is_number, words)):
            many = "a whole number" if wanted == 1 else "two whole numbers"
            shown = example.input if len(example.input) <= 40 else f"{example.input[:37]}..."
            msg = (
                f"{source.where(index)}: a line must be {many}, 0 or more, but {shown!r} arrived; "
                "for a file of text, say --unit words or --unit characters."
            )
            raise RecordError(msg, line=example.input)
        found.append([int(word) for word in words])
    return found


def _is_number(word: str) -> bool:
    # Of more digits, none is a length or a number of rows; int() would take time for a million of them.
    return word.isascii() and word.isdecimal() and len(word) <= 15


def _histogram(numbers: Sequence[Sequence[int]]) -> Mapping[int, int]:
    counts: dict[int, int] = {}
    for length, rows in numbers:
        counts[length] = counts.get(length, 0) + rows
    return counts


def _source(file: Path, text: str | None, words: str | None) -> Source[str] | Source[Sequence[str]]:
    """What reads a file, by its ending; a folder of text files is a record a file."""
    if text is not None and words is not None:
        raise OptionError("--text and --words name the same thing in two ways, but both arrived; leave one out.")
    match file.suffix.lower():
        case ".csv":
            return Csv(file, text=text or "text")
        case ".tsv":
            return Tsv(file, text=text or "text")
        case ".conllu":
            return Conllu(file)
        case ".txt":
            return TextLines(file)
        case _ if file.is_dir():
            return TextFolder(file)
        case _:
            return _source_of_fields(file, text or "text", words)


def _source_of_fields(file: Path, text: str, words: str | None) -> Source[str] | Source[Sequence[str]]:
    """What reads a file of named fields, which may hold text or lists of words."""
    match file.suffix.lower():
        case ".jsonl" | ".ndjson":
            return JsonLines(file, text=text) if words is None else JsonLines(file, words=words)
        case ".parquet":
            return Parquet(file, text=text) if words is None else Parquet(file, words=words)
        case ".arrow" | ".feather":
            return Arrow(file, text=text) if words is None else Arrow(file, words=words)
        case ending:
            msg = (
                f"{file} must end in .npy, .txt, .jsonl, .csv, .tsv, .conllu, .parquet or .arrow, or be a folder of "
                f"text files, but it ends in {ending or 'nothing'}; that is how its format is told."
            )
            raise OptionError(msg, file=file)


def _lengths_of_records(
    source: Source[str] | Source[Sequence[str]], unit: Unit, tokenizer: Path | None
) -> npt.NDArray[np.integer]:
    if tokenizer is None:
        return np.fromiter((_length(example.input, unit) for example in source), np.int64)
    tokenize = Tokenize.read(tokenizer, pad=None, unknown=None)
    # Words that are split already are told from text by what the source gives.
    first = next(iter(source), None)
    if first is None or isinstance(first.input, str):
        return lengths_of(cast("Source[str]", source), tokenize)
    return lengths_of(source, TokenizeWords(tokenize.tokenizer))


def _length(value: str | Sequence[str], unit: Unit) -> int:
    if isinstance(value, str):
        return len(value) if unit == "characters" else len(value.split())
    return sum(map(len, value)) if unit == "characters" else len(value)
