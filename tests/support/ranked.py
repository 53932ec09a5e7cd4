"""A function on several ranks, each a process of its own that `torch.distributed` joins over gloo."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

# Typed by hand: torch leaves it open.
_spawn: Callable[..., object] = getattr(multiprocessing, "spawn")  # noqa: B009


def _rank(
    rank: int, function: Callable[..., object], world_size: int, folder: str, arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    # As a launcher says it, for libraries that ask the environment.
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "localhost",
    }
    distributed.init_process_group("gloo", init_method=f"file://{folder}/joined", rank=rank, world_size=world_size)
    try:
        torch.save(function(*arguments), f"{folder}/{rank}")
    finally:
        distributed.destroy_process_group()


def on_ranks(function: Callable[..., object], world_size: int, folder: Path, *arguments: object) -> list[Any]:
    """What a function of a module gives on each rank; an error on one is an error here."""
    _spawn(_rank, (function, world_size, str(folder), arguments), nprocs=world_size)
    return [torch.load(folder / str(rank)) for rank in range(world_size)]
