"""The largest batch that a device has memory for."""

import os
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from pipeline.batching.automatic import DEFAULT_STEPS
from pipeline.core.running import NumberedStage
from pipeline.stages.embed import Embed

_BYTES_PER_OUTPUT: Final = 16
"""Bytes of an output in float32, of its gradient, and of two intermediate results of a softmax or of gates."""


def limit_by_memory(model: Sequence[NumberedStage], *, memory: int | None = None) -> int:
    """Return the largest budget of padded steps that is chosen for a model, at most the default.

    A training step keeps outputs for the backward pass: per step of a row about as many numbers as all matrices have
    rows. They should fit into an eighth of the memory of the machine, or of the GPU. This matters for heads with very
    many classes, such as the tokens of a language model. The free memory would be a better limit, but two runs should
    have the same batches.

    Args:
        model: the stages with weights.
        memory: the bytes of the device; by default they are looked up.

    Example:
        >>> from pipeline import language_model
        >>> stages = list(enumerate(language_model(100_000).stages.values(), start=4))
        >>> limit_by_memory(stages, memory=2**33), limit_by_memory(stages, memory=2**37)
        (662, 4096)
    """
    weights = {id(each): each for _, stage in model if isinstance(stage, nn.Module) for each in stage.parameters()}
    # The rows of an embedding are ids, of which a step has one.
    outputs = sum(weight.shape[0] for weight in weights.values() if weight.ndim == 2)
    outputs -= sum(len(stage.weight) for _, stage in model if isinstance(stage, Embed) and id(stage.weight) in weights)
    if memory is None:
        device = next((weight.device for weight in weights.values()), torch.device("cpu"))
        memory = _find_memory(device)
    return max(min(memory // 8 // (_BYTES_PER_OUTPUT * max(outputs, 1)), DEFAULT_STEPS), 1)


def _find_memory(device: torch.device) -> int:
    """Return the memory of a device in bytes; a large number if it is not known."""
    if device.type == "cuda":
        # Typed by hand: torch leaves the type open.
        properties: object = getattr(torch.cuda, "get_device_properties")(device)  # noqa: B009
        return int(getattr(properties, "total_memory", 1 << 50))
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return 1 << 50
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
