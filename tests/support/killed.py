"""Train in another process, which is killed at random moments and started again."""

import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from pipeline import Bucket, Example, FromIds, Pad, classifier
from pipeline.saving.tensors import read_tensors, write_tensors

CLASSES: Final = 3


def make_examples(rows: int, seed: int) -> list[Example[list[int]]]:
    """Draw rows of random ids whose last one is their class."""
    draw = random.Random(seed)
    targets = [draw.randrange(CLASSES) for _ in range(rows)]
    return [Example([*(draw.randint(3, 20) for _ in range(draw.randint(0, 7))), each], target=each) for each in targets]


def train(folder: Path, started: Event | None) -> None:
    """Train with everything that has a state, resuming from the newest checkpoint; write the final weights."""
    torch.set_num_threads(1)
    torch.default_generator.manual_seed(1)
    pipe = FromIds() >> Bucket(rows=8) >> Pad() >> classifier(21, CLASSES, hidden_size=4, embedding_dim=5, dropout=0.3)
    if started is not None:
        started.set()
    history = pipe.fit(
        make_examples(60, seed=1),
        valid=make_examples(20, seed=2),
        epochs=4,
        schedule="cosine",
        warmup=0.1,
        accumulate=2,
        ema=0.9,
        label_smoothing=0.1,
        checkpoints=folder / "checkpoints",
        checkpoint_every=1,
        resume=True,
        progress=False,
    )
    weights = {name: weight.detach() for name, weight in pipe.named_parameters()}
    losses = torch.tensor([[epoch.train_loss, epoch.valid_loss or 0.0] for epoch in history], dtype=torch.float64)
    draft = folder / "draft"
    write_tensors(draft, {**weights, "losses": losses})
    draft.replace(folder / "result")


def run(folder: Path) -> tuple[dict[str, Tensor], float]:
    """Train without a kill; return the weights with the losses, and the seconds from the beginning of training."""
    process, started = _start(folder)
    started.wait(120)
    begin = time.monotonic()
    process.join()
    return read_tensors(folder / "result"), time.monotonic() - begin


def run_and_kill(folder: Path, kills: int, seconds: float, draw: random.Random) -> tuple[dict[str, Tensor], int]:
    """Train, kill the process at random moments, and start it again; return the weights and the number of kills.

    Args:
        folder: the folder of the checkpoints and the result.
        kills: the number of kills at most; fewer if training ends before.
        seconds: the longest time between the beginning of training and a kill.
        draw: draws the moments.
    """
    done = 0
    while not (folder / "result").exists():
        process, started = _start(folder)
        if done < kills:
            started.wait(120)
            process.join(draw.uniform(0, seconds))
            if process.pid is not None and process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        process.join()
        done += process.exitcode == -signal.SIGKILL
    return read_tensors(folder / "result"), done


def _start(folder: Path) -> tuple[BaseProcess, Event]:
    # From a server that has imported torch: a new interpreter takes seconds.
    context = multiprocessing.get_context("forkserver")
    started = context.Event()
    process = context.Process(target=train, args=(folder, started))
    process.start()
    return process, started
