"""The reasons for which more than one engine refuses a run."""

from typing import Final

import torch

from pipeline_recurrent.engines.run import Run

_USUAL: Final = (torch.float32, torch.float64)


def unusual_dtype(run: Run) -> str | None:
    """Of dtypes but float32 and float64, and of autocast, where torch chooses the dtype of every operation."""
    device = run.steps.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return "autocast is on, under which torch's own kernels choose their dtypes"
    if run.dtype not in _USUAL:
        return f"it computes in float32 and float64, but the values are {run.dtype}"
    return None


def precompute_inputs(run: Run) -> str | None:
    """Of torch's own kernels, which multiply what comes in by the input weights themselves."""
    return "it looks nothing up in a table" if run.precompute_inputs else None
