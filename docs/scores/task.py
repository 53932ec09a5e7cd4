"""A task: how a model is trained on a public data set, and the score that it should reach."""

from collections.abc import Callable
from pathlib import Path

import attrs


@attrs.frozen
class Task:
    """One score to reach.

    Attributes:
        name: its name on the command line.
        data: the data set, and where it comes from.
        metric: the score and its unit, such as "accuracy in %" or "nats per character".
        goal: the score to reach.
        run: trains a model on the data of a folder with a seed, and returns the scores by name. The first one is to
            reach the goal; others stand beside it, such as that of a baseline.
        lower_is_better: whether a lower score is better, as for losses.
    """

    name: str
    data: str
    metric: str
    goal: float
    run: Callable[[Path, int], dict[str, float]]
    lower_is_better: bool = False

    def reaches_goal(self, score: float) -> bool:
        """Return whether a score is as good as the goal or better."""
        return score <= self.goal if self.lower_is_better else score >= self.goal
