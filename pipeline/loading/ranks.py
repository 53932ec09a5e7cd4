"""Rank of this process in distributed training."""

import os

from torch import distributed

from pipeline.checks.options import check_int
from pipeline.errors import OptionError


def get_rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and world size: as given, else those of `torch.distributed`, else `(0, 1)`.

    Raises:
        OptionError: if one is given without the other, if one is out of range, or if a launcher started several
            processes (`WORLD_SIZE` is set) and `torch.distributed` is not initialized.

    Example:
        >>> get_rank_and_world_size(None, None), get_rank_and_world_size(1, 4)
        ((0, 1), (1, 4))
    """
    if rank is not None and world_size is not None:
        check_int("world_size", world_size, minimum=1)
        check_int("rank", rank, minimum=0)
        if rank >= world_size:
            msg = f"rank must be below world_size, got rank={rank} and world_size={world_size}; ranks count from 0."
            raise OptionError(msg, rank=rank, world_size=world_size)
        return rank, world_size
    if rank is not None or world_size is not None:
        msg = (
            f"rank and world_size must be given together, got rank={rank} and world_size={world_size}; give both, or "
            "leave both out to take those of torch.distributed."
        )
        raise OptionError(msg, rank=rank, world_size=world_size)
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    # Launchers such as torchrun set WORLD_SIZE in every process before the processes join.
    launched = os.environ.get("WORLD_SIZE", "1")
    if launched != "1":
        msg = (
            f"WORLD_SIZE is {launched}, but torch.distributed is not initialized, so every process would train on all "
            "batches; call init_process_group before the first batch, or give rank= and world_size=."
        )
        raise OptionError(msg, launched=launched)
    return 0, 1
