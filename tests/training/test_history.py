"""The history of a training: its best epoch, table, CSV and picture."""

import csv
import math
from io import StringIO
from pathlib import Path
from typing import Any

import attrs
import pytest

from pipeline import Bucket, Example, FromIds, Pad, classifier
from pipeline.errors import OptionError
from pipeline.training.history import Epoch, History
from pipeline.training.metrics import Monitor
from support.needs import needs

FIRST = Epoch(1, 10, 10, 80, 0.9, 0.8, {"accuracy": 0.5}, 0.001, 123.4, 0.25, 2.5)


def make_history(values: list[tuple[float, float]], **options: Any) -> History:
    """Make a history of epochs with these losses and accuracies of the validation data."""
    epochs = [
        attrs.evolve(FIRST, number=number, valid_loss=loss, metrics={"accuracy": accuracy})
        for number, (loss, accuracy) in enumerate(values, start=1)
    ]
    return History(epochs, **options)


ACCURACY = Monitor("accuracy", higher_is_better=True)


def test_the_best_epoch_follows_the_monitor() -> None:
    """The loss by default, or a metric; of equal values, the one with the lower loss."""
    values = [(0.8, 0.5), (0.6, 0.7), (0.7, 0.9), (0.5, 0.8)]
    assert make_history(values).best.number == 4
    assert make_history(values, monitor=ACCURACY).best.number == 3
    assert make_history([(0.8, 1.0), (0.6, 1.0), (0.7, 1.0)], monitor=ACCURACY).best.number == 2
    assert make_history([(math.nan, 0.1), (0.6, 0.1)]).best.number == 2
    assert make_history(values, monitor=ACCURACY).count_since_best() == 1


def test_csv_has_a_line_per_epoch_and_every_number(tmp_path: Path) -> None:
    """Metrics that only some epochs have are empty in the others."""
    history = History([FIRST, attrs.evolve(FIRST, number=2, metrics={"f1": 0.25}, valid_loss=None)])
    text = history.to_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text(encoding="utf-8") == text
    rows = list(csv.DictReader(StringIO(text)))
    assert [row["accuracy"] for row in rows] == ["0.5", ""]
    assert [row["f1"] for row in rows] == ["", "0.25"]
    assert float(rows[0]["train_loss"]) == FIRST.train_loss


def test_columns_by_name() -> None:
    """NaN where an epoch has no such number; an unknown name is rejected with the known ones."""
    history = History([FIRST, attrs.evolve(FIRST, number=2, metrics={})])
    assert history["accuracy"][0] == 0.5
    assert math.isnan(history["accuracy"][1])
    with pytest.raises(OptionError, match="the history has the columns number, .*, accuracy, got 'f1'"):
        _ = history["f1"]
    with pytest.raises(OptionError, match="has no epoch"):
        _ = History([]).best


def test_print_shows_a_table_with_the_best_epoch_and_the_notes() -> None:
    """Without columns that no epoch has."""
    history = make_history([(0.6, 0.7), (0.8, 0.5)], notes=["a note"])
    lines = str(history).splitlines()
    assert lines[0].split()[:3] == ["epoch", "train", "loss"]
    assert lines[1].endswith("best")
    assert lines[-1] == "a note"
    assert "valid" not in str(History([attrs.evolve(FIRST, valid_loss=None, metrics={})]))
    assert str(History([]))


def test_a_model_card_has_the_sizes_and_results_of_training(tmp_path: Path) -> None:
    """Those of the best epoch, whose weights are saved; nothing before the first epoch."""
    assert make_history([]).describe() == {}
    found = make_history([(0.6, 0.7), (0.8, 0.5)], monitor=ACCURACY).describe()
    assert found["epochs"] == "2, of which 1 is the best by accuracy"
    assert (found["valid loss"], found["accuracy"]) == ("0.6000", "0.7000")
    pipe = FromIds() >> Bucket(rows=4) >> Pad() >> classifier(9, 2, hidden_size=4)
    pipe.fit([Example([2, 3], target=0), Example([4], target=1)] * 4, epochs=1, progress=False)
    pipe.save(tmp_path / "saved")
    assert "| rows | 8 |\n| epochs | 1 |" in (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")


def test_a_history_returns_from_its_dictionary() -> None:
    """For checkpoints and model cards."""
    history = make_history([(0.6, 0.7)], monitor=ACCURACY, notes=["a"], stopped_early=True, resumed=3)
    assert History.from_dict(history.to_dict()) == history


@needs("matplotlib")
@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_the_learning_curve_is_a_picture_that_light_and_dark_pages_can_show(tmp_path: Path, suffix: str) -> None:
    """With a background of its own, and the same file each time."""
    history = make_history([(0.6, 0.7), (0.8, 0.5)])
    one, other = (history.plot(tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "other"))
    assert one == other
    if suffix == "svg":
        assert b"#ffffff" in one
        assert b"best epoch by loss: 1" in one or b"<path" in one


@needs("matplotlib")
def test_wrong_pictures_are_rejected(tmp_path: Path) -> None:
    """Another suffix, and a history without epochs."""
    with pytest.raises(OptionError, match=r"file must end in .svg, .png, .pdf, got 'a.gif'"):
        make_history([(0.6, 0.7)]).plot(tmp_path / "a.gif")
    with pytest.raises(OptionError, match="no epoch to draw"):
        History([]).plot(tmp_path / "a.svg")
