"""What happened in each epoch of a training: losses, metrics, speed, padding."""

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Self, cast, final

import attrs
from typing_extensions import override

from pipeline.errors import OptionError
from pipeline.tables import Column, ShownAsTable, Table
from pipeline.training.metrics import LOSS, Monitor


@final
@attrs.frozen
class Epoch:
    """One epoch of a training.

    Attributes:
        number: the number of the epoch, from 1.
        batches: the number of batches.
        optimizer_steps: the number of optimizer steps in all epochs so far.
        rows: the number of rows.
        train_loss: the mean of the loss over the targets, while the weights were changing; NaN without targets.
        valid_loss: the loss of the validation data afterwards; None without such data.
        metrics: the metrics of the validation data by name.
        learning_rate: that of the last optimizer step.
        rows_per_second: rows trained on per second, without validation.
        padded: the share of padding in the batches.
        seconds: the duration of training and validation.
    """

    number: int
    batches: int
    optimizer_steps: int
    rows: int
    train_loss: float
    valid_loss: float | None
    metrics: Mapping[str, float]
    learning_rate: float
    rows_per_second: float
    padded: float
    seconds: float

    def values(self) -> dict[str, float]:
        """Return all numbers by name, those that are None left out."""
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(Epoch) if field.name != "metrics"}
        return {name: value for name, value in {**fields, **self.metrics}.items() if value is not None}

    def to_dict(self) -> dict[str, object]:
        """Return the epoch for JSON."""
        return {**attrs.asdict(self), "metrics": dict(self.metrics)}

    @classmethod
    def from_dict(cls, state: Mapping[str, object]) -> Self:
        """Read the result of `to_dict`."""
        return cls(**cast("dict[str, Any]", dict(state)))


@final
@attrs.frozen
class History(ShownAsTable):
    """The epochs of a training. `print` shows them as a table.

    Attributes:
        epochs: the epochs.
        monitor: what decides which epoch is best: the loss or a metric; of the validation data, if there are some.
        notes: what `fit` reported about the data and the machine.
        stopped_early: whether training stopped because no epoch was better for a while.
        resumed: the number of optimizer steps after which the newest run continued from a checkpoint; None for none.

    Example:
        >>> epochs = [Epoch(n, 10, 10 * n, 80, 1 / n, 0.5, {"accuracy": n / 4}, 0.1, 400, 0.1, 1) for n in (1, 2)]
        >>> history = History(epochs, monitor=Monitor("accuracy", higher_is_better=True))
        >>> history.best.number, history["train_loss"]
        (2, [1.0, 0.5])
        >>> print(history.to_csv().splitlines()[0])
        number,batches,optimizer_steps,rows,train_loss,valid_loss,learning_rate,rows_per_second,padded,seconds,accuracy
    """

    epochs: Sequence[Epoch]
    monitor: Monitor = attrs.field(default=Monitor(LOSS, higher_is_better=False), kw_only=True)
    notes: Sequence[str] = attrs.field(default=(), kw_only=True)
    stopped_early: bool = attrs.field(default=False, kw_only=True)
    resumed: int | None = attrs.field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self.epochs)

    def __getitem__(self, name: str) -> list[float]:
        """Return the values of one column, such as `train_loss` or a metric, one per epoch; NaN where it is missing.

        Raises:
            OptionError: if no epoch has such a column.
        """
        if name not in self.columns:
            msg = f"the history has the columns {', '.join(self.columns)}, got {name!r}."
            raise OptionError(msg, column=name)
        return [epoch.values().get(name, math.nan) for epoch in self.epochs]

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        fields = [field.name for field in attrs.fields(Epoch) if field.name != "metrics"]
        return [*fields, *dict.fromkeys(name for epoch in self.epochs for name in epoch.metrics)]

    @property
    def best(self) -> Epoch:
        """The epoch with the best monitored value, of several that with the lowest loss; the last without validation.

        Raises:
            OptionError: if there is no epoch.
        """
        if not self.epochs:
            raise OptionError("the history has no epoch, so there is no best one; train first.")
        best = self.epochs[0]
        for epoch in self.epochs[1:]:
            value, least = self.get_monitored(epoch), self.get_monitored(best)
            # Of equal values, which are common with few examples, the one with the lower loss is better.
            is_tie = value == least and (epoch.valid_loss or 0) < (best.valid_loss or 0)
            if is_tie or self.monitor.is_better(value, than=least):
                best = epoch
        return self.epochs[-1] if best.valid_loss is None else best

    def get_monitored(self, epoch: Epoch) -> float:
        """Return the monitored value of an epoch."""
        if self.monitor.name != LOSS:
            return epoch.metrics.get(self.monitor.name, math.nan)
        return epoch.train_loss if epoch.valid_loss is None else epoch.valid_loss

    def count_since_best(self) -> int:
        """Return the number of epochs after the best one."""
        return self.epochs[-1].number - self.best.number if self.epochs else 0

    @override
    def table(self) -> Table:
        """Return a row per epoch; the best one is marked."""
        names = [name for name in self.columns if name not in {"batches", "optimizer_steps", "rows"}]
        names = [name for name in names if any(name in epoch.values() for epoch in self.epochs)]
        columns = ["epoch", *(name.replace("_", " ") for name in names[1:]), ""]
        best = self.best.number if self.epochs else 0
        rows = [
            [
                str(epoch.number),
                *(format_value(name, epoch.values().get(name)) for name in names[1:]),
                "best" if epoch.number == best else "",
            ]
            for epoch in self.epochs
        ]
        return Table([Column(name, "right") for name in columns], rows, notes=self.notes)

    def to_csv(self, file: str | os.PathLike[str] | None = None) -> str:
        """Return the epochs as CSV, and write them to a file if one is given."""
        stream = StringIO(newline="")
        writer = csv.DictWriter(stream, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(epoch.values() for epoch in self.epochs)
        if file is not None:
            Path(file).write_text(stream.getvalue(), encoding="utf-8")
        return stream.getvalue()

    def describe(self) -> dict[str, str]:
        """Return data sizes and results by name, as text for a model card.

        Example:
            >>> epochs = [Epoch(n, 10, 10 * n, 80, 1 / n, 0.5, {"accuracy": n / 4}, 0.1, 400, 0.1, 1) for n in (1, 2)]
            >>> History(epochs, monitor=Monitor("accuracy", higher_is_better=True)).describe()
            {'rows': '80', 'epochs': '2, of which 2 is the best by accuracy', 'train loss': '0.5000', ...}
        """
        if not self.epochs:
            return {}
        best = self.best
        is_chosen = best.valid_loss is not None
        chosen = f", of which {best.number} is the best by {self.monitor.name}" if is_chosen else ""
        numbers = {"train loss": best.train_loss, "valid loss": best.valid_loss, **best.metrics}
        return {
            "rows": f"{best.rows:,}",
            "epochs": f"{len(self.epochs)}{chosen}",
            **{name: format_value(name, number) for name, number in numbers.items() if number is not None},
        }

    def plot(self, file: str | os.PathLike[str]) -> Path:
        """Draw the learning curve: the losses, and below them the metrics. Needs the extra `plots`.

        Args:
            file: a path that ends in .svg, .png or .pdf.

        Raises:
            MissingExtraError: if matplotlib is not installed.
            OptionError: for a suffix of another format, or if there is no epoch.
        """
        from pipeline.training.learning_curve import draw_learning_curve  # noqa: PLC0415 - opened for a picture only

        return draw_learning_curve(self, Path(file))

    def to_dict(self) -> dict[str, object]:
        """Return the history for JSON."""
        return {
            "epochs": [epoch.to_dict() for epoch in self.epochs],
            "monitor": attrs.asdict(self.monitor),
            "notes": list(self.notes),
            "stopped_early": self.stopped_early,
            "resumed": self.resumed,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`."""
        return cls(
            [Epoch.from_dict(epoch) for epoch in state["epochs"]],
            monitor=Monitor(**state["monitor"]),
            notes=state["notes"],
            stopped_early=state["stopped_early"],
            resumed=state["resumed"],
        )


def format_value(name: str, value: float | None) -> str:
    """Return a value of a column as a cell of a table.

    Example:
        >>> format_value("padded", 0.125), format_value("rows_per_second", 1234.5), format_value("f1", 0.5)
        ('12.5%', '1,234', '0.5000')
    """
    if value is None:
        return ""
    formats = {"padded": ".1%", "rows_per_second": ",.0f", "seconds": ",.1f", "learning_rate": ".2g"}
    return format(value, formats.get(name, ".4f"))
