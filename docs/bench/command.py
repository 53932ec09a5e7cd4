"""The command line: `python docs/bench`."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, cast

import attrs
from rich.console import Console

from bench.batching.corpus import Corpus, LengthsError
from bench.measured import batch
from bench.measured.all import MEASUREMENTS
from bench.measured.measurement import Extent, Measurement
from bench.record.finding import Finding
from bench.record.machine import machine
from bench.record.record import Record, RecordError
from bench.record.sheet import Sheet
from bench.record.targets import targets_sheet

_EXTENTS: Final = ("quick", "full")
_WIDE: Final = 200
_USAGE: Final = """python docs/bench [NAME ...] [quick | full] [--json FILE] [--lengths FILE]
       python docs/bench report FILE"""


def main(arguments: Sequence[str]) -> int:
    """Measure what is named, or all; or print what a file of JSON holds as Markdown."""
    parser = _parser()
    said = parser.parse_args(arguments)
    words, file = cast("list[str]", said.words), cast("Path", said.json)
    if words[:1] == ["report"]:
        return _report(parser, words[1:])
    names = [word for word in words if word not in (*_EXTENTS, "all")]
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        parser.error(f"{unknown[0]!r} is none of {', '.join((*MEASUREMENTS, 'all', *_EXTENTS, 'report'))}")
    extent = _extent(said.quick or "quick" in words, said.full or "full" in words, parser)
    own = _own(cast("Path | None", said.lengths), parser)
    chosen = [MEASUREMENTS[name] for name in dict.fromkeys(names)] or _by_default(extent)
    measure([_given(each, own) for each in chosen], extent, file)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bench", usage=_USAGE, description=__doc__)
    parser.add_argument("words", nargs="*", metavar="NAME", help=f"any of {', '.join(MEASUREMENTS)}; all if none")
    parser.add_argument("--quick", action="store_true", help="a few points, within two minutes; or the word quick")
    parser.add_argument("--full", action="store_true", help="the whole grid, in many hours; or the word full")
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), help="the file to write; bench.json if left out"
    )
    parser.add_argument("--lengths", type=Path, help="lengths of your own, as numpy.save writes them: for batch")
    return parser


def _own(file: Path | None, parser: argparse.ArgumentParser) -> Corpus | None:
    """Lengths out of a file, if there is one."""
    try:
        return None if file is None else Corpus.read(file)
    except LengthsError as error:
        parser.error(str(error))


def _given(measurement: Measurement, own: Corpus | None) -> Measurement:
    """A measurement, with lengths of one's own where it makes batches."""
    if own is None or measurement.name != batch.BATCH.name:
        return measurement
    return attrs.evolve(measurement, find=partial(batch.find, own=own))


def _extent(quick: object, full: object, parser: argparse.ArgumentParser) -> Extent:
    if quick and full:
        parser.error("quick and full exclude each other")
    return "quick" if quick else "full" if full else "named"


def _by_default(extent: Extent) -> list[Measurement]:
    """All of them, or those that have a quick part."""
    return [measurement for measurement in MEASUREMENTS.values() if measurement.quick or extent != "quick"]


def measure(chosen: Sequence[Measurement], extent: Extent, file: Path) -> Record:
    """Measure, and show and write what was found; the file is written after every point, so that little can be lost."""
    console, found = _console(), list[Finding]()
    record = Record(machine(), found)
    console.print(str(record.machine), highlight=False)
    for measurement in chosen:
        for finding in measurement.find(extent):
            console.print(f"{finding.measurement}: {finding.point}", highlight=False)
            found.append(finding)
            record = Record(record.machine, found)
            record.write(file)
    for sheet in sheets(record):
        console.print(sheet.table())
    console.print(f"written to {file}", highlight=False)
    return record


def _console() -> Console:
    """As wide as the terminal; in a file, as wide as the tables are."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDE)


def sheets(record: Record) -> list[Sheet]:
    """A table a measurement, and the targets if one of them was measured."""
    found = [each.sheet(record.of(each.name)) for each in MEASUREMENTS.values() if record.of(each.name)]
    return [sheet for sheet in (*found, targets_sheet(record)) if sheet.rows]


def _report(parser: argparse.ArgumentParser, files: Sequence[str]) -> int:
    """Tables of Markdown, for a page."""
    if len(files) != 1:
        parser.error(f"report takes one file of JSON, but {len(files)} arrived")
    try:
        record = Record.read(Path(files[0]))
    except (OSError, RecordError) as error:
        parser.error(str(error))
    for sheet in sheets(record):
        sys.stdout.write(f"{sheet.markdown()}\n\n")
    sys.stdout.write(f"({record.machine})\n")
    return 0
