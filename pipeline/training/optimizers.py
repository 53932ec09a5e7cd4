"""Make an optimizer: parameter groups with and without weight decay, and torch's fused versions."""

from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pipeline.checks.hints import describe
from pipeline.errors import OptionError
from pipeline.stages.embed import Embed
from pipeline.training.lazy_adam import LazyAdam
from pipeline.training.options import MakeOptimizer, OptimizerName, ParameterGroups

_MOMENTUM: Final = 0.9

_EMBEDDINGS: Final = (Embed, nn.Embedding, nn.EmbeddingBag)


def group_parameters(model: nn.Module, weight_decay: float) -> ParameterGroups:
    """Return the trainable parameters in two groups: with weight decay, and without.

    Without are biases, weights of norms and all others with one axis, since decay towards zero has no use there; and
    embeddings, because the rows of rare ids would shrink in the many batches in which they do not occur. A weight
    that an embedding shares with a head counts as one of the embedding. Groups without parameters are left out.

    Args:
        model: the module.
        weight_decay: the decay of the first group.

    Example:
        >>> from pipeline import Classify, Embed, Encode, Pool
        >>> model = Embed(9, 4) >> Encode("gru", hidden_size=5) >> Pool("max") >> Classify(3)
        >>> for group in group_parameters(model, 0.01):
        ...     print(group["weight_decay"], [tuple(weight.shape) for weight in group["params"]])
        0.01 [(15, 4), (15, 5), (3, 5)]
        0.0 [(9, 4), (15,), (15,), (3,)]
    """
    embedded = {
        id(weight)
        for module in model.modules()
        if isinstance(module, _EMBEDDINGS)
        for weight in module.parameters(recurse=False)
    }
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    is_decayed = [weight.ndim > 1 and id(weight) not in embedded for weight in weights]
    groups: ParameterGroups = [
        {"params": [each for each, found in zip(weights, is_decayed, strict=True) if found is decayed]}
        for decayed in (True, False)
    ]
    for group, decay in zip(groups, (weight_decay, 0.0), strict=True):
        group["weight_decay"] = decay
    return [group for group in groups if group["params"]]


def make_optimizer(
    model: nn.Module, optimizer: OptimizerName | MakeOptimizer, *, learning_rate: float, weight_decay: float
) -> Optimizer:
    """Make an optimizer for the trainable parameters of a module.

    Args:
        model: the module.
        optimizer: a name, or a function that makes an optimizer of parameter groups.
        learning_rate: the learning rate of an optimizer by name.
        weight_decay: the decay of the weights that have one.

    Raises:
        OptionError: if no parameter is trainable, the function returns something else, or the optimizer does not
            support the sparse gradients of an embedding.

    Example:
        >>> type(make_optimizer(nn.Linear(2, 3), "sgd", learning_rate=0.1, weight_decay=0)).__name__
        'SGD'
    """
    groups = group_parameters(model, weight_decay)
    if not groups:
        msg = "the pipe must have weights to train, got none that has requires_grad; unfreeze some, or join a model."
        raise OptionError(msg)
    if callable(optimizer):
        made = optimizer(groups)
        if not isinstance(cast("object", made), Optimizer):
            msg = f"optimizer must return an optimizer of torch's, got {describe(made)}; return torch.optim.SGD(...)."
            raise OptionError(msg)
        return made
    is_fused = can_fuse(weight for group in groups for weight in group["params"])
    options: dict[str, Any] = {"lr": learning_rate, "fused": is_fused}
    is_sparse = any(True for _ in list_sparse(model))
    if optimizer == "sgd" and is_sparse:
        msg = (
            "optimizer='sgd' has momentum, which moves all rows of an embedding, but the pipe has a sparse one; choose "
            "'adamw' or 'adam', or make the embedding without sparse=True."
        )
        raise OptionError(msg, optimizer=optimizer)
    if is_sparse:
        return LazyAdam(groups, decoupled_weight_decay=optimizer == "adamw", **options)
    if optimizer == "sgd":
        return SGD(groups, momentum=_MOMENTUM, **options)
    return (AdamW if optimizer == "adamw" else Adam)(groups, **options)


def list_sparse(model: nn.Module) -> Iterator[str]:
    """Yield the names of the embeddings with sparse gradients that are trained."""
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    for name, module in modules:
        if isinstance(module, _EMBEDDINGS) and getattr(module, "sparse", False) and module.weight.requires_grad:
            yield name


def can_fuse(weights: Iterable[torch.Tensor]) -> bool:
    """Return whether torch's fused optimizers, one kernel for all weights, support these.

    Example:
        >>> can_fuse([torch.zeros(2)]), can_fuse([torch.zeros(2, device="meta")])
        (True, False)
    """
    return all(weight.device.type in {"cpu", "cuda"} and weight.is_floating_point() for weight in weights)
