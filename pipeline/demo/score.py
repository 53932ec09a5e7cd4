"""What was answered beside what is right: how much of it is, and what bucketing saved on the way."""

import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import attrs

from pipeline import Report
from pipeline.demo.source import Line


@attrs.frozen
class Contest:
    """What share was right, by the model and by a rule to measure it against.

    Attributes:
        asked: what was asked for.
        model: the model's share, from 0 to 1.
        baseline: the rule's share.
        rule: how the rule answers.
    """

    asked: str
    model: float
    baseline: float
    rule: str


@attrs.frozen
class Highlighted:
    """What came of act one.

    Attributes:
        asked: the held-out lines that it was asked about.
        given: the classes that it gave each of them.
        own: the lines of the pipe's own source, and the classes that it gave them.
        characters, lines: the shares of them that were right.
        bucketed: the batches of one epoch.
        unbucketed: what they would have been had their rows been drawn by lot.
        losses: one a step.
    """

    asked: Sequence[Line] = attrs.field(repr=False)
    given: Sequence[Sequence[str]] = attrs.field(repr=False)
    own: Sequence[tuple[Line, Sequence[str]]] = attrs.field(repr=False)
    characters: Contest
    lines: Contest
    bucketed: Report
    unbucketed: Report
    losses: Sequence[float] = attrs.field(repr=False)


@attrs.frozen
class Sorted:
    """What came of act two.

    Attributes:
        given: the kind that it gave each held-out line.
        kinds: the share of them that was right.
        losses: one a step.
    """

    given: Sequence[str] = attrs.field(repr=False)
    kinds: Contest
    losses: Sequence[float] = attrs.field(repr=False)


@attrs.frozen
class Answer:
    """A line, the class that act one gave each of its characters, and the kind that act two gave it."""

    line: Line
    classes: Sequence[str]
    kind: str

    @property
    def mistakes(self) -> list[int]:
        """The places of the characters that were given a wrong class."""
        pairs = zip(self.classes, self.line.classes, strict=True)
        return [place for place, (given, right) in enumerate(pairs) if given != right]

    @property
    def missed(self) -> list[str]:
        """The classes that those characters have, each once, from left to right."""
        return list(dict.fromkeys(self.line.classes[place] for place in self.mistakes))


@attrs.frozen
class Result:
    """What a run of the demo measured.

    Attributes:
        page: the page that it wrote.
        training: the lines that it learned from.
        held_out: the lines of other files that it was asked about.
        epochs: how often act one went through its lines.
        one, two: what came of the acts.
        seconds: how long all of it took.
    """

    page: Path
    training: Sequence[Line] = attrs.field(repr=False)
    held_out: Sequence[Line] = attrs.field(repr=False)
    epochs: int
    one: Highlighted
    two: Sorted
    seconds: float

    @property
    def contests(self) -> tuple[Contest, Contest, Contest]:
        """All that was asked, in the order of the acts."""
        return self.one.characters, self.one.lines, self.two.kinds

    @property
    def answers(self) -> list[Answer]:
        """What both acts said of act one's lines."""
        kinds = dict(zip((line.text for line in self.held_out), self.two.given, strict=True))
        return [
            Answer(line, names, kinds[line.text]) for line, names in zip(self.one.asked, self.one.given, strict=True)
        ]


@attrs.frozen
class Sample:
    """Predictions to look at, drawn by lot.

    Attributes:
        wrong: some with mistakes, out of `all_wrong`.
        right: some without any, out of `all_right`.
    """

    wrong: Sequence[Answer]
    right: Sequence[Answer]
    all_wrong: int
    all_right: int


def drawn(answers: Sequence[Answer], number: int, *, longest: int | None = None) -> Sample:
    """So many answers, the same ones at every call: up to half of them with mistakes, the others without any.

    Args:
        answers: what to draw from.
        number: how many.
        longest: draw no line with more characters.
    """
    # A seed of its own, and never another: nobody picked what is shown.
    draw = random.Random(0)
    wrong = [answer for answer in answers if answer.mistakes]
    right = [answer for answer in answers if not answer.mistakes]
    short_wrong, short_right = (
        [answer for answer in some if longest is None or len(answer.classes) <= longest] for some in (wrong, right)
    )
    some = draw.sample(short_wrong, min(len(short_wrong), number // 2))
    others = draw.sample(short_right, min(len(short_right), number - len(some)))
    return Sample(some, others, len(wrong), len(right))


def runs(line: Line, given: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """A line in pieces whose characters were given one class, and have one: text, class given, right class."""
    for names, run in groupby(zip(given, line.classes, line.text, strict=True), key=itemgetter(0, 1)):
        yield "".join(character for *_, character in run), *names


def characters_right(given: Sequence[Sequence[str]], lines: Sequence[Line]) -> float:
    """The share of characters that were given their class."""
    pairs = zip(given, lines, strict=True)
    return share([name == right for names, line in pairs for name, right in zip(names, line.classes, strict=True)])


def lines_right(given: Sequence[Sequence[str]], lines: Sequence[Line]) -> float:
    """The share of lines whose every character was given its class."""
    return share([list(names) == list(line.classes) for names, line in zip(given, lines, strict=True)])


def share(right: Sequence[bool]) -> float:
    """The share that is True."""
    return sum(right) / len(right)


def unbucketed(lengths: Sequence[int], batches: Sequence[Report], seed: int) -> Report:
    """What the same rows cost in batches of the same sizes, filled by lot instead of by length."""
    left = iter(random.Random(seed).sample(lengths, len(lengths)))
    filled = [[next(left) for _ in range(batch.rows)] for batch in batches]
    return sum((Report(1, len(rows), sum(rows), len(rows) * max(rows)) for rows in filled), start=Report())
