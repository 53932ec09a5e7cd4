"""Confusion matrices count pairs of target and prediction; the results of classes follow from them."""

import math
import sys
from pathlib import Path

import pytest
import torch

from pipeline import Scores
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.errors import MissingExtraError, OptionError, TargetError
from pipeline.training.confusion import ClassResult, Confusion, ConfusionCounter
from support.needs import needs
from support.untyped import as_any, to_list

TARGETS = [0, 2, IGNORED, 1, 1, 2]
BEST = [0, 1, 0, 1, 2, 1]
NAMES = ["a", "b", "c", "unused"]


def make_scores(rows: slice = slice(None)) -> Scores[str]:
    """Return scores whose best classes are given."""
    targets = torch.tensor(TARGETS[rows])
    return Scores(torch.eye(4)[BEST[rows]], NAMES, metadata=BatchMetadata(torch.arange(len(targets)), targets))


def count_pairs() -> list[list[int]]:
    """Count one by one."""
    counts = [[0] * 4 for _ in range(4)]
    for target, best in zip(TARGETS, BEST, strict=True):
        if target != IGNORED:
            counts[target][best] += 1
    return counts


@pytest.mark.parametrize("merged", [True, False])
def test_counts_equal_the_loop(merged: bool) -> None:
    """In two batches, or merged from two counters."""
    first, second = ConfusionCounter(NAMES), ConfusionCounter(NAMES)
    first.add(make_scores(slice(2)))
    (second if merged else first).add(make_scores(slice(2, None)))
    first.merge(second)
    confusion = first.read()
    assert to_list(confusion.counts) == count_pairs()
    assert confusion.names == NAMES


def test_shares_are_of_targets_predictions_or_all() -> None:
    """A class that does not occur has the shares 0."""
    confusion = Confusion(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), ["a", "b", "c"])
    assert to_list(confusion.normalized()) == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]]
    assert to_list(confusion.normalized("predicted")) == [[1, 0.2, 0], [0, 0.8, 0], [0, 0, 0]]
    assert to_list(confusion.normalized("all")) == [[0.375, 0.125, 0], [0, 0.5, 0], [0, 0, 0]]
    with pytest.raises(OptionError, match="by must be one of target, predicted, all, got 'rows'"):
        confusion.normalized(as_any("rows"))


def test_results_of_classes_follow_from_the_counts() -> None:
    """Undefined shares are NaN, and None in JSON."""
    a, b, c = Confusion(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), ["a", "b", "c"]).classes()
    assert [a.precision, a.recall, a.f1] == pytest.approx([1.0, 0.75, 6 / 7])
    assert b == ClassResult("b", targets=4, predicted=5, correct=4)
    assert all(map(math.isnan, (c.precision, c.recall, c.f1)))
    assert c.to_dict() == {
        "name": "c",
        "targets": 0,
        "predicted": 0,
        "correct": 0,
        "precision": None,
        "recall": None,
        "f1": None,
    }


def test_a_table_shows_the_most_frequent_classes() -> None:
    """Of many classes, 40 are shown in their order; the rest is mentioned."""
    counts = torch.diag(torch.arange(50))
    lines = str(Confusion(counts, [f"class {number}" for number in range(50)])).splitlines()
    assert [line.split()[1] for line in lines[1:-1]] == [str(number) for number in range(10, 50)]
    assert lines[-1] == "the 40 most frequent of 50 classes"


def test_scores_without_targets_are_rejected() -> None:
    """As by the metrics of classes."""
    with pytest.raises(TargetError, match="a confusion matrix needs a class per row, but the batch has no targets"):
        ConfusionCounter(NAMES).add(Scores(torch.eye(4), NAMES))


@needs("matplotlib")
@pytest.mark.parametrize("classes", [1, 2, 21, 130])
def test_a_matrix_of_any_size_is_drawn(tmp_path: Path, classes: int) -> None:
    """Names may look like mathematics, or be long; with many classes only some are labelled."""
    counts = torch.arange(classes**2).reshape(classes, classes)
    path = Confusion(counts, [f"$x^{{$ {number} {'long' * 9}" for number in range(classes)]).plot(tmp_path / "c.png")
    first = path.read_bytes()
    assert first.startswith(b"\x89PNG")
    Confusion(counts, [f"$x^{{$ {number} {'long' * 9}" for number in range(classes)]).plot(path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


@needs("matplotlib")
def test_counts_are_written_into_the_cells(tmp_path: Path) -> None:
    """The picture holds them as they are."""
    path = Confusion(torch.tensor([[1234, 0], [77, 5]]), ["ham", "spam"]).plot(tmp_path / "c.svg")
    # Letters are shapes in the picture; their text is in comments.
    text = path.read_text(encoding="utf-8")
    assert all(f"<!-- {each} -->" in text for each in ("1,234", "77", "ham", "spam", "target", "predicted"))


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to install it."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        MissingExtraError, match=r"a picture needs the package matplotlib, .* 'ragged-pipeline\[plots\]'"
    ):
        Confusion(torch.ones(1, 1).long(), ["a"]).plot(tmp_path / "c.png")
