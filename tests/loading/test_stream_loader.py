"""A worker of a stream that dies or hangs is reported with the record that it was at."""

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline import Bucket, Pad
from pipeline.errors import WorkerError
from pipeline.loading import StreamDataset, StreamLoader
from support.dying import kills_workers
from support.needs import SLOW
from support.troubles import TroubledSource, TroubledStage

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

COUNTS = [1 + row % 5 for row in range(24)]


class Iterated:
    """Source that can only be iterated."""

    def __init__(self, source: TroubledSource) -> None:
        self.source = source

    def __iter__(self) -> Iterator[list[int]]:
        return (self.source[index] for index in range(len(self.source)))

    def where(self, index: int) -> str:
        """Return the place of a record, as a source does."""
        return self.source.where(index)


def make_loader(source: Any, stage: TroubledStage | None = None, **options: Any) -> StreamLoader[Any]:
    """Make a loader whose workers read this source."""
    data = (stage or TroubledStage(99, "")) >> Bucket(rows=2, buffer_size=4, seed=None) >> Pad()
    return StreamLoader(StreamDataset(source, data), num_workers=2, **options)


@kills_workers
def test_the_death_of_a_worker_names_the_record() -> None:
    """Killed by the system, for example because memory ran out."""
    with pytest.raises(
        WorkerError, match=r"worker 1 was at record 13 \(rows\.txt, line 14\), in its batch \d\.$"
    ) as info:
        list(make_loader(TroubledSource(COUNTS, 13, "kill")))
    assert info.value.details["records"] == [13]


@kills_workers
def test_workers_that_exit_name_the_record() -> None:
    """There is no signal. Both workers read every record of a source that can only be iterated."""
    with pytest.raises(WorkerError, match=r"worker \d was at record 13 \(rows\.txt, line 14\), in its batch") as info:
        list(make_loader(Iterated(TroubledSource(COUNTS, 13, "leave"))))
    assert info.value.details["records"] == [13]


@SLOW
def test_a_hanging_worker_names_the_record() -> None:
    """After the timeout; the other worker, which waits for training, is not blamed."""
    with pytest.raises(
        WorkerError,
        match=r"^DataLoader timed out after 4 seconds: worker 1 was at record 13 \(rows\.txt, line 14\), in",
    ) as info:
        list(make_loader(TroubledSource(COUNTS, 13, "hang"), timeout=4, prefetch_factor=1))
    assert info.value.details["records"] == [13]


@kills_workers
def test_a_death_in_a_stage_names_the_records_that_it_had_read() -> None:
    """Records of the worker's own shard only, which gave no row yet."""
    with pytest.raises(WorkerError, match=r"worker 1 was at record .*record 13 \(rows\.txt, line 14\)") as info:
        list(make_loader(TroubledSource(COUNTS, 99, ""), TroubledStage(13, "kill")))
    assert info.value.details["records"] == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23]
