"""Train a pipe in one call: options, seeds, progress, checkpoints and logs around the training loop."""

import copy
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch

from pipeline.core.contexts import preserve_random_state, temporary_mode
from pipeline.core.stream_chain import StreamChain
from pipeline.errors import OptionError
from pipeline.training.checkpoints import Checkpoints, Fingerprint, describe_bucket
from pipeline.training.distributed import Ranks, join_ranks
from pipeline.training.history import History
from pipeline.training.logs import CsvLog, TensorBoardLog
from pipeline.training.loop import Training, Watcher
from pipeline.training.options import FitOptions, Settings
from pipeline.training.progress import make_reporter
from pipeline.training.state import seed_generators
from pipeline.training.validation import check_validation


def fit(
    pipe: StreamChain[Any, Any],
    train: Iterable[object],
    *,
    valid: Iterable[object] | None = None,
    epochs: int = 10,
    options: FitOptions,
) -> History:
    """Train a pipe; see `StreamChain.fit`."""
    settings = Settings.of(epochs, cast("Mapping[str, object]", options), others=("valid", "epochs"))
    for name, examples in (("train", train), ("valid", valid)):
        if isinstance(examples, str | PathLike):
            got = repr(str(examples))
            msg = f"{name} must be examples, got {got}; read a file with a source: Csv(file, text=..., target=...)."
            raise OptionError(msg)
        if isinstance(examples, Iterator):
            msg = f"{name} must be data that can be read in each epoch, got an iterator; pass a list or a source."
            raise OptionError(msg)
    with join_ranks(settings.device) as ranks:
        device = ranks.device or settings.device
        if device is not None:
            pipe.to(device)
        return _fit_on_rank(pipe, train, valid, settings, ranks)


def _fit_on_rank(
    pipe: StreamChain[Any, Any],
    train: Iterable[object],
    valid: Iterable[object] | None,
    settings: Settings,
    ranks: Ranks,
) -> History:
    with preserve_random_state(), temporary_mode(pipe, training=True), torch.enable_grad():
        # Before the seeds, so that nothing random depends on it.
        if valid is not None:
            check_validation(pipe, train, valid)
        # Each rank has its own dropout.
        seed_generators((settings.seed or 0) + ranks.rank)
        shown = settings.progress if ranks.is_first else False
        with make_reporter(shown) as reporter, _open_logs(settings, ranks) as logs:
            # Sharded weights are those of a copy: the pipe has whole weights to validate and predict with.
            is_sharded = settings.strategy == "fsdp" and ranks.world_size > 1
            trained = copy.deepcopy(pipe) if is_sharded else pipe
            training = Training(trained, train, valid, settings, reporter, ranks, whole=pipe)
            watchers: list[Watcher] = [*logs]
            if settings.checkpoints is not None:
                options = {**settings.fingerprint(), **describe_bucket(pipe, settings.seed)}
                fingerprint = Fingerprint.of(options, pipe, train, valid)
                checkpoints = Checkpoints(
                    Path(settings.checkpoints), fingerprint, keep=settings.keep, every=settings.checkpoint_every
                )
                checkpoints.resume(training, settings.resume)
                if training.history.resumed is not None:
                    done = f"{len(training.history)} of {settings.epochs} epochs"
                    reporter.note(f"continues after {training.history.resumed:,} optimizer steps ({done}).")
                watchers.append(checkpoints)
            return training.run(watchers)


@contextmanager
def _open_logs(settings: Settings, ranks: Ranks) -> Generator[list[Watcher]]:
    if not ranks.is_first:
        yield []
        return
    logs: list[Watcher] = [] if settings.log_csv is None else [CsvLog(settings.log_csv)]
    if settings.log_tensorboard is None:
        yield logs
        return
    board = TensorBoardLog(settings.log_tensorboard)
    try:
        yield [*logs, board]
    finally:
        board.close()
