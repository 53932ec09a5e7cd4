"""Check the device to train on."""

import torch

from pipeline.checks.hints import describe
from pipeline.errors import OptionError


def check_device(device: object) -> None:
    """Reject a device that does not exist on this machine.

    Raises:
        OptionError: with the devices that do.

    Example:
        >>> check_device("cpu")
        >>> check_device("gpu")
        Traceback (most recent call last):
        pipeline.errors.OptionError: device must be one of torch's on this machine, got 'gpu'; pass one of cpu.
    """
    if device is None:
        return
    found: torch.device | None = None
    if isinstance(device, torch.device | str):
        try:
            found = torch.device(device)
        except RuntimeError:
            found = None
    if found is not None and found.type != "cuda":
        # Torch itself names other accelerators that are missing, when weights are moved.
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found is None or (found.index or 0) >= count:
        devices = ["cpu", *(f"cuda:{number}" for number in range(count))]
        got = repr(device) if isinstance(device, str | torch.device | int | float) else describe(device)
        msg = f"device must be one of torch's on this machine, got {got}; pass one of {', '.join(devices)}."
        raise OptionError(msg, device=device)
