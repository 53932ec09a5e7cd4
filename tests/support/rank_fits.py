"""Train with `fit` on one of several ranks, and by a plain loop on the batches of all of them."""

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, distributed
from typing_extensions import override

from pipeline import Bucket, Example, FromIds, Pad, classifier
from pipeline.core.contexts import seeded
from pipeline.core.join import join
from pipeline.core.stage import Stream
from pipeline.loading import Loader, PlannedBatches, RowDataset, StreamDataset, StreamLoader
from pipeline.saving.tensors import write_tensors
from pipeline.sources import Records
from pipeline.training.adapters import ModelWithLoss
from pipeline.training.loop import Training, Watcher
from pipeline.training.optimizers import make_optimizer
from pipeline.training.split_pipe import SplitPipe
from support.killed import make_examples
from support.trainable import TRAINABLE, copy_weights
from support.untyped import as_any

CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in TRAINABLE},
    "accumulated": ("classifier", {"accumulate": 2}),
    "accumulated heads": ("heads", {"accumulate": 3}),
    "sharded": ("classifier", {"accumulate": 2, "strategy": "fsdp"}),
    "sharded windows": ("language model", {"strategy": "fsdp"}),
    "weighted": ("classifier", {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.1}),
}
"""The kind of pipe and the options of each case."""

EPOCHS = 2


def fit_on_rank() -> dict[str, dict[str, Any]]:
    """Train all cases; return their weights and their history."""
    return {case: _fit(kind, options) for case, (kind, options) in CASES.items()}


def _fit(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    pipe = TRAINABLE[kind].make().double()
    if distributed.get_rank():
        # Those of rank 0 count.
        for weight in pipe.parameters():
            weight.data.zero_()
    history = pipe.fit(TRAINABLE[kind].examples, epochs=EPOCHS, progress=False, **options)
    return {"weights": copy_weights(pipe), "history": history.to_dict()}


def train_alone(case: str, world_size: int) -> dict[str, Tensor]:
    """Return the weights of a plain loop in one process: each step is for the batches of all ranks."""
    kind, options = CASES[case]
    pipe = TRAINABLE[kind].make().double()
    # A model for each rank, with the same weights, so that each carries its own states.
    models = [ModelWithLoss(pipe) for _ in range(world_size)]
    optimizer, parameters = make_optimizer(pipe, "adamw", learning_rate=1e-3, weight_decay=0.01), [*pipe.parameters()]
    loaders = [_make_loader(pipe, TRAINABLE[kind].examples, rank, world_size) for rank in range(world_size)]
    for _ in range(EPOCHS):
        steps = list(zip(*loaders, strict=True))
        for begin in range(0, len(steps), options.get("accumulate", 1)):
            group = steps[begin : begin + options.get("accumulate", 1)]
            over = _weigh([batch for batches in group for batch in batches], "weighted" in case)
            optimizer.zero_grad()
            for batches in group:
                for model, batch in zip(models, batches, strict=True):
                    how = {"weight": CLASS_WEIGHTS, "label_smoothing": 0.1} if "weighted" in case else {}
                    torch.autograd.backward(model.predict(batch).loss(over=over, **how))
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            as_any(optimizer).step()
    return copy_weights(pipe)


def _make_loader(pipe: Any, examples: Sequence[Example[Any]], rank: int, world_size: int) -> Any:
    split = SplitPipe.of(pipe)
    stages = [stage for _, stage in split.data]
    if split.windows is not None:
        return StreamLoader(StreamDataset(examples, as_any(join(*stages)), rank=rank, world_size=world_size))
    lengths = [len(example.input) for example in examples]
    planned = PlannedBatches(lengths, as_any(split.bucket).policy, rank=rank, world_size=world_size)
    return Loader(RowDataset(examples, as_any(FromIds())), planned, as_any(stages[-1]))


def _weigh(batches: list[Any], weighted: bool) -> Any:
    if batches[0].metadata.named_targets is not None:
        return {
            name: sum(int(batch.metadata.weights[name]) for batch in batches) for name in batches[0].metadata.weights
        }
    if not weighted:
        return sum(int(batch.metadata.weight) for batch in batches)
    targets = [batch.metadata.targets for batch in batches]
    return float(sum(CLASS_WEIGHTS[each[each != -100]].sum() for each in targets))


EXAMPLES, VALID = make_examples(45, seed=1), make_examples(20, seed=2)


def make_pipe(dropout: float = 0.3) -> Any:
    """Make a classifier with dropout."""
    with seeded(3):
        model = classifier(21, 3, embedding_dim=3, hidden_size=3, dropout=dropout)
        return FromIds() >> Bucket(rows=4) >> Pad() >> model


@final
class Again(Stream[Any, Any]):
    """A stream after the batches, which rows cannot be shared through."""

    @override
    def __call__(self, values: Iterable[Any], /) -> Iterator[Any]:
        yield from values


class StopError(Exception):
    """Raised to stop a training in the middle."""


class Stop(Watcher):
    """Stops a training after a number of optimizer steps."""

    def __init__(self, optimizer_steps: int) -> None:
        self.optimizer_steps = optimizer_steps

    def after_optimizer_step(self, training: Training) -> None:
        """Raise at the optimizer step."""
        if training.optimizer_steps == self.optimizer_steps:
            raise StopError


def fit_and_resume(folder: Path, stop: int, strategy: str) -> dict[str, Any]:
    """Train without an interruption, and train with one and resume; return the weights and losses of both."""
    options: dict[str, Any] = {
        "valid": VALID, "epochs": 2, "progress": False, "ema": 0.9, "accumulate": 2, "schedule": "cosine",
        "strategy": strategy,
    }  # fmt: skip
    whole, resumed = make_pipe(), make_pipe()
    wanted = whole.fit(EXAMPLES, **options)
    # Each rank names a folder of its own, of which only that of rank 0 is used.
    own = folder / f"rank{distributed.get_rank()}"
    options |= {"checkpoints": own, "checkpoint_every": 1, "keep": 20, "resume": True, "log_csv": own / "log.csv"}
    fit_and_stop(make_pipe(), stop, options)
    torch.rand(distributed.get_rank() + 1)
    found = resumed.fit(EXAMPLES, **options)
    names = ("train_loss", "valid_loss", "learning_rate", "rows", "accuracy")
    return {
        "wanted": (copy_weights(whole), {name: wanted[name] for name in names}),
        "found": (copy_weights(resumed), {name: found[name] for name in names}),
        "resumed": found.resumed,
    }


def fit_and_stop(pipe: Any, stop: int, options: dict[str, Any]) -> None:
    """Train, and stop after a number of optimizer steps."""
    run = Training.run

    def run_and_stop(training: Training, watchers: Any = ()) -> Any:
        return run(training, [*watchers, Stop(stop)])

    setattr(Training, "run", run_and_stop)  # noqa: B010
    try:
        pipe.fit(EXAMPLES, **options)
    except StopError:
        return
    finally:
        setattr(Training, "run", run)  # noqa: B010


def draw_on_rank() -> tuple[list[float], dict[str, Tensor]]:
    """Return the random numbers that two trainings on this rank begin with, and the weights after one."""
    drawn: list[float] = []

    def make_and_draw(groups: Any) -> torch.optim.Optimizer:
        drawn.append(float(torch.rand(())))
        return torch.optim.SGD(groups, lr=0.1)

    pipes = [make_pipe(0.5), make_pipe(0.5)]
    for pipe in pipes:
        pipe.fit(EXAMPLES, epochs=1, optimizer=make_and_draw, progress=False)
    return drawn, copy_weights(pipes[0])


def describe_errors() -> dict[str, str]:
    """Return the errors of trainings that cannot work, on this rank."""
    rank = distributed.get_rank()
    return {
        "rows": _describe_error(EXAMPLES[: len(EXAMPLES) - 9 * rank], {}),
        "options": _describe_error(EXAMPLES, {"accumulate": 1 + rank}),
        "streams": _describe_error(EXAMPLES, {}, as_any(FromIds() >> Bucket(rows=4)) >> Pad() >> Again()),
    }


def _describe_error(examples: Any, options: dict[str, Any], data: Any = None) -> str:
    pipe = make_pipe() if data is None else data >> classifier(21, 3, embedding_dim=3, hidden_size=3)
    try:
        pipe.fit(examples, epochs=1, progress=False, **options)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
    return "none"


def fail_on_rank() -> str:
    """Train on rows of which one has a target that is no class; return the error."""
    return _describe_error(Records([*EXAMPLES[:20], Example([1, 2], 7), *EXAMPLES[20:]]), {})


class Die(Watcher):
    """Kills the process of rank 1."""

    def after_optimizer_step(self, training: Training) -> None:
        """Die after the second step."""
        if training.optimizer_steps == 2 and training.ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def die_on_rank() -> str:
    """Train until rank 1 is killed."""
    watch(Die())
    return _describe_error(EXAMPLES, {})


def watch(watcher: Watcher) -> None:
    """Let a watcher see all trainings of this process."""
    run = Training.run

    def run_watched(training: Training, watchers: Any = ()) -> Any:
        return run(training, [*watchers, watcher])

    setattr(Training, "run", run_watched)  # noqa: B010


def run_script() -> None:
    """Train under a launcher, which gives rank and world size, and write weights or die; see the tests."""
    folder, how = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    if how == "die":
        watch(Die())
    pipe = make_pipe(0)
    history = pipe.fit(EXAMPLES, valid=VALID, epochs=2)
    assert not distributed.is_initialized()
    rank = os.environ["RANK"]
    write_tensors(folder / rank, copy_weights(pipe))
    (folder / f"{rank}.json").write_text(json.dumps(history.to_dict()), encoding="utf-8")


if __name__ == "__main__":
    run_script()
