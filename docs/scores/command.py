"""Train on a public data set with several seeds, and print the scores: `python docs/scores NAME FOLDER`."""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from scores import characters, names, tagging, vowels, words
from scores.task import Task

_ALL: Final[Sequence[Task]] = (characters.TASK, names.TASK, tagging.TASK, vowels.TASK, words.TASK)
TASKS: Final[Mapping[str, Task]] = {task.name: task for task in _ALL}


def main(arguments: Sequence[str]) -> int:
    """Run one task with each seed; return 0 if the mean score reaches the goal, 1 if not."""
    parser = argparse.ArgumentParser(prog="python docs/scores", description=__doc__)
    parser.add_argument("name", choices=sorted(TASKS), help="the task")
    parser.add_argument("folder", type=Path, help="the folder of the data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="the seeds to train with")
    options = parser.parse_args(arguments)
    task = TASKS[options.name]
    sys.stdout.write(f"{task.data}: {task.metric}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    found: list[dict[str, float]] = []
    for seed in options.seeds:
        start = time.perf_counter()
        found.append(task.run(options.folder, seed))
        seconds = time.perf_counter() - start
        scores = ", ".join(f"{name} {score:.2f}" for name, score in found[-1].items())
        sys.stdout.write(f"seed {seed}: {scores}; {seconds:.0f} s\n")
        sys.stdout.flush()
    for name in found[0]:
        values = [scores[name] for scores in found]
        spread = f", from {min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
        sys.stdout.write(f"{name}: mean {statistics.mean(values):.2f}{spread}\n")
    mean = statistics.mean([next(iter(scores.values())) for scores in found])
    reached = task.reaches_goal(mean)
    sys.stdout.write(f"goal {task.goal:.2f}: {'reached' if reached else 'missed'}\n")
    return 0 if reached else 1
