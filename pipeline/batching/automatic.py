"""Choose a budget of padded steps from the lengths of the rows."""

from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.batching.lengths import Lengths
from pipeline.batching.policies import Budget
from pipeline.checks.options import check_int

FEWEST_BATCHES: Final = 100
"""The number of batches per epoch that a chosen budget leaves at least: the weights change once per batch."""

DEFAULT_STEPS: Final = 4_096
"""The largest budget that is chosen: larger batches are hardly faster on a CPU, and take more memory."""


def choose_budget(
    lengths: npt.ArrayLike, *, fewest_batches: int = FEWEST_BATCHES, max_padded_steps: int = DEFAULT_STEPS
) -> Budget:
    """Return the largest budget with which an epoch has at least a number of batches.

    A row longer than the budget is alone in its batch. With fewer rows than batches, each row is alone.

    Args:
        lengths: the number of steps of each row, or of both sides of each row.
        fewest_batches: the number of batches.
        max_padded_steps: the largest budget, whatever the number of batches.

    Raises:
        ShapeError: if the lengths are not integers of one or two per row.
        LengthError: if a length is negative.
        OptionError: if a number is below 1.

    Example:
        >>> choose_budget([20] * 1_000).max_padded_steps, choose_budget([20] * 100_000).max_padded_steps
        (200, 4096)
    """
    check_int("fewest_batches", fewest_batches, minimum=1)
    budget = check_int("max_padded_steps", max_padded_steps, minimum=1)
    # An empty row is counted as one step, so that batches of empty rows end too.
    totals = np.maximum(Lengths.of(lengths).totals(), 1)
    # A batch has at most `budget` real steps, unless it is one long row. So n batches are certain if the rows that are
    # not long have n - (number of long rows) budgets of steps. Rows that become long on the way leave fewer of both.
    while True:
        is_long = totals > budget
        batches = fewest_batches - int(is_long.sum())
        wanted = int(totals[~is_long].sum()) // max(batches, 1)
        if batches <= 0 or wanted >= budget:
            return Budget(budget, too_long="alone")
        budget = max(wanted, 1)
        if budget == 1:
            return Budget(budget, too_long="alone")
