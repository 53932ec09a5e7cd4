"""`pipeline.plan`: policies side by side, before anything is trained."""

from collections.abc import Mapping, Sequence

import attrs
import numpy.typing as npt

from pipeline.batching.lengths import Lengths
from pipeline.batching.numbers import whole
from pipeline.batching.plan import Plan
from pipeline.batching.policy import LongRows, Policy
from pipeline.batching.randomness import mates_again
from pipeline.errors import OptionError, PipelineError
from pipeline.forecast.compared import compared, named
from pipeline.forecast.drawn import drawn
from pipeline.forecast.forecast import Forecast
from pipeline.forecast.histogram import Histogram
from pipeline.forecast.memory import Memory, Model, measured
from pipeline.forecast.outlook import PolicyForecast, Shape, outlook_of


def plan(
    lengths: npt.ArrayLike | Histogram | Mapping[int, int],
    policies: int | Policy | Sequence[Policy] | Mapping[str, Policy] = 4_096,
    *,
    rows: int | None = None,
    too_long: LongRows = "raise",
    world_size: int = 1,
    seed: int = 0,
    model: Model | None = None,
) -> Forecast:
    """What an epoch will be like under several policies: padding, batches, the largest one, memory, randomness.

    From lengths, exactly: each policy's plan is made, and the next epoch's. From a histogram, without looking at a row:
    where all rows are one pool, exactly too, but for randomness; where they are several, of pools drawn as the plan
    draws them. For a hundred million rows, take `Histogram.of(lengths)`: it is read once, and forecasts take seconds.

    Args:
        lengths: how many steps each row has, of shape (rows,), or of its source and target, of shape (rows, 2); or a
            histogram, or a mapping from lengths to numbers of rows.
        policies: the policies to compare; as a mapping, with names of your own. A number is a budget of padded steps,
            which every kind of policy then keeps to: those of `pipeline.forecast.compared`.
        rows: how many rows a batch may have, where a budget is given; None for as many as it allows.
        too_long: what becomes of rows over the budget, where one is given.
        world_size: how many ranks there are.
        seed: what the plans start from.
        model: what is to be trained, if the peak memory of its largest batch is wanted. It takes padded batches, stands
            on its device, and is left as it was.

    Raises:
        OptionError: for an option out of its range.
        LengthError: if no policy has room for a row; if some have none, they say so in the table.
        ShapeError: for what are no lengths.

    Example:
        >>> forecast = plan([3, 5, 5, 9, 12, 40], 80)
        >>> [outlook.batches for outlook in forecast.outlooks.values()]
        [3, 2, 2, 5, 2]
        >>> forecast["Budget(80)"].report.wasted < forecast["Rows(2)"].report.wasted
        False
    """
    whole("world_size", world_size, least=1)
    whole("seed", seed, least=0)
    checked, histogram = _counted(lengths)
    if isinstance(policies, int):
        max_padded_steps = whole("max_padded_steps", policies, least=1)
        chosen = named(compared(histogram, max_padded_steps, rows=rows, too_long=too_long))
    else:
        if rows is not None or too_long != "raise":
            msg = "rows and too_long belong to a budget, but policies arrived; say them in each policy."
            raise OptionError(msg, rows=rows, too_long=too_long)
        chosen = named(policies)
    if not chosen:
        raise OptionError("policies must be one or more, but none arrived; a number is a budget for every kind.")
    outlooks: dict[str, PolicyForecast] = {}
    for name, policy in chosen.items():
        try:
            if checked is None:
                outlooks[name] = _rough(histogram, policy, world_size, seed)
            else:
                outlooks[name] = _exact(checked, policy, world_size, seed)
        except PipelineError as error:
            outlooks[name] = PolicyForecast(policy, world_size=world_size, problem=error)
    problems = [outlook.problem for outlook in outlooks.values() if outlook.problem is not None]
    if len(problems) == len(outlooks):
        raise problems[0]
    if model is not None:
        outlooks = _with_memory(outlooks, model)
    return Forecast(histogram, outlooks, world_size)


def _counted(lengths: npt.ArrayLike | Histogram | Mapping[int, int]) -> tuple[Lengths | None, Histogram]:
    """The lengths, if there are some row by row, and how many rows have which."""
    if isinstance(lengths, Histogram):
        return None, lengths
    if isinstance(lengths, Mapping):
        return None, Histogram.from_counts(lengths)
    checked = Lengths.of(lengths)
    return checked, Histogram.of_checked(checked)


def _exact(lengths: Lengths, policy: Policy, world_size: int, seed: int) -> PolicyForecast:
    """By the plans of two epochs."""
    first, second = (Plan.of(lengths.values, policy, seed=seed, epoch=epoch, world_size=world_size) for epoch in (0, 1))
    return attrs.evolve(outlook_of(policy, first, world_size), mates=mates_again(first, second))


def _rough(histogram: Histogram, policy: Policy, world_size: int, seed: int) -> PolicyForecast:
    """By batches that are drawn."""
    found = drawn(histogram, policy, world_size, seed)
    # Some pools alone are not divided among ranks, nor is what does not go round.
    ranks = world_size if found.whole and len(found.batches) % world_size == 0 else 1
    outlook = outlook_of(policy, found.plan(ranks, seed), world_size, of=None if found.whole else found.rows)
    return attrs.evolve(outlook, mates=found.mates, exact=False)


def _with_memory(outlooks: Mapping[str, PolicyForecast], model: Model) -> dict[str, PolicyForecast]:
    """The same with the memory of each one's most demanding batch, every shape measured once."""
    known: dict[Shape, Memory] = {}
    found: dict[str, PolicyForecast] = {}
    for name, outlook in outlooks.items():
        for shape in outlook.extremes:
            if shape not in known:
                known[shape] = _measured(model, shape)
        most = max((known[shape] for shape in outlook.extremes), key=_demand, default=None)
        found[name] = attrs.evolve(outlook, memory=most)
    return found


def _measured(model: Model, shape: Shape) -> Memory:
    if len(shape) != 2:
        msg = "model takes rows of one length, but two lengths a row arrived; leave the model out, or give their sums."
        raise OptionError(msg)
    rows, steps = shape
    return measured(model, rows, steps)


def _demand(memory: Memory) -> float:
    return float("inf") if memory.peak is None else memory.peak
