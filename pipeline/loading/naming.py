"""Records as errors name them: by number, and by file and line where the source knows them."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from pipeline.errors import PipelineError

_SHOWN: Final = 8


def named(dataset: object, record: int) -> str:
    """One record: `record 57 (reviews.csv, line 58)`."""
    where: Callable[[int], str] | None = getattr(dataset, "where", None)
    if where is not None:
        # Who cannot say where a record stands is asked while something worse is on its way.
        with suppress(PipelineError, IndexError, OSError):
            return f"record {record} ({where(record)})"
    return f"record {record}"


def listed(dataset: object, records: Sequence[int]) -> str:
    """Several records, the first eight of them by name."""
    names = ", ".join(named(dataset, record) for record in records[:_SHOWN])
    return names + (f" and {len(records) - _SHOWN} more" if len(records) > _SHOWN else "")
