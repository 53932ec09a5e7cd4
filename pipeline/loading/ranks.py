"""Which rank this process is, of how many."""

import os

from torch import distributed

from pipeline.batching.numbers import whole
from pipeline.errors import OptionError


def taking_part(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """The rank and the number of ranks: as given, else those of `torch.distributed`, else one alone.

    Raises:
        OptionError: if one is given without the other, or is outside its range; or if a launcher says that there are
            several processes, and they are not joined yet.

    Example:
        >>> taking_part(None, None), taking_part(1, 4)
        ((0, 1), (1, 4))
    """
    if rank is not None and world_size is not None:
        whole("world_size", world_size, least=1)
        whole("rank", rank, least=0)
        if rank >= world_size:
            msg = f"rank must be below world_size, but rank={rank} arrived with world_size={world_size}; ranks count from 0."
            raise OptionError(msg, rank=rank, world_size=world_size)
        return rank, world_size
    if rank is not None or world_size is not None:
        msg = (
            f"rank and world_size are given together or not at all, but rank={rank} and world_size={world_size} arrived; left out, "
            "they are those of torch.distributed."
        )
        raise OptionError(msg, rank=rank, world_size=world_size)
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    launched = os.environ.get("WORLD_SIZE", "1")
    if launched != "1":
        msg = (
            f"WORLD_SIZE is {launched}, but torch.distributed is not initialised, so that every process would take all "
            "batches; call init_process_group before the batches are asked for, or give rank= and world_size=."
        )
        raise OptionError(msg, launched=launched)
    return 0, 1
