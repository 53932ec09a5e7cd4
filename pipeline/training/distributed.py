"""Train on several ranks: join the process group, average gradients, share results, and name a rank that failed."""

import gc
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final, TypeVar, cast, final

import attrs
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.data.losses import sum_over_ranks
from pipeline.errors import OptionError, TrainingError
from pipeline.training.metrics import gather_over_ranks
from pipeline.training.options import Strategy
from pipeline.training.sharding import shard_weights

T = TypeVar("T")

_FAILED: Final = "pipeline/failed"
"""The key in the store of the process group under which a rank leaves its error for the others."""


@final
@attrs.frozen
class Ranks:
    """This process among those that train together; by default the only one.

    Attributes:
        rank: the number of this process, from 0.
        world_size: the number of processes.
        device: the device of this process; None for that of the weights.

    Example:
        >>> ranks = Ranks()
        >>> ranks.is_first, ranks.gather("mine"), ranks.share_from_first(lambda: 7)
        (True, ['mine'], 7)
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that shows progress and writes files."""
        return self.rank == 0

    def wrap(self, model: nn.Module, strategy: Strategy = "ddp") -> nn.Module:
        """Return the model with averaged gradients. All ranks get the weights of rank 0."""
        if self.world_size == 1 or not any(weight.requires_grad for weight in model.parameters()):
            return model
        if strategy == "fsdp":
            shard_weights(model, self.device)
            return model
        # A weight that a rank did not use in a batch has no gradient there, and DDP would wait for it forever.
        return cast("nn.Module", DistributedDataParallel(model, find_unused_parameters=True))

    def average_weights(self, weights: Mapping[str, Tensor], device: torch.device) -> Mapping[str, Tensor]:
        """Return the mean over ranks of the weights of a batch: the divisors whose averaged gradients are right."""
        if self.world_size == 1:
            return weights
        total = sum_over_ranks({name: weight.to(device) for name, weight in weights.items()})
        return {name: weight / self.world_size for name, weight in total.items()}

    def gather(self, value: T) -> list[T]:
        """Return the value of every rank, in their order. Every rank must call this."""
        return [value] if self.world_size == 1 else gather_over_ranks(value)

    def check_equal(self, facts: Mapping[str, str]) -> None:
        """Reject ranks whose options or data differ: they would train on wrong gradients, or wait forever.

        Raises:
            OptionError: on every rank, with the first difference.
        """
        first, *others = self.gather(dict(facts))
        for rank, theirs in enumerate(others, start=1):
            name = next((name for name in first if first[name] != theirs[name]), None)
            if name is not None:
                msg = (
                    f"all ranks must have the same options and data, but {name} is {first[name]} on rank 0 and "
                    f"{theirs[name]} on rank {rank}; start all ranks with the same script and files."
                )
                raise OptionError(msg, name=name, rank=rank)

    def share_from_first(self, make: Callable[[], T]) -> T:
        """Call a function on rank 0, and return its result on all ranks; its error is raised on all of them, too."""
        if self.world_size == 1:
            return make()
        found: list[object] = [None, None]
        if self.is_first:
            try:
                found[0] = make()
            except Exception as error:  # noqa: BLE001 - raised below, on every rank
                found[1] = error
        _find_function("broadcast_object_list")(found, src=0, device=self.device)
        if found[1] is not None:
            raise cast("Exception", found[1])
        return cast("T", found[0])


def delay_synchronization(model: nn.Module, *, until_last: bool) -> AbstractContextManager[object]:
    """Return a context in which gradients are not averaged, unless this is the last batch of an optimizer step."""
    if (set_gradient_sync := getattr(model, "set_requires_gradient_sync", None)) is not None:
        set_gradient_sync(until_last)
    if until_last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return cast("AbstractContextManager[object]", cast("Any", model).no_sync())


@contextmanager
def join_ranks(device: torch.device | str | None = None) -> Generator[Ranks]:
    """Join the process group of a launcher such as torchrun, use the one that exists, or do neither without ranks.

    A group that was joined here is left at the end. An error gets a note with the rank; if another rank failed or
    ended, the error says so, with the error of that rank if it left one.

    Args:
        device: the device of the ranks; by default the GPU of this rank, or the CPU without one.

    Raises:
        OptionError: if a launcher started several processes, but this torch has no `torch.distributed`.
        TrainingError: if another rank failed.
    """
    is_joined = distributed.is_available() and distributed.is_initialized()
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if not is_joined and launched == 1:
        yield Ranks()
        return
    if not distributed.is_available():
        msg = f"WORLD_SIZE is {launched}, but this torch is built without torch.distributed; install another build."
        raise OptionError(msg, launched=launched)
    found = _choose_device(device, distributed.get_backend() if is_joined else None)
    if not is_joined:
        _find_function("init_process_group")("nccl" if found is not None and found.type == "cuda" else "gloo")
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size(), found)
    try:
        yield ranks
    except Exception as error:
        if ranks.world_size == 1:
            raise
        if _is_of_another_rank(error):
            raise _describe_failure(ranks, error) from error
        error.add_note(f"It was raised on rank {ranks.rank} of {ranks.world_size}.")
        _leave_error(ranks, error)
        raise
    finally:
        if not is_joined:
            # DDP refers to the group, and is freed by the garbage collector only. If the group outlived this call, its
            # threads would run while Python ends, and abort the process about once in thirty times.
            gc.collect()
            _find_function("destroy_process_group")()


def _choose_device(device: torch.device | str | None, backend: str | None) -> torch.device | None:
    """Return the device of this rank; None to leave the weights where they are."""
    wanted = None if device is None else torch.device(device)
    has_gpu = torch.cuda.is_available() and backend != "gloo"
    if (wanted is None and not has_gpu) or (wanted is not None and (wanted.type != "cuda" or ":" in str(device))):
        return wanted
    # With the device "cuda", or none, each rank takes the GPU that the launcher gave it.
    local = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(local)
    return local


def _is_of_another_rank(error: Exception) -> bool:
    """Return whether an error is that of a connection to a rank that ended."""
    kinds = tuple(
        kind
        for name in ("DistBackendError", "DistNetworkError", "DistStoreError")
        if isinstance(kind := getattr(distributed, name, None), type)
    )
    # gloo raises a RuntimeError, with the place in its own source.
    return isinstance(error, kinds) or (type(error) is RuntimeError and "gloo" in str(error))


def _get_store() -> Any:  # noqa: ANN401 - torch's store is not typed
    return getattr(distributed, "distributed_c10d")._get_default_store()  # noqa: B009, SLF001 - torch has no other way


def _find_function(name: str) -> Callable[..., object]:
    """Return a function of `torch.distributed`, which leaves the types of its parameters open."""
    return cast("Callable[..., object]", getattr(distributed, name))


def _leave_error(ranks: Ranks, error: Exception) -> None:
    # A report, not a need: the store may have ended with its process.
    with suppress(Exception):
        _get_store().set(_FAILED, f"rank {ranks.rank} failed: {type(error).__name__}: {error}")


def _describe_failure(ranks: Ranks, error: Exception) -> TrainingError:
    cause = ""
    with suppress(Exception):
        store = _get_store()
        if store.check([_FAILED]):
            cause = store.get(_FAILED).decode("utf-8", "replace")
    reason = "did not answer in time" if "imed out" in str(error) else "did"
    msg = (
        f"rank {ranks.rank} of {ranks.world_size} stopped because another rank {reason}: "
        f"{cause or 'it left no error, so it was killed, ran out of memory, or hangs; look for its output'}"
    )
    return TrainingError(msg, rank=ranks.rank, world_size=ranks.world_size, cause=cause, error=str(error))
