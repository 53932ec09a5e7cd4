"""The record of a run, as a JSON file: the machine, and a result per measured point."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias, TypedDict, cast

import attrs
import torch

from bench.timing import MATMUL, MATMUL_OPERATIONS, Quartiles, Times
from pipeline_recurrent.native import available

Parameter: TypeAlias = str | int | float | bool
"""A size or an option of a point."""

WITHOUT_NATIVE: Final = "without native"
"""The candidate with `engine="auto"` while the native engine is switched off: the library without a C compiler."""

WITH_NATIVE: Final = "with native"
"""The candidate with `engine="auto"` and the native engine."""

# 2: `results` with `parameters`, `peak_bytes` and `counts`. 1: other keys, and other names of candidates and points.
_FORMAT: Final = 2


class RecordError(ValueError):
    """A file that is not a record of a run, or has another format."""


class MissingPackageError(Exception):
    """The package of a candidate is not installed; the message says how to install it."""


@attrs.frozen
class Result:
    """Times, memory and counts of the candidates at one point.

    Attributes:
        measurement: the name of the measurement.
        point: a description of the point.
        threads: the number of threads of torch.
        parameters: sizes and options of the point, by name.
        times: the times of each candidate.
        peak_bytes: the peak memory of a step, for candidates whose memory was measured.
        operations: the operations in the matrix products of a step; 0 if not compared with the matrix peak.
        notes: remarks: the engines that were chosen, missing packages, wrong results of other runtimes.
        counts: numbers of each candidate that are not times.
    """

    measurement: str
    point: str
    threads: int
    parameters: Mapping[str, Parameter]
    times: Mapping[str, Times]
    peak_bytes: Mapping[str, int] = attrs.field(factory=dict[str, int])
    operations: float = 0.0
    notes: Sequence[str] = attrs.field(default=(), converter=tuple[str, ...])
    counts: Mapping[str, float] = attrs.field(factory=dict[str, float])

    def time_ratio(self, slow: str, fast: str) -> Quartiles | None:
        """Return the ratio of the times of two candidates; None if one of them was not timed."""
        if slow not in self.times or fast not in self.times:
            return None
        return self.times[slow].divide_by(self.times[fast])

    def median_ratio(self, slow: str, fast: str) -> float | None:
        """Return the median of that ratio."""
        quartiles = self.time_ratio(slow, fast)
        return None if quartiles is None else quartiles.median

    def format_ratio(self, slow: str, fast: str) -> str:
        """Return that ratio with its quartiles for a cell; empty if one of the two was not timed."""
        quartiles = self.time_ratio(slow, fast)
        return "" if quartiles is None else str(quartiles)

    def memory_ratio(self, one: str, other: str) -> float | None:
        """Return the ratio of the peak memory of two candidates; None if one of them was not measured."""
        return self.peak_bytes[one] / self.peak_bytes[other] if {one, other} <= self.peak_bytes.keys() else None

    def peak_share(self, name: str) -> float | None:
        """Return the candidate's rate of operations as a share of the matrix peak; None if not comparable."""
        if not self.operations or name not in self.times or MATMUL not in self.times:
            return None
        peak = MATMUL_OPERATIONS / self.times[MATMUL].quartiles.median
        return self.operations / self.times[name].quartiles.median / peak


@attrs.frozen
class Machine:
    """The machine, and the versions of what ran on it.

    Attributes:
        processor: its name.
        instructions: the vector instructions that torch uses.
        cores: the number of cores that the process may use.
        threads: torch's default number of threads.
        torch, python: their versions.
        native: the reason why the native engine is not available; None if it is.
        load: the load average of the minute before. On a quiet machine it is near 0.
    """

    processor: str
    instructions: str
    cores: int
    threads: int
    torch: str
    python: str
    native: str | None
    load: float

    def __str__(self) -> str:
        engine = "native engine" if self.native is None else f"no native engine: {self.native}"
        return (
            f"{self.processor}, {self.instructions}, {self.cores} cores (load {self.load:.1f} at the start), "
            f"torch {self.torch} with threads={self.threads}, Python {self.python}, {engine}"
        )


def inspect_machine() -> Machine:
    """Describe the machine of this process."""
    return Machine(
        processor=_read_processor(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        python=platform.python_version(),
        native=available(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    )


def _read_processor() -> str:
    """Return the processor's model name on Linux, its architecture elsewhere."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class _MachineFields(TypedDict):
    processor: str
    instructions: str
    cores: int
    threads: int
    torch: str
    python: str
    native: str | None
    load: float


class _TimesFields(TypedDict):
    seconds: list[float]


class _ResultFields(TypedDict):
    measurement: str
    point: str
    threads: int
    parameters: dict[str, Parameter]
    times: dict[str, _TimesFields]
    peak_bytes: dict[str, int]
    operations: float
    notes: list[str]
    counts: dict[str, float]


@attrs.frozen
class Record:
    """A machine, and the results that were measured on it."""

    machine: Machine
    results: Sequence[Result] = attrs.field(converter=tuple[Result, ...])

    def select(self, measurement: str, **parameters: Parameter) -> list[Result]:
        """Return the results of one measurement that have these parameters."""
        return [
            result
            for result in self.results
            if result.measurement == measurement and parameters.items() <= result.parameters.items()
        ]

    def write(self, file: Path) -> None:
        """Write the record as JSON; replace an existing file only when the new one is complete."""
        fields = {
            "format": _FORMAT,
            "machine": attrs.asdict(self.machine),
            "results": [_to_fields(result) for result in self.results],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        # Renaming is atomic: a run that is killed while it writes leaves the previous record.
        part = file.with_name(f"{file.name}.part")
        part.write_text(json.dumps(fields, indent=1) + "\n", "utf-8")
        part.replace(file)

    @classmethod
    def read(cls, file: Path) -> "Record":
        """Read a record that `write` wrote.

        Raises:
            RecordError: if the file is not a record, or a record of another format.
        """
        try:
            fields = cast("Mapping[str, object]", json.loads(file.read_text("utf-8")))
            if fields["format"] != _FORMAT:
                msg = f"{file} must have format {_FORMAT}, got {fields['format']}; measure again."
                raise RecordError(msg)
            results = cast("list[_ResultFields]", fields["results"])
            return cls(Machine(**cast("_MachineFields", fields["machine"])), [_from_fields(each) for each in results])
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            msg = (
                f"{file} must be a file that the bench wrote with --json, but cannot be read: {error!r}; measure again."
            )
            raise RecordError(msg) from error


def _to_fields(result: Result) -> dict[str, object]:
    """Convert a result to JSON fields. The quartiles are redundant, for readers that only have the file."""
    times = {
        name: {"seconds": times.seconds, "quartiles": attrs.astuple(times.quartiles)}
        for name, times in result.times.items()
    }
    return {**attrs.asdict(result, recurse=False), "times": times}


def _from_fields(fields: _ResultFields) -> Result:
    return Result(
        measurement=fields["measurement"],
        point=fields["point"],
        threads=fields["threads"],
        parameters=fields["parameters"],
        times={name: Times(times["seconds"]) for name, times in fields["times"].items()},
        peak_bytes=fields["peak_bytes"],
        operations=fields["operations"],
        notes=fields["notes"],
        counts=fields["counts"],
    )
