"""Advice about the machine and the weights, given once a training has begun."""

import os
import warnings
from collections.abc import Callable
from typing import Final

import torch
from torch import nn

from pipeline.training.options import Precision

_SHOWN: Final = 5


def advise_threads() -> str | None:
    """Return advice to use one thread if other programs use the processors too; None if they are idle.

    Threads of one operation wait for each other, and so for the slowest: with two threads on a busy machine, a step of
    training can take ten times as long as with one.
    """
    get_load: Callable[[], tuple[float, float, float]] | None = getattr(os, "getloadavg", None)
    if get_load is None or torch.get_num_threads() == 1:
        return None
    cores, load = count_cores(), get_load()[0]
    if load <= cores:
        return None
    return (
        f"The load average of {load:.1f} exceeds the {cores} cores, and threads that wait for each other are slow "
        "then: start with OMP_NUM_THREADS=1."
    )


def advise_precision(device: torch.device, precision: Precision) -> str | None:
    """Return a warning of bfloat16 on a processor without instructions for it; None otherwise."""
    # Newer than torch's stubs, and absent without oneDNN.
    is_supported: Callable[[], bool] | None = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if device.type != "cpu" or precision == "float32" or is_supported is None or is_supported():
        return None
    return "This processor has no instructions for bfloat16: it is slower here than float32."


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    get_affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(get_affinity(0)) if get_affinity is not None else os.cpu_count() or 1


def warn_of_missing_gradients(module: nn.Module) -> None:
    """Warn of trainable weights that got no gradient in a backward pass: they would stay as they are, in silence."""
    names = [name for name, weight in module.named_parameters() if weight.requires_grad and weight.grad is None]
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        msg = (
            f"{', '.join(names[:_SHOWN])}{more} got no gradient from the first batch, and would not be trained; use "
            "their outputs, or freeze them: weight.requires_grad_(False)."
        )
        warnings.warn(msg, UserWarning, stacklevel=2)
