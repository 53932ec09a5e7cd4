"""Confusion matrices: how often each class is predicted where each class is the target."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias, final, get_args

import attrs
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from pipeline.builtin.class_metrics import get_class_targets
from pipeline.checks.options import check_choice
from pipeline.data.metadata import IGNORED
from pipeline.data.scores import Predictions
from pipeline.data.tensors import to_ints
from pipeline.pictures import draw_heat_map, draw_picture
from pipeline.tables import Column, ShownAsTable, Table

MOST_CLASSES: Final = 1_000
"""The number of classes up to which a confusion matrix is counted: the square of it takes 8 MB."""

# Classes that are shown in a table.
_MOST_SHOWN: Final = 40

Share: TypeAlias = Literal["target", "predicted", "all"]
"""Of what a share is: of the targets of a class, of the predictions of a class, or of everything."""


@final
@attrs.frozen
class ClassResult:
    """Precision, recall and F1 of one class, or of one type of spans.

    Attributes:
        name: the class.
        targets: how often it is the target.
        predicted: how often it is predicted.
        correct: how often it is predicted where it is the target.

    Example:
        >>> result = ClassResult("spam", targets=4, predicted=2, correct=1)
        >>> result.precision, result.recall, round(result.f1, 3)
        (0.5, 0.25, 0.333)
    """

    name: str
    targets: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float:
        """The share of the predictions that are correct; NaN without predictions."""
        return self.correct / self.predicted if self.predicted else math.nan

    @property
    def recall(self) -> float:
        """The share of the targets that are predicted; NaN without targets."""
        return self.correct / self.targets if self.targets else math.nan

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; NaN with neither targets nor predictions."""
        total = self.targets + self.predicted
        return 2 * self.correct / total if total else math.nan

    def to_dict(self) -> dict[str, object]:
        """Return everything for JSON, where NaN is None."""
        shares = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {**attrs.asdict(self), **{name: None if math.isnan(share) else share for name, share in shares.items()}}


@final
@attrs.frozen(eq=False)
class Confusion(ShownAsTable):
    """Counts of pairs of target and prediction. `print` shows precision, recall and F1 of each class.

    Attributes:
        counts: the number of rows or steps with a target (row) and a prediction (column).
        names: the name of each class.

    Example:
        >>> confusion = Confusion(torch.tensor([[8, 2], [1, 9]]), ["ham", "spam"])
        >>> confusion.normalized().tolist()
        [[0.8, 0.2], [0.1, 0.9]]
        >>> print(confusion)
        class  precision  recall     F1  targets
        ham        0.889   0.800  0.842       10
        spam       0.818   0.900  0.857       10
    """

    counts: Int64[Tensor, "target predicted"]
    names: Sequence[str]

    def normalized(self, by: Share = "target") -> Float[Tensor, "target predicted"]:
        """Return shares instead of counts: of the targets of a class (each row adds up to 1), or others.

        A class without targets, or without predictions, has the shares 0.

        Raises:
            OptionError: if there is no such share.
        """
        check_choice("by", by, get_args(Share))
        counts = self.counts.double()
        totals = counts.sum() if by == "all" else counts.sum(1 if by == "target" else 0, keepdim=True)
        return counts / totals.clamp(min=1)

    def classes(self) -> Sequence[ClassResult]:
        """Return the results of each class, in the order of the classes."""
        columns = (self.counts.sum(1), self.counts.sum(0), self.counts.diagonal())
        return [ClassResult(name, *found) for name, *found in zip(self.names, *map(to_ints, columns), strict=True)]

    @override
    def table(self) -> Table:
        """Return precision, recall and F1 of each class."""
        return make_class_table({"": self.classes()})

    def plot(self, file: str | os.PathLike[str]) -> Path:
        """Draw the matrix: a row per target and a column per prediction. Needs the extra `plots`.

        Colors are shares of the targets of a class; the counts are written into the cells of up to 20 classes.

        Args:
            file: a path that ends in .svg, .png or .pdf.

        Raises:
            MissingExtraError: if matplotlib is not installed.
            OptionError: for a suffix of another format.
        """
        shares = np.array([[float(share) for share in row] for row in self.normalized()], np.float64)
        cells = [[f"{count:,}" for count in to_ints(row)] for row in self.counts]
        size = min(max(3.5, 2 + 0.4 * len(self.names)), 12)
        with draw_picture(file, width=size + 0.6, height=size) as figure:
            axes = figure.subplots()
            draw_heat_map(axes, shares, self.names, self.names, cells)
            axes.set_ylabel("target")
            axes.set_xlabel("predicted")
            axes.set_title("share of the targets of a class", loc="left", fontsize=9)
        return Path(file)


@final
class ConfusionCounter:
    """Counts a confusion matrix batch by batch, on the device of the scores.

    Args:
        names: the class names.
    """

    def __init__(self, names: Sequence[object]) -> None:
        self.names: Final = names
        # One cell more at the end: for rows and steps without a target.
        self.cells: Int64[Tensor, " cell"] = torch.zeros(len(names) ** 2 + 1, dtype=torch.int64, device="cpu")

    def add(self, predictions: Predictions[object, object]) -> None:
        """Add a batch of scores of classes with targets.

        Raises:
            TargetError: if it has no targets, or others.
        """
        scores, targets = get_class_targets(predictions, "a confusion matrix")
        classes = len(self.names)
        cell = torch.where(targets != IGNORED, targets * classes + scores.best, classes**2)
        self.cells = self.cells.to(cell.device)
        self.cells.index_add_(0, cell, torch.ones_like(cell))

    def merge(self, other: "ConfusionCounter") -> None:
        """Add the counts of another counter of the same classes."""
        self.cells = self.cells + other.cells.to(self.cells.device)

    def read(self) -> Confusion:
        """Return the matrix."""
        classes = len(self.names)
        return Confusion(self.cells[:-1].reshape(classes, classes).cpu(), [str(name) for name in self.names])


def make_class_table(results: Mapping[str, Sequence[ClassResult]], title: str = "", notes: Sequence[str] = ()) -> Table:
    """Return a table of precision, recall and F1.

    Args:
        results: the results of the classes of each head.
        title: a line above the table.
        notes: lines below the table.
    """
    rows: list[list[str]] = []
    below = list(notes)
    has_heads = set(results) != {""}
    for head, classes in results.items():
        # The most frequent ones, in the order of the classes.
        kept = {id(each) for each in sorted(classes, key=lambda each: -each.targets)[:_MOST_SHOWN]}
        if len(kept) < len(classes):
            below.append(f"the {len(kept)} most frequent of {len(classes):,} classes{f' of {head}' if head else ''}")
        for each in classes:
            if id(each) in kept:
                numbers = [_format_share(share) for share in (each.precision, each.recall, each.f1)]
                rows.append([*([head] if has_heads else []), each.name, *numbers, f"{each.targets:,}"])
    headings = [Column(name, "right") for name in ("precision", "recall", "F1", "targets")]
    columns = [*([Column("head")] if has_heads else []), Column("class"), *headings]
    return Table(columns, rows, title=title, notes=below)


def _format_share(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.3f}"
