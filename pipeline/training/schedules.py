"""Learning rates over the optimizer steps of all epochs: warm-up, and then constant, linear or cosine."""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from pipeline.checks.hints import describe
from pipeline.errors import OptionError
from pipeline.training.options import MakeSchedule, ScheduleName


def compute_factor(batch: int, *, schedule: ScheduleName, warmup: int, total: int) -> float:
    """Return the factor of the learning rate at an optimizer step, from 0.

    It grows over `warmup` optimizer steps, so that the first one has a small rate instead of none; then it is constant,
    or falls to 0 at the end of `total`.

    Example:
        >>> [compute_factor(batch, schedule="linear", warmup=2, total=6) for batch in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if batch < warmup:
        return (batch + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = min((batch - warmup) / max(total - warmup, 1), 1.0)
    return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


def make_schedule(
    optimizer: Optimizer, schedule: ScheduleName | MakeSchedule, *, warmup: float, total: int | None
) -> LRScheduler | None:
    """Make the scheduler of an optimizer; None for a constant rate without warm-up.

    Args:
        optimizer: the optimizer.
        schedule: a name, or a function that makes a scheduler.
        warmup: a number of optimizer steps, or their share if it is below 1.
        total: the number of optimizer steps of all epochs; None if it is not known.

    Raises:
        OptionError: if the number is needed and not known, warm-up is longer than training, or a function returns
            something else than a scheduler.
    """
    needs_total = schedule != "constant" or 0 < warmup < 1
    if needs_total and total is None:
        msg = (
            "the schedule needs the number of batches, which is not known for data without a length; use the schedule "
            '"constant" with warmup as a number of optimizer steps, or pass data with a length.'
        )
        raise OptionError(msg, schedule=schedule)
    if callable(schedule):
        found = schedule(optimizer, total or 0)
        if not isinstance(found, LRScheduler):
            msg = (
                f"schedule must return a scheduler of torch's, got {describe(found)}; return LambdaLR(optimizer, ...)."
            )
            raise OptionError(msg)
        return found
    steps = round(warmup * total) if total is not None and warmup < 1 else round(warmup)
    if total is not None and steps > total:
        msg = f"warmup must be at most the {total} optimizer steps of all epochs, got {steps}; lower it."
        raise OptionError(msg, warmup=warmup, total=total)
    if schedule == "constant" and not steps:
        return None
    return LambdaLR(optimizer, partial(compute_factor, schedule=schedule, warmup=steps, total=total or 0))
