"""Samplers of torch, transformers, Lhotse and fairseq."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Final, Protocol, TypeAlias, cast

import numpy as np
import tokenizers
import torch
from tokenizers import models
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler
from typing_extensions import override

from bench.batching.data import Batch, BatchLimit, Implementation, Lengths, LoadEpoch, Ours, to_tensors
from bench.record import MissingPackageError

OURS: Final = "ours"

_PAD: Final = "<pad>"

# With Lhotse's default of 10 buckets, batches have more padding. Its recipes for speech use 30.
_LHOTSE_BUCKETS: Final = 30


class TorchRandom(Implementation):
    """A fixed number of random rows per batch: `RandomSampler`, `BatchSampler` and `pad_sequence` of torch."""

    @override
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return iter(self._make_sampler(epoch, rank, world_size))

    @override
    def make_loader(self, ids: Sequence[list[int]]) -> LoadEpoch:
        rows = cast("Dataset[Tensor]", to_tensors(ids))
        loader = DataLoader(rows, batch_sampler=self._make_sampler(0, 0, 1), collate_fn=_collate)

        def load_epoch() -> Iterator[Tensor]:
            return (padded for padded, _ in loader)

        return load_epoch

    def _make_sampler(self, epoch: int, rank: int, world_size: int) -> BatchSampler:
        rows = range(len(self.lengths))
        sampler: Sampler[int] = RandomSampler(rows, generator=torch.Generator().manual_seed(epoch))
        if world_size > 1:
            data = cast("Dataset[int]", rows)
            distributed: DistributedSampler[int] = DistributedSampler(data, num_replicas=world_size, rank=rank)
            distributed.set_epoch(epoch)
            sampler = distributed
        return BatchSampler(sampler, self.limit.rows, drop_last=False)


def _collate(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return padded ids, and the lengths of the rows."""
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


# Protocols for the used parts of packages that may be missing.


class _TransformersSamplers(Protocol):
    """Classes of `transformers.trainer_pt_utils`."""

    LengthGroupedSampler: Callable[..., Sampler[int]]
    DistributedLengthGroupedSampler: Callable[..., Sampler[int]]


class _TransformersCollation(Protocol):
    """Classes of `transformers`."""

    PreTrainedTokenizerFast: Callable[..., object]
    DataCollatorWithPadding: Callable[[object], Callable[[list[Mapping[str, list[int]]]], Mapping[str, Tensor]]]


class Transformers(Implementation):
    """A fixed number of rows per batch, sorted by length within 50 batches: `LengthGroupedSampler` of transformers.

    Raises:
        MissingPackageError: if transformers is not installed.
    """

    def __init__(self, lengths: Lengths, limit: BatchLimit) -> None:
        super().__init__(lengths, limit)
        try:
            self._samplers = cast("_TransformersSamplers", import_module("transformers.trainer_pt_utils"))
            self._collation = cast("_TransformersCollation", import_module("transformers"))
        except ImportError as error:
            msg = f"not installed ({error}): pip install transformers"
            raise MissingPackageError(msg) from error
        self._length_list: list[int] = lengths.tolist()

    @override
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return iter(self._make_sampler(epoch, rank, world_size))

    @override
    def make_loader(self, ids: Sequence[list[int]]) -> LoadEpoch:
        words = tokenizers.Tokenizer(models.WordLevel({_PAD: 0}, unk_token=_PAD))
        tokenizer = self._collation.PreTrainedTokenizerFast(tokenizer_object=words, pad_token=_PAD)
        collate = self._collation.DataCollatorWithPadding(tokenizer)
        rows = cast("Dataset[Mapping[str, list[int]]]", [{"input_ids": row} for row in ids])
        loader = DataLoader(rows, batch_sampler=self._make_sampler(0, 0, 1), collate_fn=collate)

        def load_epoch() -> Iterator[Tensor]:
            return (cast("Mapping[str, Tensor]", batch)["input_ids"] for batch in loader)

        return load_epoch

    def _make_sampler(self, epoch: int, rank: int, world_size: int) -> BatchSampler:
        rows = self.limit.rows
        if world_size > 1:
            sampler = self._samplers.DistributedLengthGroupedSampler(
                rows, lengths=self._length_list, num_replicas=world_size, rank=rank, seed=epoch
            )
        else:
            generator = torch.Generator().manual_seed(epoch)
            sampler = self._samplers.LengthGroupedSampler(rows, lengths=self._length_list, generator=generator)
        return BatchSampler(sampler, rows, drop_last=False)


class _Cut(Protocol):
    """A row of Lhotse."""

    @property
    def id(self) -> str: ...


class _Cuts(Protocol):
    """Several cuts: a data set, or a batch."""

    def __iter__(self) -> Iterator[_Cut]: ...


class _LhotseSampler(Protocol):
    """A sampler of batches, with a state."""

    def __iter__(self) -> Iterator[_Cuts]: ...
    def set_epoch(self, epoch: int, /) -> None: ...
    def state_dict(self) -> dict[str, object]: ...
    def load_state_dict(self, state: Mapping[str, object], /) -> None: ...


class _CutSets(Protocol):
    """The class of data sets."""

    def from_cuts(self, cuts: Iterable[_Cut], /) -> _Cuts: ...


class _LhotseData(Protocol):
    """Classes of `lhotse`."""

    MonoCut: Callable[..., _Cut]
    CutSet: _CutSets


class _LhotseSampling(Protocol):
    """Classes of `lhotse.dataset.sampling.dynamic_bucketing`."""

    DynamicBucketingSampler: Callable[..., _LhotseSampler]


class _LhotseCollation(Protocol):
    """Functions of `lhotse.dataset.collation`."""

    collate_vectors: Callable[..., Tensor]


class Lhotse(Implementation):
    """A budget of seconds, one per step, and rows from a buffer by length: `DynamicBucketingSampler` of Lhotse.

    Shuffled, with the number of buckets of its speech recipes, and otherwise its defaults.

    Raises:
        MissingPackageError: if Lhotse is not installed.
    """

    def __init__(self, lengths: Lengths, limit: BatchLimit) -> None:
        super().__init__(lengths, limit)
        try:
            data = cast("_LhotseData", import_module("lhotse"))
            self._sampling = cast("_LhotseSampling", import_module("lhotse.dataset.sampling.dynamic_bucketing"))
            self._collation = cast("_LhotseCollation", import_module("lhotse.dataset.collation"))
        except ImportError as error:
            msg = f"not installed ({error}): pip install lhotse urllib3"
            raise MissingPackageError(msg) from error
        cuts = (
            data.MonoCut(id=str(row), start=0, duration=length, channel=0)
            for row, length in enumerate(lengths.tolist())
        )
        self._cuts = data.CutSet.from_cuts(cuts)

    @override
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return map(_get_rows, self._make_sampler(epoch, rank, world_size))

    @override
    def sample(self, epoch: int) -> Iterator[object]:
        return iter(self._make_sampler(epoch))

    @override
    def resume(self, epoch: int, batches_done: int) -> Iterator[Batch]:
        sampler = self._make_sampler(epoch)
        # The state that a sampler has after this number of batches, without running it up to there.
        counts = {
            "epoch": epoch,
            "kept_cuts": 0,
            "discarded_cuts": 0,
            "kept_batches": batches_done,
            "discarded_batches": 0,
        }
        diagnostics = {"current_epoch": epoch, "stats_per_epoch": {epoch: counts}}
        sampler.load_state_dict({**sampler.state_dict(), "diagnostics": diagnostics})
        return map(_get_rows, sampler)

    @override
    def make_loader(self, ids: Sequence[list[int]]) -> LoadEpoch:
        rows, sampler = to_tensors(ids), self._make_sampler(0)
        dataset = cast("Dataset[Tensor]", _LhotseDataset(rows, self._collation.collate_vectors))
        loader = DataLoader(dataset, sampler=cast("Sampler[int]", sampler), batch_size=None)

        def load_epoch() -> Iterator[Tensor]:
            return (padded for padded, _ in cast("Iterable[tuple[Tensor, Tensor]]", loader))

        return load_epoch

    def _make_sampler(self, epoch: int, rank: int = 0, world_size: int = 1) -> _LhotseSampler:
        steps = self.limit.max_padded_steps
        limit = {"max_cuts": self.limit.rows} if steps is None else {"max_duration": steps}
        with warnings.catch_warnings():
            # It advises to read cuts lazily from a file, which would only make it slower here.
            warnings.simplefilter("ignore", UserWarning)
            sampler = self._sampling.DynamicBucketingSampler(
                self._cuts, **limit, num_buckets=_LHOTSE_BUCKETS, shuffle=True, seed=0, rank=rank, world_size=world_size
            )
        sampler.set_epoch(epoch)
        return sampler


class _LhotseDataset:
    """A data set in Lhotse's style: its index is a batch of cuts."""

    def __init__(self, rows: Sequence[Tensor], collate: Callable[..., Tensor]) -> None:
        self._rows = rows
        self._collate = collate

    def __getitem__(self, cuts: _Cuts) -> tuple[Tensor, Tensor]:
        """Return padded ids, and the lengths of the rows."""
        rows = [self._rows[row] for row in _get_rows(cuts)]
        return self._collate(rows, padding_value=0), torch.tensor([len(row) for row in rows])


def _get_rows(cuts: _Cuts) -> list[int]:
    """Return the indices of rows. The id of a row that Lhotse repeats to even out ranks ends in `_` and a number."""
    return [int(cut.id.partition("_")[0]) for cut in cuts]


def cut_like_fairseq(lengths: Lengths, budget: int, multiple: int = 1) -> Iterator[Batch]:
    """Sort all rows once and cut them into batches, each as full as the budget allows; the same in every epoch.

    This is a reimplementation, because fairseq itself needs an older version of Python.

    Args:
        lengths: the length of each row.
        budget: the largest number of padded steps of a batch.
        multiple: batches of more rows than this have a multiple of it. fairseq's command line uses 8, which makes
            smaller batches, and more of them.

    Source: fairseq's `batch_by_size` with `max_tokens` (Ott et al. 2019, "fairseq: A Fast, Extensible Toolkit for
    Sequence Modeling", arXiv:1904.01038).

    Example:
        >>> lengths = np.array([4, 1, 5, 2, 2, 2])
        >>> [batch.tolist() for batch in cut_like_fairseq(lengths, 8)]
        [[1, 3, 4, 5], [0], [2]]
        >>> [batch.tolist() for batch in cut_like_fairseq(lengths, 8, multiple=3)]
        [[1, 3, 4], [5, 0], [2]]
    """
    order = np.argsort(lengths, kind="stable")
    ascending: list[int] = lengths[order].tolist()
    start = 0
    while start < len(ascending):
        stop = start + 1
        # Lengths ascend, so the row that is added last is the longest of the batch.
        while stop < len(ascending) and (stop + 1 - start) * ascending[stop] <= budget:
            stop += 1
        rows = stop - start
        rows -= rows % multiple if rows > multiple else 0
        yield order[start : start + rows]
        start += rows


Construct: TypeAlias = Callable[[Lengths, BatchLimit], Implementation]

IMPLEMENTATIONS: Final[Mapping[str, Construct]] = {
    OURS: Ours,
    "lhotse": Lhotse,
    "transformers": Transformers,
    "torch": TorchRandom,
}
"""All implementations by name, in the order of the columns of the table."""


def make_implementations(lengths: Lengths, limit: BatchLimit, notes: list[str]) -> dict[str, Implementation]:
    """Make all implementations whose package is installed; add a note for each one that is missing."""
    found: dict[str, Implementation] = {}
    for name, construct in IMPLEMENTATIONS.items():
        try:
            found[name] = construct(lengths, limit)
        except MissingPackageError as error:
            notes.append(f"{name}: {error}")
    return found
