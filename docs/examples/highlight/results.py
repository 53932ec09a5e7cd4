"""Predictions compared with the right classes, and the padding that bucketing saved."""

import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import attrs

from highlight.saved import SavedPipe
from highlight.source import Line
from pipeline import Report
from pipeline.training import History


@attrs.frozen
class Comparison:
    """The accuracy of a model and of a simple rule.

    Attributes:
        measured: the things that were classified.
        model: the model's accuracy, from 0 to 1.
        baseline: the rule's accuracy.
        rule: a description of the rule.
    """

    measured: str
    model: float
    baseline: float
    rule: str


@attrs.frozen
class CharacterResult:
    """The result of task one.

    Attributes:
        lines: the held-out lines.
        predicted: the predicted classes of each.
        own: the lines of the pipe's own source, each with its predicted classes.
        by_character: the accuracy per character.
        by_line: the share of lines whose characters are all right.
        bucketed: the batches of one epoch.
        shuffled: the same rows in random batches of the same sizes.
        history: the losses of each epoch.
    """

    lines: Sequence[Line] = attrs.field(repr=False)
    predicted: Sequence[Sequence[str]] = attrs.field(repr=False)
    own: Sequence[tuple[Line, Sequence[str]]] = attrs.field(repr=False)
    by_character: Comparison
    by_line: Comparison
    bucketed: Report
    shuffled: Report
    history: History = attrs.field(repr=False)


@attrs.frozen
class LineResult:
    """The result of task two.

    Attributes:
        predicted: the predicted kind of each held-out line.
        by_line: the accuracy.
        history: the loss of the epoch.
    """

    predicted: Sequence[str] = attrs.field(repr=False)
    by_line: Comparison
    history: History = attrs.field(repr=False)


@attrs.frozen
class LinePrediction:
    """A line with the predicted class of each character and the predicted kind."""

    line: Line
    classes: Sequence[str]
    kind: str

    @property
    def mistakes(self) -> list[int]:
        """The positions of the characters with a wrong class."""
        pairs = zip(self.classes, self.line.classes, strict=True)
        return [position for position, (predicted, right) in enumerate(pairs) if predicted != right]

    @property
    def missed(self) -> list[str]:
        """The right classes of those characters, each once, from left to right."""
        return list(dict.fromkeys(self.line.classes[position] for position in self.mistakes))


@attrs.frozen
class Result:
    """The result of a run.

    Attributes:
        page: the HTML page that was written.
        training: the training lines.
        held_out: the held-out lines, of other files.
        epochs: the number of epochs of task one.
        one, two: the results of the tasks.
        saved: the pipe of task one, saved and loaded again.
        seconds: the time of the whole run.
    """

    page: Path
    training: Sequence[Line] = attrs.field(repr=False)
    held_out: Sequence[Line] = attrs.field(repr=False)
    epochs: int
    one: CharacterResult
    two: LineResult
    saved: SavedPipe
    seconds: float

    @property
    def comparisons(self) -> tuple[Comparison, Comparison, Comparison]:
        """All comparisons, in the order of the tasks."""
        return self.one.by_character, self.one.by_line, self.two.by_line

    @property
    def predictions(self) -> list[LinePrediction]:
        """The predictions of both tasks for the lines of task one."""
        kinds = dict(zip((line.text for line in self.held_out), self.two.predicted, strict=True))
        pairs = zip(self.one.lines, self.one.predicted, strict=True)
        return [LinePrediction(line, classes, kinds[line.text]) for line, classes in pairs]


@attrs.frozen
class Sample:
    """Predictions to look at, drawn at random.

    Attributes:
        wrong: some with mistakes, out of `all_wrong`.
        right: some without mistakes, out of `all_right`.
    """

    wrong: Sequence[LinePrediction]
    right: Sequence[LinePrediction]
    all_wrong: int
    all_right: int


def draw_sample(predictions: Sequence[LinePrediction], number: int, *, max_length: int | None = None) -> Sample:
    """Draw predictions, the same ones at every call: up to half of them with mistakes, the rest without.

    Args:
        predictions: the predictions to draw from.
        number: the number to draw.
        max_length: leave out longer lines.
    """
    # A fixed seed of its own: the lines shown are not picked by hand.
    rng = random.Random(0)
    wrong = [prediction for prediction in predictions if prediction.mistakes]
    right = [prediction for prediction in predictions if not prediction.mistakes]
    short_wrong, short_right = (
        [prediction for prediction in group if max_length is None or len(prediction.classes) <= max_length]
        for group in (wrong, right)
    )
    some_wrong = rng.sample(short_wrong, min(len(short_wrong), number // 2))
    some_right = rng.sample(short_right, min(len(short_right), number - len(some_wrong)))
    return Sample(some_wrong, some_right, len(wrong), len(right))


def split_into_runs(line: Line, predicted: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Split a line where the predicted or the right class changes: yield text, predicted class and right class."""
    for names, run in groupby(zip(predicted, line.classes, line.text, strict=True), key=itemgetter(0, 1)):
        yield "".join(character for *_, character in run), *names


def score_characters(predicted: Sequence[Sequence[str]], lines: Sequence[Line]) -> float:
    """Compute the share of characters with the right class."""
    pairs = zip(predicted, lines, strict=True)
    return score([name == right for names, line in pairs for name, right in zip(names, line.classes, strict=True)])


def score_lines(predicted: Sequence[Sequence[str]], lines: Sequence[Line]) -> float:
    """Compute the share of lines whose characters all have the right class."""
    return score([list(names) == list(line.classes) for names, line in zip(predicted, lines, strict=True)])


def score(right: Sequence[bool]) -> float:
    """Compute the share of True."""
    return sum(right) / len(right)


def shuffle_batches(lengths: Sequence[int], batches: Sequence[Report], seed: int) -> Report:
    """Compute the padding of the same rows in batches of the same sizes, filled at random instead of by length."""
    remaining = iter(random.Random(seed).sample(lengths, len(lengths)))
    filled = [[next(remaining) for _ in range(batch.rows)] for batch in batches]
    return sum((Report(1, len(rows), sum(rows), len(rows) * max(rows)) for rows in filled), start=Report())
