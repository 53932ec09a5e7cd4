"""Models wrapped in DDP and FSDP, trained on the ranks of a process group, and without a wrapper."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from pipeline import Classify, Embed, Encode, Ids, ModuleStage, NextToken, Pack, Padded, Pool, Pooled
from pipeline.data.metadata import IGNORED, BatchMetadata
from support.untyped import seed

# Typed here, because torch leaves them untyped.
_shard: Callable[..., object] = fully_shard
_make_mesh: Callable[..., Any] = init_device_mesh

LENGTHS = {"even": [5, 2, 3, 4], "empty": [5, 3, 0, 0]}
"""The lengths of four rows; each of two ranks has two of them."""


class PartlyUsed(ModuleStage[Pooled, Pooled]):
    """A stage with a layer that it uses, and one that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(10, 10)
        self.unused = nn.Linear(10, 10)

    def forward(self, value: Pooled) -> Pooled:
        """Return other vectors for the same rows."""
        return value.with_values(self.used(value.values))


def make_model(kind: str) -> Any:
    """Make a model of a kind, with the same weights each time."""
    seed(0)
    if kind == "steps":
        return Pack() >> Embed(20, 4) >> Encode("lstm", causal=True, hidden_size=5) >> NextToken(20)
    rows = Embed(20, 4) >> Encode("bilstm", hidden_size=5) >> Pool("final")
    return (rows >> PartlyUsed() if kind == "partly used" else rows) >> Classify(2, input_size=10)


def make_batch(kind: str, lengths: list[int], rows: slice) -> Padded[Ids]:
    """Make a batch of some rows; each row depends on its number alone."""
    numbers = torch.arange(len(lengths))[rows]
    counts = torch.tensor(lengths)[rows]
    width = int(counts.max())
    values = (3 + 5 * numbers.unsqueeze(1) + torch.arange(width)) % 20
    targets = numbers % 2
    if kind == "steps":
        targets = torch.where(torch.arange(width) < counts.unsqueeze(1), (values + 1) % 20, IGNORED)
    return Padded(Ids, values, counts, metadata=BatchMetadata(numbers, targets=targets))


def _train(model: Any, batch: Padded[Ids], over: float) -> None:
    # A large step, so that an optimizer step left out is far from the expected weights.
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(batch).loss(over=over).backward()
        optimizer.step()


def train_alone(kind: str, lengths: list[int]) -> dict[str, Tensor]:
    """Return the weights of a model without wrapper, after two steps on the whole batch."""
    model, batch = make_model(kind), make_batch(kind, lengths, slice(None))
    _train(model, batch, float(batch.metadata.weight))
    return {name: weight.detach() for name, weight in model.named_parameters()}


def _wrap_fsdp2(model: Any, *, by_stage: bool, policy: MixedPrecisionPolicy | None = None) -> Any:
    options = {"mesh": _make_mesh("cpu", (2,)), "mp_policy": policy or MixedPrecisionPolicy()}
    for stage in model.children() if by_stage else ():
        if any(True for _ in stage.parameters()):
            _shard(stage, **options)
    _shard(model, **options)
    return model


def _wrap_fsdp1(model: Any) -> Any:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "ddp": DistributedDataParallel,
    "ddp find_unused_parameters": partial(DistributedDataParallel, find_unused_parameters=True),
    "ddp static_graph": partial(DistributedDataParallel, static_graph=True),
    "fsdp1": _wrap_fsdp1,
    "fsdp2 whole": partial(_wrap_fsdp2, by_stage=False),
    "fsdp2 by stage": partial(_wrap_fsdp2, by_stage=True),
    "fsdp2 bfloat16": partial(_wrap_fsdp2, by_stage=True, policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32)),
}


def _train_wrapped(kind: str, lengths: list[int], wrapper: str) -> dict[str, Tensor]:
    rank = distributed.get_rank()
    model, batch = make_model(kind), make_batch(kind, lengths, slice(2 * rank, 2 * rank + 2))
    wrapped = WRAPPERS[wrapper](model)
    # The wrappers average gradients over the ranks, so the divisor is the mean of their weights.
    _train(wrapped, batch, float(make_batch(kind, lengths, slice(None)).metadata.weight) / 2)
    if wrapper == "fsdp1":
        with FullyShardedDataParallel.summon_full_params(wrapped):
            return {name: weight.detach().clone() for name, weight in model.named_parameters()}
    full: list[tuple[str, Any]] = [(name, weight.detach()) for name, weight in model.named_parameters()]
    return {name: weight.full_tensor() if hasattr(weight, "full_tensor") else weight for name, weight in full}


def train_on_rank(cases: list[tuple[str, str, str]]) -> list[dict[str, Tensor] | str]:
    """Return the weights after two steps for each case of model, lengths and wrapper; the message of an error."""
    results: list[dict[str, Tensor] | str] = []
    for kind, lengths, wrapper in cases:
        try:
            results.append(_train_wrapped(kind, LENGTHS[lengths], wrapper))
        except Exception as error:  # noqa: BLE001 - the other cases run nevertheless
            results.append(f"{type(error).__name__}: {error}")
    return results
