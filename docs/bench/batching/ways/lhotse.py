"""Lhotse's `DynamicBucketingSampler`: a budget of seconds, each step one; rows out of a buffer, by length."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

from bench.absent import AbsentError
from bench.batching.corpus import Lengths
from bench.batching.epoch import Batch
from bench.batching.ways.way import Loading, Room, Way, tensors

_BUCKETS = 30
"""Its own 10 pad more."""


class _Cut(Protocol):
    """A row."""

    @property
    def id(self) -> str: ...


class _Cuts(Protocol):
    """Some rows: a data set, or a batch."""

    def __iter__(self) -> Iterator[_Cut]: ...


class _Sampler(Protocol):
    """Its sampler, which gives batches and is at some place of its epoch."""

    def __iter__(self) -> Iterator[_Cuts]: ...
    def set_epoch(self, epoch: int, /) -> None: ...
    def state_dict(self) -> dict[str, object]: ...
    def load_state_dict(self, state: Mapping[str, object], /) -> None: ...


class _Sets(Protocol):
    """What is used of its class of data sets."""

    def from_cuts(self, cuts: Iterable[_Cut], /) -> _Cuts: ...


class _Lhotse(Protocol):
    """What is used of `lhotse`."""

    MonoCut: Callable[..., _Cut]
    CutSet: _Sets


class _Sampling(Protocol):
    """What is used of `lhotse.dataset.sampling.dynamic_bucketing`."""

    DynamicBucketingSampler: Callable[..., _Sampler]


class _Collation(Protocol):
    """What is used of `lhotse.dataset.collation`."""

    collate_vectors: Callable[..., Tensor]


class Lhotse(Way):
    """Shuffled, with as many buckets as its recipes for speech take, and otherwise its defaults.

    Raises:
        AbsentError: if Lhotse is not installed.
    """

    def __init__(self, lengths: Lengths, room: Room) -> None:
        super().__init__(lengths, room)
        try:
            library = cast("_Lhotse", import_module("lhotse"))
            self._sampling = cast("_Sampling", import_module("lhotse.dataset.sampling.dynamic_bucketing"))
            self._collation = cast("_Collation", import_module("lhotse.dataset.collation"))
        except ImportError as error:
            msg = f"not installed ({error}): pip install lhotse urllib3"
            raise AbsentError(msg) from error
        cuts = (
            library.MonoCut(id=str(row), start=0, duration=length, channel=0)
            for row, length in enumerate(lengths.tolist())
        )
        self._cuts = library.CutSet.from_cuts(cuts)

    @override
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return map(_rows, self._sampler(epoch, rank, world_size))

    @override
    def drawn(self, epoch: int) -> Iterator[object]:
        return iter(self._sampler(epoch))

    @override
    def resumed(self, epoch: int, steps: int) -> Iterator[Batch]:
        left = self._sampler(epoch)
        # What a run that got so far has saved.
        counted = {"epoch": epoch, "kept_cuts": 0, "discarded_cuts": 0, "kept_batches": steps, "discarded_batches": 0}
        diagnostics = {"current_epoch": epoch, "stats_per_epoch": {epoch: counted}}
        left.load_state_dict({**left.state_dict(), "diagnostics": diagnostics})
        return map(_rows, left)

    @override
    def loading(self, ids: Sequence[list[int]]) -> Loading:
        rows, sampler = tensors(ids), self._sampler(0)
        dataset = cast("Dataset[Tensor]", _Padded(rows, self._collation.collate_vectors))
        loader = DataLoader(dataset, sampler=cast("Sampler[int]", sampler), batch_size=None)

        def epoch() -> Iterator[Tensor]:
            return (padded for padded, _ in cast("Iterable[tuple[Tensor, Tensor]]", loader))

        return epoch

    def _sampler(self, epoch: int, rank: int = 0, world_size: int = 1) -> _Sampler:
        steps = self.room.max_padded_steps
        room = {"max_cuts": self.room.rows} if steps is None else {"max_duration": steps}
        with warnings.catch_warnings():
            # It advises to read cuts from a file, which would cost it more.
            warnings.simplefilter("ignore", UserWarning)
            sampler = self._sampling.DynamicBucketingSampler(
                self._cuts, **room, num_buckets=_BUCKETS, shuffle=True, seed=0, rank=rank, world_size=world_size
            )
        sampler.set_epoch(epoch)
        return sampler


class _Padded:
    """A data set as Lhotse has them: it is asked for a batch of cuts."""

    def __init__(self, rows: Sequence[Tensor], collate: Callable[..., Tensor]) -> None:
        self._rows = rows
        self._collate = collate

    def __getitem__(self, cuts: _Cuts) -> tuple[Tensor, Tensor]:
        """Padded ids, and how long each row is."""
        rows = [self._rows[row] for row in _rows(cuts)]
        return self._collate(rows, padding_value=0), torch.tensor([len(row) for row in rows])


def _rows(cuts: _Cuts) -> list[int]:
    """Which rows they are; one that is repeated for a rank says so behind its number."""
    return [int(cut.id.partition("_")[0]) for cut in cuts]
