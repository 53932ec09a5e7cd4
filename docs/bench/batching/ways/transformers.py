"""Transformers' `LengthGroupedSampler` and `DataCollatorWithPadding`: so many rows a batch, of about one length."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

import tokenizers
import torch
from tokenizers import models
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler
from typing_extensions import override

from bench.absent import AbsentError
from bench.batching.corpus import Lengths
from bench.batching.epoch import Batch
from bench.batching.ways.way import Loading, Room, Way

_PAD = "<pad>"


class _Samplers(Protocol):
    """What is used of `transformers.trainer_pt_utils`."""

    LengthGroupedSampler: Callable[..., Sampler[int]]
    DistributedLengthGroupedSampler: Callable[..., Sampler[int]]


class _Collating(Protocol):
    """What is used of `transformers`."""

    PreTrainedTokenizerFast: Callable[..., object]
    DataCollatorWithPadding: Callable[[object], Callable[[list[Mapping[str, list[int]]]], Mapping[str, Tensor]]]


class Transformers(Way):
    """So many rows a batch, sorted within 50 batches' worth of rows.

    Raises:
        AbsentError: if transformers is not installed.
    """

    def __init__(self, lengths: Lengths, room: Room) -> None:
        super().__init__(lengths, room)
        try:
            self._samplers = cast("_Samplers", import_module("transformers.trainer_pt_utils"))
            self._library = cast("_Collating", import_module("transformers"))
        except ImportError as error:
            msg = f"not installed ({error}): pip install transformers"
            raise AbsentError(msg) from error
        self._counts: list[int] = lengths.tolist()

    @override
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return iter(self._sampler(epoch, rank, world_size))

    @override
    def loading(self, ids: Sequence[list[int]]) -> Loading:
        words = tokenizers.Tokenizer(models.WordLevel({_PAD: 0}, unk_token=_PAD))
        tokenizer = self._library.PreTrainedTokenizerFast(tokenizer_object=words, pad_token=_PAD)
        collate = self._library.DataCollatorWithPadding(tokenizer)
        rows = cast("Dataset[Mapping[str, list[int]]]", [{"input_ids": row} for row in ids])
        loader = DataLoader(rows, batch_sampler=self._sampler(0, 0, 1), collate_fn=collate)

        def epoch() -> Iterator[Tensor]:
            return (cast("Mapping[str, Tensor]", batch)["input_ids"] for batch in loader)

        return epoch

    def _sampler(self, epoch: int, rank: int, world_size: int) -> BatchSampler:
        rows = self.room.rows
        if world_size > 1:
            sampler = self._samplers.DistributedLengthGroupedSampler(
                rows, lengths=self._counts, num_replicas=world_size, rank=rank, seed=epoch
            )
        else:
            generator = torch.Generator().manual_seed(epoch)
            sampler = self._samplers.LengthGroupedSampler(rows, lengths=self._counts, generator=generator)
        return BatchSampler(sampler, rows, drop_last=False)
