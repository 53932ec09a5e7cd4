"""The training loop: forward and backward passes, optimizer steps, validation, the best weights, and its state."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, Final, cast, final

import attrs
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipeline.core.contexts import temporary_mode
from pipeline.core.running import run_stages
from pipeline.core.stream_chain import StreamChain
from pipeline.data.batches import Batch
from pipeline.data.kinds import Kind
from pipeline.data.metadata import BatchMetadata
from pipeline.data.report import Report
from pipeline.data.scores import Predictions
from pipeline.data.tensors import to_ints
from pipeline.errors import OptionError, TrainingError
from pipeline.loading.records import describe_records
from pipeline.parts.added_loss import add_terms, collect_added_losses, compute_share
from pipeline.stages.several_heads import Heads
from pipeline.training.advice import advise_precision, advise_threads, warn_of_missing_gradients
from pipeline.training.averaging import WeightAverage
from pipeline.training.batches import count_batches, make_training_data
from pipeline.training.carry import CarriedStates, find_carrying_stage
from pipeline.training.distributed import Ranks, delay_synchronization
from pipeline.training.evaluate import predict_with_targets
from pipeline.training.history import Epoch, History
from pipeline.training.losses import Loss, MeanLoss, add_weights, find_class_weights, reject_class_options
from pipeline.training.memory_limit import limit_by_memory
from pipeline.training.metrics import LOSS, choose_metrics
from pipeline.training.model import Model
from pipeline.training.optimizers import make_optimizer
from pipeline.training.options import Settings
from pipeline.training.progress import Reporter
from pipeline.training.schedules import make_schedule
from pipeline.training.sharding import copy_whole_weights, gather_shards, shard_like, shard_optimizer_state
from pipeline.training.split_pipe import SplitPipe
from pipeline.training.state import get_random_state, get_tensors, load_tensors, seed_generators, set_random_state

_OF_RANK: Final = ("carry", "data", "epoch", "random")
"""What differs from rank to rank in the state of a training."""

_SEED_STRIDE: Final = 1_000_003
"""Above any number of ranks, so that seeds of two optimizer steps do not meet."""

_LAG: Final = 32
"""On a GPU, the number of batches after which losses are read: reading one waits for all work before it."""


class Watcher:
    """Is called during a training, for example to write checkpoints and logs. Its methods do nothing by default."""

    def after_optimizer_step(self, training: "Training") -> None:
        """See the training after an optimizer step."""

    def after_epoch(self, training: "Training") -> None:
        """See the training after an epoch, with its validation."""


_ALONE: Final = Ranks()


@final
class Training:
    """A training with all its state.

    Args:
        pipe: the pipe.
        train: the examples to train on.
        valid: the examples to validate with; None for no validation.
        settings: the options of `fit`.
        reporter: shows the progress.
        ranks: this process among those that train together.
        whole: the pipe to validate with and to keep the weights, if those of the other one are sharded.
    """

    def __init__(
        self,
        pipe: StreamChain[Any, Any],
        train: Iterable[object],
        valid: Iterable[object] | None,
        settings: Settings,
        reporter: Reporter,
        ranks: Ranks = _ALONE,
        whole: StreamChain[Any, Any] | None = None,
    ) -> None:
        self.pipe: Final = pipe
        self._whole: Final = pipe if whole is None else whole
        self.ranks: Final = ranks
        self.settings: Final = settings
        self._train: Final = train
        self._valid: Final = valid
        self._reporter: Final = reporter
        split = SplitPipe.of(pipe)
        self.carried: Final = _make_carried(split)
        self._target_makers, rest = split.split_model()
        self._model: Final = Model(rest, self.carried)
        # Before anything copies the weights: all ranks get those of rank 0 here.
        self._wrapped: Final = ranks.wrap(self._model, settings.strategy)
        self._weights: Final = [weight for weight in pipe.parameters() if weight.requires_grad]
        self._device: Final = next((weight.device for weight in pipe.parameters()), torch.device("cpu"))
        self._data: Final = make_training_data(
            split,
            train,
            seed=settings.seed,
            num_workers=settings.num_workers,
            # All ranks need the same budget, also on machines with unequal memory.
            max_padded_steps=min(ranks.gather(limit_by_memory(split.model))),
            pin_memory=self._device.type == "cuda",
        )
        self._has_windows: Final = split.windows is not None
        self.batches = self._data.batches
        # The state of a planned loader describes its lengths, policy and seed.
        facts = {**settings.fingerprint(), "plan": str(self._data.epochs.state_dict())}
        ranks.check_equal({**facts, "number of batches": str(self.batches)})
        if self.batches is None and (settings.schedule != "constant" or 0 < settings.warmup < 1):
            self.batches = count_batches(split, train)
        head = split.model[-1][1]
        heads: Mapping[str, float] = head.weights if isinstance(head, Heads) else {}
        reject_class_options(settings.class_weights, settings.label_smoothing, split.model[-1][1])
        class_weights = find_class_weights(settings.class_weights, split.model[-1][1], train)
        self._loss: Final = Loss(class_weights, settings.label_smoothing, settings.loss, [*heads])
        self._head_weights: Final = heads
        self._metrics: Final = choose_metrics(pipe, settings.metrics)
        self._optimizer: Final = make_optimizer(
            pipe, settings.optimizer, learning_rate=settings.rate, weight_decay=settings.weight_decay
        )
        total = None if self.batches is None else settings.epochs * -(-self.batches // settings.accumulate)
        self._schedule: Final = make_schedule(self._optimizer, settings.schedule, warmup=settings.warmup, total=total)
        self.average: Final = None if settings.ema is None else WeightAverage(pipe, settings.ema)
        self.optimizer_steps: int = 0
        self.best: dict[str, Tensor] | None = None
        advice = [advise_threads(), advise_precision(self._device, settings.precision)]
        if split.windows is not None and self.carried is None:
            advice.append("BPTTWindows: no encoder carries states, so each window starts from an empty one.")
        notes = [*self._data.notes, *filter(None, advice)]
        for note in notes:
            reporter.note(note)
        if valid is None:
            # An unknown name is rejected as one, not for the lack of validation.
            self._metrics.choose_monitor(settings.monitor)
            settings.reject_without_validation()
        # Without validation, there are no metrics.
        monitor = self._metrics.choose_monitor(LOSS if valid is None else settings.monitor)
        self.history: History = History([], monitor=monitor, notes=notes)
        self._start_epoch()

    def run(self, watchers: Sequence[Watcher] = ()) -> History:
        """Train until the last epoch, or until no epoch is better for a while; return the history."""
        self._optimizer.zero_grad(set_to_none=True)
        while self._data.epochs.epoch < self.settings.epochs and not self.history.stopped_early:
            self._run_epoch(watchers)
            self._start_epoch()
            for watcher in watchers:
                watcher.after_epoch(self)
        if self.best is not None:
            load_tensors(self.pipe, self.best)
        elif self.average is not None:
            self.average.exchange()
        # Also if a training was resumed that had reached its end.
        self._gather_weights()
        self._whole.history = self.history
        return self.history

    def get_state(self) -> dict[str, Any]:
        """Return all that the rest of the training follows from: numbers, texts, tensors, and containers of them."""
        self._read_losses()
        schedule, average = self._schedule, self.average
        state: dict[str, Any] = {
            "optimizer_steps": self.optimizer_steps,
            "weights": get_tensors(self.pipe),
            "best": self.best,
            "optimizer": self._optimizer.state_dict(),
            "schedule": None if schedule is None else schedule.state_dict(),
            "average": None if average is None else {"updates": average.updates, "averages": list(average.averages)},
            "carry": None if self.carried is None else self.carried.carry,
            "data": self._data.epochs.state_dict(),
            "history": self.history.to_dict(),
            "epoch": {"mean": self._mean.state_dict(), "done": attrs.asdict(self._done), "seconds": self._seconds},
            "random": get_random_state(),
        }
        state = gather_shards(state)
        # Of a single rank, they are in its state itself.
        own = {name: state[name] for name in _OF_RANK}
        return state if self.ranks.world_size == 1 else {**state, "ranks": self.ranks.gather(own)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state, with the same pipe, data and options.

        On another number of ranks, the rows that remain are shared again, and the seeds follow from the step.
        """
        saved_ranks: Sequence[Mapping[str, Any]] = state.get("ranks") or [{name: state[name] for name in _OF_RANK}]
        is_same = len(saved_ranks) == self.ranks.world_size
        own = saved_ranks[self.ranks.rank if is_same else 0]
        load_tensors(self.pipe, state["weights"])
        self.optimizer_steps = state["optimizer_steps"]
        self.best = state["best"]
        self._optimizer.load_state_dict(state["optimizer"])
        shard_optimizer_state(self._optimizer)
        if self._schedule is not None:
            self._schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.updates = state["average"]["updates"]
            for average, saved in zip(self.average.averages, state["average"]["averages"], strict=True):
                average.copy_(shard_like(saved, average))
        if self.carried is not None and own["carry"] is not None:
            self.carried.carry = tuple(each.to(self._device) for each in own["carry"])
        self._data.epochs.load_state_dict(own["data"])
        saved = History.from_dict(state["history"])
        self.history = attrs.evolve(saved, notes=self.history.notes, resumed=self.optimizer_steps)
        # What other ranks had done belongs to the epoch as well: to one rank, since the sums are added at its end.
        counted = [own] if is_same else saved_ranks if self.ranks.is_first else []
        self._seconds = own["epoch"]["seconds"]
        for each in counted:
            self._mean.merge(each["epoch"]["mean"])
            self._done += Report(**each["epoch"]["done"])
        if is_same:
            set_random_state(own["random"])
        else:
            seed_generators((self.settings.seed or 0) + self.ranks.rank + _SEED_STRIDE * self.optimizer_steps)

    def _start_epoch(self) -> None:
        self._mean = MeanLoss(self._head_weights)
        self._done = Report()
        self._seconds = 0.0
        # The losses that were not read yet, each with its divisors, weights, and batch.
        self._unread: list[tuple[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor], Batch[Kind]]] = []
        if self.carried is not None:
            self.carried.carry = None

    def _run_epoch(self, watchers: Sequence[Watcher]) -> None:
        data, number = self._data.epochs, self._data.epochs.epoch + 1
        self._reporter.start_epoch(number, self.settings.epochs, self.batches)
        before, start = self._done, time.perf_counter() - self._seconds
        batches = iter(data)
        while group := list(islice(batches, self.settings.accumulate)):
            loss = self._train_on(group)
            self._done, self._seconds = before + data.report, time.perf_counter() - start
            self._reporter.advance(self._done, loss, self._seconds)
            for watcher in watchers:
                watcher.after_optimizer_step(self)
        self._read_losses()
        self._merge_ranks()
        if not self._done.batches:
            msg = "train must have at least one row, got none; check the file and its filters."
            raise OptionError(msg)
        # After the ranks have been added up: all of them raise the error.
        if not self._mean.has_targets():
            msg = (
                f"train must have at least one target in a row with steps, got none in {self._done.rows:,} rows; pass "
                "Example(input, target=...), and check that the inputs are not empty."
            )
            raise TrainingError(msg, rows=self._done.rows)
        trained = self._seconds
        with self.average.applied() if self.average is not None else nullcontext():
            valid_loss, metrics = self._validate()
            own = Epoch(
                number=number,
                batches=self._done.batches,
                optimizer_steps=self.optimizer_steps,
                rows=self._done.rows,
                train_loss=self._mean.compute(),
                valid_loss=valid_loss,
                metrics=metrics,
                learning_rate=float(self._optimizer.param_groups[0]["lr"]),
                rows_per_second=self._done.rows / max(trained, 1e-9),
                padded=self._done.wasted,
                seconds=time.perf_counter() - start,
            )
            # One record for all, so that all keep the same epoch and stop after the same one.
            self._finish_epoch(self.ranks.share_from_first(lambda: own))

    def _gather_weights(self) -> None:
        """Put sharded weights together in the pipe that was given."""
        if self._whole is not self.pipe:
            copy_whole_weights(self.pipe, self._whole)

    def _merge_ranks(self) -> None:
        """Add up what all ranks have done in this epoch."""
        first, *others = self.ranks.gather((self._mean.state_dict(), attrs.asdict(self._done)))
        if others:
            self._mean, self._done = MeanLoss(self._head_weights), Report()
            for mean, done in (first, *others):
                self._mean.merge(mean)
                self._done += Report(**done)

    def _train_on(self, group: Sequence[Batch[Kind]]) -> float:
        """Make one optimizer step for a group of batches; return the loss of the last one that was read."""
        group = [self._make_targets(batch) for batch in group]
        weights = [self._loss.weigh(batch.metadata) for batch in group]
        # The gradient of the mean over all targets of the group. A batch by itself is divided by its own weight.
        is_own = len(group) == 1 and self.ranks.world_size == 1
        divisor = weights[0] if is_own else self.ranks.average_weights(add_weights(weights), self._device)
        over = None if is_own else self._loss.to_over(divisor)
        for number, (batch, weight) in enumerate(zip(group, weights, strict=True), start=1):
            synchronized = delay_synchronization(self._wrapped, until_last=number == len(group))
            with synchronized, self._make_autocast(), collect_added_losses() as terms:
                scores = self._wrapped(batch if self.carried is None else self.carried.start(batch))
                loss, losses = self._loss.compute(scores, over)
            self._unread.append(({name: each.detach() for name, each in losses.items()}, divisor, weight, batch))
            if self._device.type == "cpu" or len(self._unread) >= _LAG:
                self._read_losses()
            torch.autograd.backward([add_terms(loss, terms, 1.0 if is_own else compute_share(weight, divisor))])
        if not self.optimizer_steps:
            warn_of_missing_gradients(self.pipe)
        if self.settings.max_grad_norm is not None:
            self._clip_gradients(self.settings.max_grad_norm, group[-1])
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._schedule is not None and not isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step()
        if self.average is not None:
            self.average.update()
        self.optimizer_steps += 1
        return self._last_loss

    def _make_targets(self, batch: Batch[Kind]) -> Batch[Kind]:
        """Return the batch after the stages that make its targets, such as tokens that were masked at random."""
        if not self._target_makers:
            return batch
        found: Batch[Kind] = run_stages(self._target_makers, batch, self._device)
        return found

    def _clip_gradients(self, max_norm: float, batch: Batch[Kind]) -> None:
        """Clip as `nn.utils.clip_grad_norm_` does, and reject gradients that are not finite."""
        gradients = [_get_values(weight) for weight in self._weights if weight.grad is not None]
        total = nn.utils.get_total_norm(gradients)
        # On a GPU, reading the norm would wait for it.
        if self._device.type == "cpu":
            norm = gather_shards(total)
            if not math.isfinite(norm):
                raise self._make_error("gradients", float(norm), batch)
            # The same formula as torch's, whose factor is 1 then: multiplying by it would read and write all gradients.
            if bool(max_norm / (norm + 1e-6) >= 1):
                return
        nn.utils.clip_grads_with_norm_(self._weights, max_norm, total)

    _last_loss: float = math.nan

    def _read_losses(self) -> None:
        """Add the losses of the last batches to the mean, and reject those that are not finite."""
        for losses, divisors, weights, batch in self._unread:
            sums = {name: float(loss) * float(divisors[name]) for name, loss in losses.items()}
            self._last_loss = sum(self._head_weights.get(name, 1.0) * float(loss) for name, loss in losses.items())
            if not all(map(math.isfinite, sums.values())):
                raise self._make_error("loss", self._last_loss, batch)
            self._mean.add(sums, {name: float(weight) for name, weight in weights.items()})
        self._unread.clear()

    def _make_error(self, what: str, value: float, batch: Batch[Kind]) -> TrainingError:
        rows = [row for row in to_ints(batch.metadata.row_ids) if row >= 0]
        number, epoch = self._done.batches, self._data.epochs.epoch
        msg = (
            f"the {what} of batch {number} in epoch {epoch + 1} must be finite, got {value}; the batch holds "
            f"{describe_records(self._train, rows)}. Lower the learning rate, or check the values of these rows."
        )
        return TrainingError(msg, value=value, batch=number, epoch=epoch + 1, rows=rows)

    def _make_autocast(self) -> AbstractContextManager[object]:
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def _validate(self) -> tuple[float | None, dict[str, float]]:
        if self._valid is None:
            return None, {}
        mean, metrics = MeanLoss(self._head_weights), self._metrics.empty()
        self._gather_weights()
        modes = temporary_mode(self.pipe, training=False), temporary_mode(self._whole, training=False)
        with modes[0], modes[1], torch.no_grad(), self._make_autocast():
            for scores in self._predict(self._valid):
                _, losses = self._loss.compute(scores, plain=True)
                metadata = cast("BatchMetadata", getattr(scores, "metadata"))  # noqa: B009 - of any predictions
                found = self._loss.weigh(metadata, plain=True)
                weights = {name: float(weight) for name, weight in found.items()}
                mean.add({name: float(loss) * weights[name] for name, loss in losses.items()}, weights)
                metrics.update(scores)
        # Windows are not shared, since each continues the one before: every rank has them all.
        if not self._has_windows:
            states = self.ranks.gather(mean.state_dict())
            mean = MeanLoss(self._head_weights)
            for state in states:
                mean.merge(state)
            metrics = metrics.merge_over_ranks() if self.ranks.world_size > 1 else metrics
        if not mean.has_targets():
            msg = "valid must have at least one target in a row with steps, got none; pass Example(input, target=...)."
            raise TrainingError(msg)
        return mean.compute(), metrics.compute()

    def _predict(self, examples: Iterable[object]) -> Iterator[Predictions[object, object]]:
        """Yield the predictions for examples, or for this rank's share of them."""
        is_shared = self.ranks.world_size > 1 and not self._has_windows
        share = (self.ranks.rank, self.ranks.world_size) if is_shared else (0, 1)
        for _, _, scores in predict_with_targets(self._whole, examples, share):
            yield scores

    def _finish_epoch(self, epoch: Epoch) -> None:
        """Add the epoch to the history, and keep its weights if it is the best one."""
        history = attrs.evolve(self.history, epochs=[*self.history.epochs, epoch])
        if self._valid is not None and history.best is epoch:
            self.best = {name: tensor.clone() for name, tensor in get_tensors(self.pipe).items()}
        if isinstance(self._schedule, ReduceLROnPlateau):
            step_by_value: Callable[[float], object] = getattr(self._schedule, "step")  # noqa: B009 - as above
            step_by_value(history.get_monitored(epoch))
        patience = self.settings.patience
        stops = patience is not None and history.count_since_best() >= patience
        self.history = self._whole.history = attrs.evolve(history, stopped_early=stops)
        self._reporter.end_epoch(epoch, self.settings.epochs)


def _get_values(weight: Tensor) -> Tensor:
    """Return the gradient of a weight; of a sparse one, the numbers in it, each row added up."""
    assert weight.grad is not None
    if not weight.grad.is_sparse:
        return weight.grad
    weight.grad = weight.grad.coalesce()
    return weight.grad.values()


def _make_carried(split: SplitPipe) -> CarriedStates | None:
    """Return the carrier of states from window to window; None without windows."""
    if split.windows is None:
        return None
    number = find_carrying_stage(split.model)
    return None if number is None else CarriedStates(number)
