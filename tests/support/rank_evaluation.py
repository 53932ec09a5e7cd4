"""Evaluate on one of several ranks; the processes of the ranks import this module."""

from typing import Any

from support.trainable import TRAINABLE


def evaluate_on_rank() -> dict[str, dict[str, Any]]:
    """Return the results of evaluations whose batches the ranks share, by the kind of the pipe."""
    found: dict[str, dict[str, Any]] = {}
    for kind, trainable in TRAINABLE.items():
        evaluation = trainable.make().double().evaluate(trainable.examples, over_ranks=True)
        # The tables too: they show the counts of each class.
        found[kind] = {**evaluation.to_dict(), "table": str(evaluation)}
    return found
