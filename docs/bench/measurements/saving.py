"""Time to load a saved pipe, beside reading and hashing its weights with safetensors and hashlib."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import safetensors.torch
from torch import Tensor

from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import Rounds, time_first_runs, time_interleaved, use_threads
from pipeline import Bucket, FromIds, Pad, classifier, load

SIZES: Final[Mapping[Extent, Sequence[int]]] = {"quick": (1, 100), "default": (1, 100), "full": (1, 10, 100, 1_000)}
"""Megabytes of weights."""

_EMBEDDING: Final = 100

_load_file: Final[Callable[[Path], Mapping[str, Tensor]]] = cast("Any", safetensors.torch).load_file


def measure(extent: Extent) -> Iterator[Result]:
    """Measure each size on one thread: hashing uses no more."""
    for megabytes in SIZES[extent]:
        yield measure_loading(megabytes)


def measure_loading(megabytes: int, rounds: int = 15) -> Result:
    """Load a classifier of ids with an embedding of this size; its files are in the cache of the system."""
    ids = max(megabytes * 1_000_000 // (4 * _EMBEDDING) - 2_000, 10)
    with tempfile.TemporaryDirectory() as parent, use_threads("one") as number:
        folder = Path(parent) / "pipe"
        (FromIds() >> Bucket(rows=2) >> Pad() >> classifier(ids, 2, embedding_dim=_EMBEDDING)).save(folder)
        weights = folder / "weights.safetensors"

        def read_weights() -> Mapping[str, Tensor]:
            found = _load_file(weights)
            with weights.open("rb") as file:
                hashlib.file_digest(file, "sha256").hexdigest()
            return found

        candidates: Mapping[str, Callable[[], object]] = {
            "load": lambda: load(folder, takes=list[int], gives=int),
            "safetensors": read_weights,
        }
        times = time_interleaved(candidates, Rounds(rounds), time_first_runs(candidates))
        return Result("saving", f"{megabytes} MB of weights", number, {"bytes": weights.stat().st_size}, times)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per size."""
    headings = ("weights", "load", "safetensors.torch.load_file + hashlib.file_digest", "ratio")
    return ReportTable("Loading a saved pipe", headings, [_make_cells(result) for result in results])


def _make_cells(result: Result) -> list[str]:
    ours, theirs = result.times["load"], result.times["safetensors"]
    return [result.point, str(ours), str(theirs), str(ours.divide_by(theirs))]


SAVING: Final = Measurement("saving", measure, tabulate)
