"""A training that is killed at random moments, while it trains or writes a checkpoint, ends with the same weights.

`PIPELINE_TESTS_LONG=1` makes it 500 kills instead of 5; the session `long` sets it.
"""

import os
import random
from pathlib import Path

import torch

from support.killed import run, run_and_kill

KILLS = 500 if os.environ.get("PIPELINE_TESTS_LONG") == "1" else 5
KILLS_PER_TRAINING = 5


def test_killed_and_resumed_training_is_bitwise_equal(tmp_path: Path) -> None:
    """Weights and losses of all epochs, with dropout, accumulation, a schedule and averaged weights."""
    (tmp_path / "whole").mkdir()
    wanted, seconds = run(tmp_path / "whole")
    draw = random.Random(0)
    kills = trainings = 0
    while kills < KILLS:
        folder = tmp_path / str(trainings)
        folder.mkdir()
        found, done = run_and_kill(folder, min(KILLS_PER_TRAINING, KILLS - kills), seconds / 2, draw)
        kills, trainings = kills + done, trainings + 1
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), f"after {kills} kills"
    print(f"{kills} kills in {trainings} trainings: all {len(wanted)} tensors are bitwise equal")  # noqa: T201
