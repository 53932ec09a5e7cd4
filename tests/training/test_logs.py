"""Logs of a training in CSV and for TensorBoard."""

import csv
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import MissingExtraError
from pipeline.training import logs
from support.needs import needs
from support.trainable import TRAINABLE


def fit(**options: Any) -> Any:
    """Train a classifier for two epochs; return the history."""
    examples = TRAINABLE["classifier"].examples
    return TRAINABLE["classifier"].make().fit(examples, valid=examples, epochs=2, progress=False, **options)


def test_csv_has_a_line_per_epoch(tmp_path: Path) -> None:
    """The numbers of the history; the folder is made."""
    history = fit(log_csv=tmp_path / "logs" / "history.csv")
    with (tmp_path / "logs" / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["valid_loss"]) for row in rows] == history["valid_loss"]
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["history.csv"]


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_numbers_of_every_epoch(tmp_path: Path) -> None:
    """By the names of the history."""
    history = fit(log_tensorboard=tmp_path)
    module: Any = import_module("tensorboard.backend.event_processing.event_accumulator")
    reader = module.EventAccumulator(str(tmp_path))
    reader.Reload()
    found = {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    assert [step for step, _ in found["train_loss"]] == [1, 2]
    assert [value for _, value in found["accuracy"]] == pytest.approx(history["accuracy"])


def test_missing_tensorboard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it, before any training."""

    def fail(name: str) -> object:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(logs, "import_module", fail)
    with pytest.raises(MissingExtraError, match="needs the package tensorboard.*pip install tensorboard"):
        fit(log_tensorboard=tmp_path)
