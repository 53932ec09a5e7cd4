"""Test `python -m pipeline compare`: every combination of the parts is trained, and the table is printed."""

import csv
import json
from pathlib import Path

import pytest

from pipeline.__main__ import main
from support.commands import write_reviews, write_words
from support.needs import needs

SMALL = ("--quiet", "--epochs", "1", "--seeds", "1", "--embedding-dim", "4", "--hidden-size", "4", "--no-baseline")


def compare(file: Path, *options: str) -> int:
    """Run the command for small models."""
    return main(["compare", str(file), *SMALL, *options])


def test_every_combination_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The names of the parts are the name of the model."""
    file = write_reviews(tmp_path / "train.csv")
    parts = ("--encoders", "lstm", "gru", "--attentions", "none", "dot", "--poolings", "max", "mean")
    assert compare(file, *parts, "--csv", str(tmp_path / "table.csv"), "--json") == 0
    models = json.loads(capsys.readouterr().out)["models"]
    names = [model["name"] for model in models]
    assert len(names) == 8
    assert names[:4] == ["lstm + max", "lstm + mean", "lstm + dot + max", "lstm + dot + mean"]
    with (tmp_path / "table.csv").open(encoding="utf-8") as table:
        assert [row["model"] for row in csv.DictReader(table)] == names


def test_each_training_is_reported_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output has the table alone; the scores may be those of another file."""
    file = write_words(tmp_path / "train.conllu")
    options = [option for option in SMALL if option != "--quiet"]
    assert main(["compare", str(file), "--test", str(file), "--encoders", "lstm", *options]) == 0
    output = capsys.readouterr()
    assert output.err.startswith("lstm, seed 0: accuracy ")
    assert output.out.splitlines()[0].split()[:2] == ["model", "accuracy"]
    assert output.out.splitlines()[2:] == ["1 seed per model"]


def test_language_models_have_no_pooling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They may have attention or not, and the score is the perplexity."""
    (tmp_path / "lines.txt").write_text("the old dog\nthe old cat\n" * 10, encoding="utf-8")
    assert compare(tmp_path / "lines.txt", "--encoders", "gru", "--attentions", "none", "dot") == 0
    assert capsys.readouterr().out.split()[:2] == ["model", "perplexity"]
    assert compare(tmp_path / "lines.txt", "--poolings", "max") == 1
    assert "--poolings is for classifiers, got --model language_model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "0"), "--seeds must be 1 or more, got 0"),
        (
            ("--csv", "nowhere/table.csv"),
            "--csv must be in an existing folder, got 'nowhere/table.csv'; make 'nowhere' first",
        ),
        (("--encoders", "lsmt"), "'lsmt'"),
        (("--picture", "scores.bmp"), "must end in .svg, .png, .pdf, got 'scores.bmp'"),
    ],
)
def test_mistakes_are_reported_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    """On one line."""
    assert compare(write_reviews(tmp_path / "train.csv"), *options) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@needs("sklearn", "matplotlib")
def test_picture_and_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both need an extra."""
    file, options = write_reviews(tmp_path / "train.csv"), [option for option in SMALL if option != "--no-baseline"]
    picture = tmp_path / "scores.png"
    assert main(["compare", str(file), "--encoders", "lstm", "--picture", str(picture), *options]) == 0
    assert "n-grams, linear (baseline)" in capsys.readouterr().out
    assert picture.stat().st_size > 1_000
