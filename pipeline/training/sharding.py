"""Weights of which each rank keeps a part (FSDP): share them out, and put them together again."""

from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final, cast

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

# Late, since importing the module of FSDP takes a while: only who shards weights needs it.
_FSDP: Final = "torch.distributed.fsdp"


def shard_weights(model: nn.Module, device: torch.device | None) -> None:
    """Share out the weights of a model over all ranks, in place: each rank keeps one part of each weight.

    Each child gathers its weights for its own forward and backward pass only; weights that children share are gathered
    for the whole pass.
    """
    fsdp, meshes = import_module(_FSDP), import_module("torch.distributed.device_mesh")
    weights: list[Tensor] = [*model.parameters(), *model.buffers()]
    kind = device.type if device is not None else weights[0].device.type
    mesh: object = meshes.init_device_mesh(kind, (distributed.get_world_size(),))
    broadcast: Callable[..., object] = getattr(distributed, "broadcast")  # noqa: B009 - torch leaves its types open
    for weight in weights:
        broadcast(weight.detach(), src=0)
    children = [child for child in model.children() if any(True for _ in child.parameters())]
    counts = [id(weight) for child in children for weight in child.parameters()]
    for child in children:
        if all(counts.count(id(weight)) == 1 for weight in child.parameters()):
            fsdp.fully_shard(child, mesh=mesh)
    fsdp.fully_shard(model, mesh=mesh)


def gather_shards(value: Any) -> Any:  # noqa: ANN401 - the same containers with whole tensors
    """Return containers in which each sharded tensor is whole. Every rank must call this with the same containers."""
    found: object = value
    if isinstance(found, Tensor):
        whole: Callable[[], Tensor] | None = getattr(found, "full_tensor", None)
        return found if whole is None else whole()
    # The Counter of a scheduler holds numbers.
    if isinstance(found, dict) and not isinstance(found, Counter):
        items = cast("dict[object, object]", found).items()
        return {key: gather_shards(each) for key, each in items}
    if isinstance(found, list):
        return [gather_shards(each) for each in cast("list[object]", found)]
    return value


def shard_like(whole: Tensor, wanted: Tensor) -> Tensor:
    """Return a whole tensor in the parts of another one; unchanged if the other one is whole."""
    if not hasattr(wanted, "full_tensor") or hasattr(whole, "full_tensor"):
        return whole
    distribute: Callable[..., Tensor] = import_module("torch.distributed.tensor").distribute_tensor
    like: Any = wanted
    # From this rank's own copy, which is the same on all ranks.
    return distribute(whole.to(wanted.device), like.device_mesh, like.placements, src_data_rank=None)


def shard_optimizer_state(optimizer: Optimizer) -> None:
    """Share out the state of an optimizer that was loaded whole, like its weights."""
    for weight, state in cast("Mapping[Tensor, dict[str, Any]]", optimizer.state).items():
        for name, each in state.items():
            if isinstance(each, Tensor) and each.shape == weight.shape:
                state[name] = shard_like(each, weight)


@torch.no_grad()
def copy_whole_weights(sharded: nn.Module, whole: nn.Module) -> None:
    """Copy the weights of a sharded module into one with the same names that is not. Every rank must call this."""
    found = {**dict(sharded.named_parameters()), **dict(sharded.named_buffers())}
    for name, tensor in (*whole.named_parameters(), *whole.named_buffers()):
        tensor.copy_(cast("Tensor", gather_shards(found[name].detach())))
