"""Measure the speed of the library beside that of alternatives, or print the tables of an earlier run."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, cast

import attrs
from rich.console import Console

from bench.batching.data import Corpus, LengthsError
from bench.goals import tabulate_goals
from bench.measurements import batch
from bench.measurements.attend import ATTEND
from bench.measurements.encode import CHOICES, ENCODE, LOW_PRECISION, SCAN
from bench.measurements.epoch import EPOCH, FIT_MEASUREMENT
from bench.measurements.fields import CHARACTERS, FIELDS
from bench.measurements.heads import CRF, GENERATE
from bench.measurements.inference import INFERENCE, PRECOMPUTE
from bench.measurements.models import EXPORT, INVARIANCE, LATENCY
from bench.measurements.packing import CHECKS, PACKING
from bench.measurements.serve import SAVING, SERVE
from bench.measurements.transformer import TRANSFORMER
from bench.measurements.users import USERS
from bench.record import Record, RecordError, Result, inspect_machine
from bench.report import Extent, Measurement, ReportTable
from bench.targets import tabulate_summary, tabulate_targets

MEASUREMENTS: Final[Mapping[str, Measurement]] = {
    measurement.name: measurement
    for measurement in (
        ENCODE,
        INFERENCE,
        LATENCY,
        LOW_PRECISION,
        USERS,
        CHOICES,
        INVARIANCE,
        PRECOMPUTE,
        EXPORT,
        TRANSFORMER,
        ATTEND,
        CRF,
        EPOCH,
        SCAN,
        FIELDS,
        CHARACTERS,
        FIT_MEASUREMENT,
        GENERATE,
        PACKING,
        SERVE,
        CHECKS,
        SAVING,
        batch.BATCH,
    )
}
"""All measurements by name, in the order in which they run by default."""

_EXTENTS: Final = ("quick", "full")
_USAGE: Final = """python docs/bench [NAME ...] [quick | full] [--json FILE] [--lengths FILE]
       python docs/bench report FILE"""

# Characters, if the output is not a terminal: wide enough that no table is wrapped.
_WIDTH: Final = 200


def main(arguments: Sequence[str]) -> int:
    """Run the measurements that are named, or all; or print the tables of a JSON file as Markdown."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    words, file = cast("list[str]", options.words), cast("Path", options.json)
    if words[:1] == ["report"]:
        return _print_report(parser, words[1:])
    names = [word for word in words if word not in (*_EXTENTS, "all")]
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        parser.error(
            f"NAME must be one of {', '.join((*MEASUREMENTS, 'all', *_EXTENTS, 'report'))}, got {unknown[0]!r}"
        )
    extent = _choose_extent(options.quick or "quick" in words, options.full or "full" in words, parser)
    own = _read_lengths(cast("Path | None", options.lengths), parser)
    chosen = [MEASUREMENTS[name] for name in dict.fromkeys(names)] or _choose_measurements(extent)
    run_measurements([_add_lengths(each, own) for each in chosen], extent, file)
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bench", usage=_USAGE, description=__doc__)
    parser.add_argument("words", nargs="*", metavar="NAME", help=f"one of {', '.join(MEASUREMENTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="measure a few points, in two minutes; same as: quick")
    parser.add_argument("--full", action="store_true", help="measure the whole grid, in many hours; same as: full")
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), help="write the record to this file; default: bench.json"
    )
    parser.add_argument("--lengths", type=Path, help="add your own row lengths, written by numpy.save, to `batch`")
    return parser


def _read_lengths(file: Path | None, parser: argparse.ArgumentParser) -> Corpus | None:
    try:
        return None if file is None else Corpus.read(file)
    except LengthsError as error:
        parser.error(str(error))


def _add_lengths(measurement: Measurement, own: Corpus | None) -> Measurement:
    """Pass the user's lengths to the measurement of batching; return other measurements as they are."""
    if own is None or measurement.name != batch.BATCH.name:
        return measurement
    return attrs.evolve(measurement, measure=partial(batch.measure, own=own))


def _choose_extent(quick: object, full: object, parser: argparse.ArgumentParser) -> Extent:
    if quick and full:
        parser.error("quick and full exclude each other; pass one of them")
    return "quick" if quick else "full" if full else "default"


def _choose_measurements(extent: Extent) -> list[Measurement]:
    return [measurement for measurement in MEASUREMENTS.values() if measurement.quick or extent != "quick"]


def run_measurements(chosen: Sequence[Measurement], extent: Extent, file: Path) -> Record:
    """Measure, and print and write the results. The file is written after every point, in case the run is stopped."""
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    results: list[Result] = []
    record = Record(inspect_machine(), results)
    console.print(str(record.machine), highlight=False)
    for measurement in chosen:
        for result in measurement.measure(extent):
            console.print(f"{result.measurement}: {result.point}", highlight=False)
            results.append(result)
            record = Record(record.machine, results)
            record.write(file)
    for table in make_tables(record):
        console.print(table.to_rich())
    console.print(f"written to {file}", highlight=False)
    return record


def make_tables(record: Record) -> list[ReportTable]:
    """Make a table per measurement that was run, and those of targets, of the summary and of goals."""
    measured = [(each, record.select(each.name)) for each in MEASUREMENTS.values()]
    tables = [measurement.tabulate(results) for measurement, results in measured if results]
    return [
        table
        for table in (*tables, tabulate_targets(record), tabulate_summary(record), tabulate_goals(record))
        if table.rows
    ]


def _print_report(parser: argparse.ArgumentParser, files: Sequence[str]) -> int:
    """Print the tables of a record as Markdown."""
    if len(files) != 1:
        parser.error(f"report takes one JSON file, got {len(files)}; pass the file that a run wrote")
    try:
        record = Record.read(Path(files[0]))
    except (OSError, RecordError) as error:
        parser.error(str(error))
    for table in make_tables(record):
        sys.stdout.write(f"{table.to_markdown()}\n\n")
    sys.stdout.write(f"({record.machine})\n")
    return 0
