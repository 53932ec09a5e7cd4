"""The options of `fit`, checked, and as a fingerprint by which a checkpoint knows them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any, Final, Literal, Self, TypeAlias, TypedDict, TypeGuard, cast, final, get_args

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from pipeline.checks.hints import describe
from pipeline.checks.options import (
    check_choice,
    check_int,
    check_number,
    check_optional_int,
    check_positive,
    check_precision,
    check_probability,
)
from pipeline.data.loss_options import check_class_weights
from pipeline.data.tensors import to_floats
from pipeline.errors import OptionError, UnknownOptionError
from pipeline.text import suggest_name
from pipeline.training.devices import check_device
from pipeline.training.metrics import LOSS, MetricsOption

ParameterGroups: TypeAlias = list[dict[str, Any]]
"""Groups of parameters with their own options, as torch's optimizers take them."""

MakeOptimizer: TypeAlias = Callable[[ParameterGroups], Optimizer]
"""Makes an optimizer of parameter groups, such as `lambda groups: torch.optim.NAdam(groups, lr=0.002)`."""

MakeSchedule: TypeAlias = Callable[[Optimizer, int], object]
"""Makes a scheduler of torch's for an optimizer and the number of optimizer steps of all epochs."""

ClassWeights: TypeAlias = Tensor | Sequence[float]
"""A weight for each class, in the order of the classes."""

OptimizerName = Literal["adamw", "adam", "sgd"]
ScheduleName = Literal["constant", "linear", "cosine"]
Precision = Literal["float32", "bfloat16"]
Strategy = Literal["ddp", "fsdp"]

LEARNING_RATES: Final[Mapping[str, float]] = {"adamw": 1e-3, "adam": 1e-3, "sgd": 0.1}
"""The default learning rate of each optimizer."""


class FitOptions(TypedDict, total=False):
    """The options of `fit`.

    Attributes:
        learning_rate: by default 0.001 for Adam and AdamW, 0.1 for SGD. An optimizer of your own has its own.
        optimizer: `adamw` (by default), `adam`, `sgd` (with momentum 0.9), or a function that makes an optimizer of
            parameter groups.
        weight_decay: the decay of the weights, 0.01 by default. Biases, weights of one axis such as those of norms, and
            embeddings have none. An optimizer of your own gets it in its groups.
        schedule: the learning rate over the epochs: `constant` (by default), `linear` or `cosine` to 0, or a function
            that makes a scheduler of torch's from the optimizer and the number of optimizer steps. The scheduler moves
            once per optimizer step; a `ReduceLROnPlateau` once per epoch, with the monitored value.
        warmup: how many optimizer steps the learning rate grows from 0 for: a number of them, or, below 1, their share.
            For the schedules by name only.
        max_grad_norm: the largest norm of all gradients together; 1.0 by default, None for no limit.
        accumulate: the number of batches per optimizer step; the loss is the mean over the targets of all of them.
        precision: `float32`, or `bfloat16` for autocast: weights stay in float32.
        ema: the decay of an exponential moving average of the weights, such as 0.999. The averages are validated and
            kept. None for no average.
        metrics: names of registered metrics, metrics, or objects of torchmetrics, in a list or by name. By default
            they follow from the head.
        monitor: what decides which epoch is best: `loss` or the name of a metric. By default the head's main metric.
        patience: the number of epochs without a better one after which training stops; None for never.
        class_weights: the weight of each class in the loss, in the order of the classes, as a tensor or a list, such as
            `labels.class_weights(targets)`, or `balanced` for exactly that. For several heads, a mapping by head.
        label_smoothing: the probability that is spread over all classes; 0 by default.
        loss: other options of the head's loss by name, such as `{"kind": "huber"}`. For several heads, a mapping by
            head.
        seed: the seed of everything random: dropout, the order of the rows, workers. By default the order is that of
            the bucket's seed, and the other seeds are 0.
        device: the device to train on, where the pipe then stays; by default where it is.
        strategy: how several ranks share the work: `ddp` (by default), with all weights on each, or `fsdp`, with a part
            of each weight, of its gradient and of the optimizer's state on each.
        num_workers: the number of processes that read and make batches; 0 for this one.
        checkpoints: a folder for checkpoints, at the end of each epoch and after `checkpoint_every` optimizer steps.
        checkpoint_every: the number of optimizer steps between checkpoints within an epoch; None for no such ones.
        keep: the number of newest checkpoints to keep, 2 by default; that of the best epoch is kept besides.
        resume: continue from the newest checkpoint, if there is one; or from the checkpoint in this folder.
        progress: None shows a bar on a terminal, and elsewhere a line per epoch; True always a bar; False nothing.
        log_csv: a file to which a line per epoch is written.
        log_tensorboard: a folder for the logs of TensorBoard, which must be installed.
    """

    learning_rate: float | None
    optimizer: OptimizerName | MakeOptimizer
    weight_decay: float
    schedule: ScheduleName | MakeSchedule
    warmup: float
    max_grad_norm: float | None
    accumulate: int
    precision: Precision
    ema: float | None
    metrics: MetricsOption | None
    monitor: str | None
    patience: int | None
    class_weights: ClassWeights | Literal["balanced"] | Mapping[str, ClassWeights] | None
    label_smoothing: float
    loss: Mapping[str, object] | None
    seed: int | None
    device: torch.device | str | None
    strategy: Strategy
    num_workers: int
    checkpoints: str | PathLike[str] | None
    checkpoint_every: int | None
    keep: int
    resume: bool | str | PathLike[str]
    progress: bool | None
    log_csv: str | PathLike[str] | None
    log_tensorboard: str | PathLike[str] | None


@final
@attrs.frozen(kw_only=True, eq=False)
class Settings:
    """The options of `fit` with their defaults; see `FitOptions`."""

    epochs: int
    learning_rate: float | None = None
    optimizer: OptimizerName | MakeOptimizer = "adamw"
    weight_decay: float = 0.01
    schedule: ScheduleName | MakeSchedule = "constant"
    warmup: float = 0
    max_grad_norm: float | None = 1.0
    accumulate: int = 1
    precision: Precision = "float32"
    ema: float | None = None
    metrics: MetricsOption | None = None
    monitor: str | None = None
    patience: int | None = None
    class_weights: ClassWeights | Literal["balanced"] | Mapping[str, ClassWeights] | None = None
    label_smoothing: float = 0.0
    loss: Mapping[str, object] | None = None
    seed: int | None = None
    device: torch.device | str | None = None
    strategy: Strategy = "ddp"
    num_workers: int = 0
    checkpoints: str | PathLike[str] | None = None
    checkpoint_every: int | None = None
    keep: int = 2
    resume: bool | str | PathLike[str] = False
    progress: bool | None = None
    log_csv: str | PathLike[str] | None = None
    log_tensorboard: str | PathLike[str] | None = None

    @classmethod
    def of(cls, epochs: int, options: Mapping[str, object], *, others: Sequence[str] = ()) -> Self:
        """Check the options of `fit`.

        Args:
            epochs: the number of epochs.
            options: the options by name.
            others: further arguments of the caller, which the error about an unknown name lists and suggests.

        Raises:
            UnknownOptionError: for a name that is no option.
            OptionError: for a value outside its range.
        """
        names = [field.name for field in attrs.fields(cls) if field.name != "epochs"]
        unknown = next((name for name in options if name not in names), None)
        if unknown is not None:
            known = [*others, *names]
            msg = f"fit has no option {unknown!r}; its options are {', '.join(known)}."
            advice = _ELSEWHERE.get(unknown) or suggest_name(unknown, known, _ALIASES)
            raise UnknownOptionError(msg + advice, option=unknown)
        return cls(**cast("dict[str, Any]", {"epochs": epochs, **options}))

    def __attrs_post_init__(self) -> None:
        # Numbers of other types, such as those of numpy, become plain ones, whose fingerprints are the same.
        for name, check in _NUMBERS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        check_precision(self.precision, get_args(Precision))
        check_choice("strategy", self.strategy, get_args(Strategy))
        for name, kind in (("optimizer", OptimizerName), ("schedule", ScheduleName)):
            if not callable(getattr(self, name)):
                check_choice(name, getattr(self, name), get_args(kind))
        check_device(self.device)
        object.__setattr__(self, "class_weights", _to_class_weights(self.class_weights))
        self._check_types()
        self._reject_contradictions()

    def _check_types(self) -> None:
        """Reject values that would fail in the midst of a training, or that would be taken for others in silence."""
        if self.loss is not None and not isinstance(cast("object", self.loss), Mapping):
            got = repr(self.loss) if isinstance(cast("object", self.loss), str) else describe(self.loss)
            msg = f"loss must be a mapping of options, got {got}; pass them by name, such as {{'kind': 'huber'}}."
            raise OptionError(msg, loss=self.loss)
        if cast("object", self.progress) not in (None, True, False):
            msg = f"progress must be True, False or None, got {self.progress!r}."
            raise OptionError(msg, progress=self.progress)
        for name in ("checkpoints", "log_csv", "log_tensorboard"):
            path: object = getattr(self, name)
            if path is not None and not isinstance(path, str | PathLike):
                msg = f"{name} must be a path, got {describe(path)}."
                raise OptionError(msg, **{name: path})

    def _reject_contradictions(self) -> None:
        if self.warmup and callable(self.schedule):
            msg = "warmup is for schedules by name, got a function as well; let the function's scheduler warm up."
            raise OptionError(msg, warmup=self.warmup)
        if self.learning_rate is not None and callable(self.optimizer):
            msg = "learning_rate is for optimizers by name, got a function as well; set it in the function: lr=..."
            raise OptionError(msg, learning_rate=self.learning_rate)
        if self.checkpoints is None and (self.resume or self.checkpoint_every):
            name = "resume" if self.resume else "checkpoint_every"
            msg = f"{name} needs a folder of checkpoints, got none; pass checkpoints=folder as well."
            raise OptionError(msg, **{name: getattr(self, name)})

    def reject_without_validation(self) -> None:
        """Reject options that decide by validation, without validation data.

        Raises:
            OptionError: for patience, or for a monitor other than the loss.
        """
        if self.patience is not None:
            msg = f"patience needs validation, got patience={self.patience} without valid; pass valid=examples as well."
            raise OptionError(msg, patience=self.patience)
        if self.monitor not in (None, LOSS):
            msg = (
                f"monitor={self.monitor!r} needs validation, got no valid, without which there are no metrics; pass "
                "valid=examples as well, or leave monitor out."
            )
            raise OptionError(msg, monitor=self.monitor)

    @property
    def rate(self) -> float:
        """The learning rate of an optimizer by name."""
        if self.learning_rate is not None or callable(self.optimizer):
            return self.learning_rate or 0.0
        return LEARNING_RATES[self.optimizer]

    def fingerprint(self) -> dict[str, str]:
        """Return the options that change the weights, as text, to compare them with those of a checkpoint.

        The number of epochs is one of them if the learning rate depends on it.
        """
        found = {name: _describe(getattr(self, name)) for name in _DECISIVE}
        found["learning_rate"] = repr(self.rate)
        if self.schedule != "constant":
            found["epochs"] = str(self.epochs)
        return found


# Names of other libraries' options, in lower case without signs.
_ALIASES: Final = {
    "lr": "learning_rate",
    "gradclip": "max_grad_norm",
    "gradientclipval": "max_grad_norm",
    "clipnorm": "max_grad_norm",
    "gradientaccumulationsteps": "accumulate",
    "accumulategradbatches": "accumulate",
    "earlystopping": "patience",
    "scheduler": "schedule",
    "verbose": "progress",
    "checkpoint": "checkpoints",
    "logdir": "log_tensorboard",
    "workers": "num_workers",
    "classweight": "class_weights",
    "bf16": "precision",
    "fp16": "precision",
    "resumefromcheckpoint": "resume",
    "ckptpath": "resume",
    "outputdir": "checkpoints",
    "savesteps": "checkpoint_every",
    "savetotallimit": "keep",
    "warmupsteps": "warmup",
    "warmupratio": "warmup",
    "lrschedulertype": "schedule",
    "numepochs": "epochs",
    "numtrainepochs": "epochs",
    "maxepochs": "epochs",
    "nepochs": "epochs",
    "evaldataset": "valid",
    "validationdata": "valid",
    "metricforbestmodel": "monitor",
}

# What is no option of `fit`, but is looked for there.
_ELSEWHERE: Final[Mapping[str, str]] = dict[str, str].fromkeys(
    ("batch_size", "train_batch_size", "per_device_train_batch_size"),
    " The size of batches is that of Bucket, such as Bucket(max_padded_steps=1_000) or Bucket(rows=32).",
)


def _check_optional(name: str, value: object) -> float | None:
    return None if value is None else check_positive(name, value, advice="leave it out for the default")


def _check_ema(name: str, value: object) -> float | None:
    return None if _check_optional(name, value) is None else check_probability(name, value)


def _to_class_weights(given: object) -> object:
    """Return class weights with tensors instead of lists of numbers; by head if they are given so."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        by_head = cast("Mapping[object, object]", given)
        return {head: _to_weight_tensor(each, in_mapping=True) for head, each in by_head.items()}
    return _to_weight_tensor(given, in_mapping=False)


def _is_numbers(given: object) -> TypeGuard[Sequence[float]]:
    is_list = isinstance(given, list | tuple)
    numbers = cast("Sequence[object]", given) if is_list else ()
    return is_list and all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers)


def _to_weight_tensor(given: object, *, in_mapping: bool) -> Tensor:
    weight = torch.tensor(given, dtype=torch.float32) if _is_numbers(given) else given
    if not isinstance(weight, Tensor):
        got = f"a mapping to {describe(given)}" if in_mapping else describe(given)
        msg = (
            f"class_weights must be a tensor or a list with a number for each class, got {got}; pass [0.5, 2.0], "
            "labels.class_weights(targets) or 'balanced'. A mapping is by head, not by class: "
            "{'topic': [0.5, 2.0], ...}."
        )
        raise OptionError(msg, class_weights=given)
    check_class_weights("class_weights", weight.cpu())
    return weight


_NUMBERS: Final[Mapping[str, Callable[[str, object], float | None]]] = {
    "epochs": partial(check_int, minimum=1),
    "learning_rate": _check_optional,
    "weight_decay": partial(check_number, minimum=0),
    "warmup": partial(check_number, minimum=0),
    "max_grad_norm": _check_optional,
    "accumulate": partial(check_int, minimum=1),
    "ema": _check_ema,
    "patience": partial(check_optional_int, minimum=1),
    "label_smoothing": check_probability,
    "seed": partial(check_optional_int, minimum=0),
    "num_workers": partial(check_int, minimum=0),
    "checkpoint_every": partial(check_optional_int, minimum=1),
    "keep": partial(check_int, minimum=1),
}

_DECISIVE: Final = (
    "optimizer",
    "weight_decay",
    "schedule",
    "warmup",
    "max_grad_norm",
    "accumulate",
    "precision",
    "ema",
    "metrics",
    "monitor",
    "patience",
    "class_weights",
    "label_smoothing",
    "loss",
    "seed",
)


def _describe(value: object) -> str:
    """Return a value as text that is equal in the next process: without the addresses of objects."""
    if isinstance(value, Tensor):
        return f"tensor({to_floats(value.flatten().double())})"
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return f"{{{', '.join(f'{key!r}: {_describe(each)}' for key, each in items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_describe, cast('Sequence[object]', value)))}]"
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    # Of a function or an object, the name: its code cannot be compared.
    named: object = getattr(value, "__qualname__", None) or type(value).__qualname__
    return str(named)
