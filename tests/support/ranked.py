"""Run a function on several ranks: processes joined by `torch.distributed` over gloo."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

# Typed here, because torch's own function is untyped.
_start_processes: Callable[..., object] = getattr(multiprocessing, "start_processes")  # noqa: B009


def _run_rank(
    rank: int, function: Callable[..., object], world_size: int, folder: str, arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    # A launcher sets these; some libraries read them.
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


def run_on_ranks(function: Callable[..., object], world_size: int, folder: Path, *arguments: object) -> list[Any]:
    """Return the results of a function on each rank; an error on one rank is raised here."""
    _start_processes(
        _run_rank, (function, world_size, str(folder), arguments), nprocs=world_size, start_method="forkserver"
    )
    return [torch.load(folder / str(rank)) for rank in range(world_size)]
