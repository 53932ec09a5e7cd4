"""A run as a file of JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NotRequired, TypedDict, cast

import attrs

from bench.record.finding import Finding, Trait
from bench.record.machine import Machine
from bench.timing.times import Times

_FORMAT: Final = 1


class RecordError(ValueError):
    """A file that holds no run."""


class _Timed(TypedDict):
    seconds: list[float]


class _Found(TypedDict):
    measurement: str
    point: str
    threads: int
    traits: dict[str, Trait]
    times: dict[str, _Timed]
    bytes: dict[str, int]
    operations: float
    figures: NotRequired[dict[str, float]]
    notes: list[str]


class _Machine(TypedDict):
    processor: str
    instructions: str
    cores: int
    threads: int
    torch: str
    python: str
    native: str | None
    load: float


@attrs.frozen
class Record:
    """A machine, and what was found on it."""

    machine: Machine
    findings: Sequence[Finding] = attrs.field(converter=tuple[Finding, ...])

    def of(self, measurement: str) -> list[Finding]:
        """The findings of one measurement."""
        return [finding for finding in self.findings if finding.measurement == measurement]

    def write(self, file: Path) -> None:
        """Write all of it, with the quartiles; a file that is there is replaced once the new one is complete."""
        held = {
            "format": _FORMAT,
            "machine": attrs.asdict(self.machine),
            "findings": [_written(finding) for finding in self.findings],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.part")
        part.write_text(json.dumps(held, indent=1) + "\n", "utf-8")
        part.replace(file)

    @classmethod
    def read(cls, file: Path) -> "Record":
        """A run that `write` wrote.

        Raises:
            RecordError: if the file is not of this format.
        """
        try:
            held = cast("Mapping[str, object]", json.loads(file.read_text("utf-8")))
            if held["format"] != _FORMAT:
                msg = f"{file} must be of format {_FORMAT}, but is of {held['format']}; measure anew."
                raise RecordError(msg)
            found = cast("list[_Found]", held["findings"])
            return cls(Machine(**cast("_Machine", held["machine"])), [_read(each) for each in found])
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            msg = f"{file} must be what --json wrote, but holds something else ({error!r}); measure anew."
            raise RecordError(msg) from error


def _written(finding: Finding) -> dict[str, object]:
    times = {
        name: {"seconds": times.seconds, "quartiles": attrs.astuple(times.spread)}
        for name, times in finding.times.items()
    }
    return {**attrs.asdict(finding, recurse=False), "times": times}


def _read(held: _Found) -> Finding:
    return Finding(
        measurement=held["measurement"],
        point=held["point"],
        threads=held["threads"],
        traits=held["traits"],
        times={name: Times(times["seconds"]) for name, times in held["times"].items()},
        bytes=held["bytes"],
        operations=held["operations"],
        figures=held.get("figures", {}),  # there were none in older files
        notes=held["notes"],
    )
