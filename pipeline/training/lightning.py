"""Train a pipe with Lightning: `LightningPipe` is the module, and `PipeData` the data. Needs the extra `lightning`."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Never, TypeVar, cast, final

import attrs
import torch
from torch import Tensor, distributed
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from typing_extensions import Unpack, override

from pipeline.core.join import join
from pipeline.core.stage import Stream
from pipeline.core.stream_chain import StreamChain
from pipeline.data.batches import Batch
from pipeline.data.iteration import iterate
from pipeline.data.kinds import Kind
from pipeline.data.metadata import IGNORED, TargetTensor
from pipeline.data.scores import Predictions
from pipeline.extras import find_base
from pipeline.loading.ranks import get_rank_and_world_size
from pipeline.training.adapters import LossOptions, ModelWithLoss, make_loader
from pipeline.training.batches import AnyBatch, Epochs, count_batches
from pipeline.training.losses import MeanLoss
from pipeline.training.metrics import MetricsOption, choose_metrics, gather_over_ranks
from pipeline.training.optimizers import make_optimizer
from pipeline.training.options import MakeOptimizer, MakeSchedule, OptimizerName, ScheduleName, Settings
from pipeline.training.schedules import make_schedule
from pipeline.training.split_pipe import SplitPipe

# Type checkers see Lightning's classes. Without the package, creating an object raises an error that names the extra.
if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule
else:
    LightningModule = find_base("lightning", "LightningModule", extra="lightning", why="LightningPipe")
    LightningDataModule = find_base("lightning", "LightningDataModule", extra="lightning", why="PipeData")

__all__ = ["LightningOptions", "LightningPipe", "PipeData"]

A = TypeVar("A")


class LightningOptions(LossOptions, total=False):
    """The options of `LightningPipe`: those of `fit` that are not a `Trainer`'s.

    Attributes:
        learning_rate: as in `fit`.
        optimizer: as in `fit`.
        weight_decay: as in `fit`.
        schedule: as in `fit`.
        warmup: as in `fit`.
        metrics: as in `fit`.
        monitor: what a `ReduceLROnPlateau` gets after each epoch; `valid_loss` by default.
    """

    learning_rate: float | None
    optimizer: OptimizerName | MakeOptimizer
    weight_decay: float
    schedule: ScheduleName | MakeSchedule
    warmup: float
    metrics: MetricsOption | None
    monitor: str


@final
class LightningPipe(LightningModule):
    """A pipe as a LightningModule: the loss, the optimizer and the schedule of `fit`, and its metrics.

    It logs `train_loss`, and in validation `valid_loss` and each metric, such as `valid_accuracy`; in a test the same
    with `test_`. They are those of all ranks together. Everything else is the trainer's: `fit` clips gradients by
    default, so `Trainer(gradient_clip_val=1.0)` does the same. The pipe has the trained weights afterwards, those of
    the last epoch; `predict_step` returns pairs of row id and prediction.

    With accumulated batches, Lightning takes the mean of their losses, and `fit` the mean over their targets.

    Args:
        pipe: the pipe, which is trained in place.
        options: see `LightningOptions`.

    Raises:
        MissingExtraError: if Lightning is not installed.
        OptionError: for an option outside its range.

    Example:
        A whole training:

            from lightning import Trainer

            module = LightningPipe(pipe, learning_rate=2e-3)
            Trainer(max_epochs=3, gradient_clip_val=1.0).fit(module, PipeData(pipe, train, valid))
            pipe.save("sentiment/")
    """

    def __init__(
        self, pipe: StreamChain[Never, Predictions[object, object]], **options: Unpack[LightningOptions]
    ) -> None:
        super().__init__()
        monitor = options.pop("monitor", "valid_loss")
        # The number of epochs is the trainer's; everything else is checked as by `fit`.
        settings: Final = Settings.of(1, cast("Mapping[str, object]", options))
        self.model: Final = ModelWithLoss(
            pipe,
            class_weights=cast("Tensor | None", settings.class_weights),
            label_smoothing=settings.label_smoothing,
            loss=settings.loss,
        )
        self._settings: Final = settings
        self._monitor: Final = monitor
        self._metrics: Final = choose_metrics(pipe, settings.metrics)
        self._start_evaluation()

    @override
    def forward(self, batch: Batch[Kind]) -> Any:
        """Return the predictions of a batch."""
        return self.model.predict(batch)

    @override
    def training_step(self, batch: Batch[Kind], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss: Tensor = self.model(batch)["loss"]
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=batch.metadata.rows)
        return loss

    @override
    def validation_step(self, batch: Batch[Kind], batch_idx: int) -> None:
        """Add a batch to the loss and the metrics."""
        scores = self.model.predict(batch)
        _, losses = self.model.loss.compute(scores, plain=True)
        weights = {name: float(each) for name, each in self.model.loss.weigh(scores.metadata, plain=True).items()}
        self._mean.add({name: float(loss) * weights[name] for name, loss in losses.items()}, weights)
        self._found.update(cast("Predictions[object, object]", scores))

    @override
    def test_step(self, batch: Batch[Kind], batch_idx: int) -> None:
        """Add a batch to the loss and the metrics."""
        self.validation_step(batch, batch_idx)

    @override
    def predict_step(self, batch: Batch[Kind], batch_idx: int) -> list[tuple[int, object]]:
        """Return the row id and the prediction of each row."""
        return list(self.model.predict(batch).rows())

    @override
    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()

    @override
    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("valid_")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test_")

    def _start_evaluation(self) -> None:
        self._mean = MeanLoss({})
        self._found = self._metrics.empty()

    def _log_evaluation(self, prefix: str) -> None:
        """Log the loss and the metrics of the batches of all ranks."""
        total: dict[str, tuple[float, float]] = {}
        for state in gather_over_ranks(self._mean.state_dict()):
            for name, (loss, weight) in state.items():
                before = total.get(name, (0.0, 0.0))
                total[name] = before[0] + loss, before[1] + weight
        mean = MeanLoss(self.model.head_weights)
        mean.load_state_dict(total)
        found = {"loss": mean.compute(), **self._found.merge_over_ranks().compute()}
        for name, value in found.items():
            # The same number on all ranks: Lightning asks for `sync_dist` nevertheless.
            self.log(f"{prefix}{name}", value, prog_bar=name == "loss", sync_dist=distributed.is_initialized())

    @override
    def configure_optimizers(self) -> Any:
        """Return the optimizer of `fit`, with its schedule per optimizer step."""
        settings = self._settings
        optimizer = make_optimizer(
            self.model, settings.optimizer, learning_rate=settings.rate, weight_decay=settings.weight_decay
        )
        total = None
        if settings.schedule != "constant" or 0 < settings.warmup < 1:
            total = self._count_optimizer_steps()
        schedule = make_schedule(optimizer, settings.schedule, warmup=settings.warmup, total=total)
        return optimizer if schedule is None else _configure(optimizer, schedule, self._monitor)

    def _count_optimizer_steps(self) -> int | None:
        """Return the number of optimizer steps of all epochs; None if it is not known."""
        trainer = self.trainer
        total = trainer.estimated_stepping_batches
        if math.isfinite(total) and total > 0:
            return int(total)
        # Of batches without a number, Lightning knows nothing; these can be counted.
        data: object = getattr(trainer, "datamodule", None)
        batches = data.count_batches() if isinstance(data, PipeData) else None
        if batches is None or (trainer.max_epochs or -1) < 0:
            return None
        per_step = trainer.accumulate_grad_batches * trainer.world_size
        return -(-batches // per_step) * (trainer.max_epochs or 0)


def _configure(optimizer: Optimizer, schedule: LRScheduler, monitor: str) -> dict[str, Any]:
    waits = isinstance(schedule, ReduceLROnPlateau)
    config = {"scheduler": schedule, "interval": "epoch" if waits else "step", "monitor": monitor}
    return {"optimizer": optimizer, "lr_scheduler": config}


@final
class PipeData(LightningDataModule):
    """The batches of a pipe as a LightningDataModule: those of `fit`, in the same order.

    Batches are planned for the ranks: each has the same number of training batches, and its own share of validation.
    Lightning does not split them again. Checkpoints hold the state of training within an epoch.

    Args:
        pipe: the pipe, of which the data stages are used.
        train: the examples to train on.
        valid: the examples to validate with; None for no validation.
        test: the examples of `trainer.test`.
        predict: the inputs of `trainer.predict`.
        seed: the seed of the order; by default that of `Bucket`.
        num_workers: the number of processes that make training batches; 0 for this one.

    Raises:
        MissingExtraError: if Lightning is not installed.
    """

    def __init__(
        self,
        pipe: StreamChain[A, Predictions[object, object]],
        train: Iterable[A] | None = None,
        valid: Iterable[A] | None = None,
        *,
        test: Iterable[A] | None = None,
        predict: Iterable[A] | None = None,
        seed: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self._pipe: Final[StreamChain[Any, Any]] = pipe
        self._examples: Final[Mapping[str, Iterable[Any] | None]] = {
            "train": train,
            "valid": valid,
            "test": test,
            "predict": predict,
        }
        self._seed: Final = seed
        self._num_workers: Final = num_workers

    # Made when Lightning asks for them: only then each process knows its rank.

    @override
    def train_dataloader(self) -> Epochs | None:
        """Return the loader of the training batches."""
        examples = self._examples["train"]
        if examples is None:
            return None
        return make_loader(self._pipe, examples, seed=self._seed, num_workers=self._num_workers)

    def count_batches(self) -> int | None:
        """Return the number of training batches of all ranks in an epoch; None if they have no end."""
        examples = self._examples["train"]
        return None if examples is None else count_batches(SplitPipe.of(self._pipe), examples)

    @override
    def val_dataloader(self) -> "EvaluationBatches | list[Any]":
        """Return the batches of validation; none without `valid`."""
        return self._evaluate("valid")

    @override
    def test_dataloader(self) -> "EvaluationBatches | list[Any]":
        """Return the batches of the test."""
        return self._evaluate("test")

    @override
    def predict_dataloader(self) -> "EvaluationBatches | list[Any]":
        """Return the batches of prediction."""
        return self._evaluate("predict")

    def _evaluate(self, which: str) -> "EvaluationBatches | list[Any]":
        examples = self._examples[which]
        return [] if examples is None else EvaluationBatches(self._pipe, examples)


@final
class EvaluationBatches:
    """Batches in the order of the rows, which each rank takes in turn. All ranks get the same number.

    Args:
        pipe: the pipe.
        examples: the examples.
    """

    def __init__(self, pipe: StreamChain[Any, Any], examples: Iterable[Any]) -> None:
        stages = [stage for _, stage in SplitPipe.of(pipe).data]
        self._data: Final = cast("Stream[Any, AnyBatch]", join(*stages) if len(stages) > 1 else stages[0])
        self._examples: Final = examples

    def __iter__(self) -> Iterator[AnyBatch]:
        """Yield this rank's batches."""
        rank, world_size = get_rank_and_world_size(None, None)
        last: AnyBatch | None = None
        number = 0
        for number, batch in enumerate(self._data.predict_batches(iterate(self._examples)), start=1):
            if (number - 1) % world_size == rank:
                yield batch
            last = batch
        if last is not None and number % world_size and rank >= number % world_size:
            # Modules that exchange values among ranks would wait forever for one that has a batch less.
            yield _without_targets(last)


def _without_targets(batch: AnyBatch) -> AnyBatch:
    """Return a batch whose rows have no target, so that they do not count."""
    metadata = batch.metadata
    named = metadata.named_targets
    metadata = attrs.evolve(
        metadata,
        targets=None if metadata.targets is None else _ignore(metadata.targets),
        named_targets=None if named is None else {name: _ignore(each) for name, each in named.items()},
    )
    return attrs.evolve(batch, metadata=metadata)


def _ignore(targets: TargetTensor) -> TargetTensor:
    return torch.full_like(targets, float("nan") if targets.is_floating_point() else IGNORED)
