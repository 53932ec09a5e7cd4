"""Test F1 of spans against the script of the CoNLL shared tasks, written as a loop over steps."""

import copy
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import StepScores, Values
from pipeline.builtin.span_f1 import SpanF1, has_span_tags
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.errors import OptionError, TargetError
from pipeline.registry import registry

BIO = ["O", "B-per", "I-per", "B-org", "I-org"]
BIOES = [*BIO, "E-per", "S-per", "E-org", "S-org"]
Tags = Sequence[str | None]


def split(tag: str) -> tuple[str, str]:
    """Return the prefix and the type of a tag."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def ends_span(before: tuple[str, str], after: tuple[str, str]) -> bool:
    """Return whether a span ends between two tags, as conlleval's endOfChunk, with S for a span of one step."""
    (old, old_kind), (new, new_kind) = before, after
    return old in {"E", "S"} or (old in {"B", "I"} and new in {"B", "S", "O"}) or (old != "O" and old_kind != new_kind)


def begins_span(before: tuple[str, str], after: tuple[str, str]) -> bool:
    """Return whether a span begins between two tags, as conlleval's startOfChunk, with S for a span of one step."""
    (old, old_kind), (new, new_kind) = before, after
    return new in {"B", "S"} or (old in {"E", "S", "O"} and new in {"E", "I"}) or (new != "O" and old_kind != new_kind)


def list_spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Return the first step, the step after the last, and the type of each span of a row."""
    spans: set[tuple[int, int, str]] = set()
    before, start = ("O", ""), 0
    for step, tag in enumerate([*map(split, tags), ("O", "")]):
        if ends_span(before, tag):
            spans.add((start, step, before[1]))
        if begins_span(before, tag):
            start = step
        before = tag
    return spans


def count_spans(rows: Sequence[Tags], found: Sequence[Sequence[str]]) -> dict[str, tuple[int, int, int]]:
    """Count spans of targets, predicted and correct ones by type; steps without a target are left out."""
    wanted, predicted, correct = Counter[str](), Counter[str](), Counter[str]()
    for targets, tags in zip(rows, found, strict=True):
        pairs = [(target, tag) for target, tag in zip(targets, tags, strict=True) if target is not None]
        ours, theirs = list_spans([target for target, _ in pairs]), list_spans([tag for _, tag in pairs])
        for counter, spans in ((wanted, ours), (predicted, theirs), (correct, ours & theirs)):
            counter.update(kind for _, _, kind in spans)
    return {kind: (wanted[kind], predicted[kind], correct[kind]) for kind in wanted | predicted}


def make_scores(names: Sequence[str], rows: Sequence[Tags], found: Sequence[Sequence[str]]) -> StepScores[str]:
    """Return scores whose best tags are given, packed, with padded targets."""
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    targets = torch.full((len(rows), width), IGNORED)
    for cells, row in zip(targets, rows, strict=True):
        cells[: len(row)] = torch.tensor(
            [IGNORED if tag is None else names.index(tag) for tag in row], dtype=torch.int64
        )
    metadata = BatchMetadata(torch.arange(len(rows)), targets=targets)
    empty = StepScores(torch.zeros(int(lengths.sum()), len(names)), lengths, names, metadata=metadata)
    flat = torch.tensor([names.index(tag) for tags in found for tag in tags], dtype=torch.int64)
    values = torch.zeros(len(flat), len(names))
    values[empty.order.reading_order] = torch.nn.functional.one_hot(flat, len(names)).float()
    return empty.with_values(values)


def compute(names: Sequence[str], rows: Sequence[Tags], found: Sequence[Sequence[str]]) -> float:
    """Return F1 of one batch."""
    metric = SpanF1()
    metric.update(make_scores(names, rows, found))
    return metric.compute()


@st.composite
def draw_tags(draw: st.DrawFn, names: Sequence[str]) -> tuple[list[list[str | None]], list[list[str]]]:
    """Draw rows of targets, some of which are missing, and of predicted tags, in any order of tags."""
    lengths = draw(st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(any))
    one = st.sampled_from(names)
    found = [[draw(one) for _ in range(length)] for length in lengths]
    # Mostly correct, so that some spans agree.
    targets = [[draw(st.sampled_from([tag, tag, tag, None, *names])) for tag in row] for row in found]
    return targets, found


@pytest.mark.parametrize("names", [BIO, BIOES])
@given(data=st.data())
def test_counts_equal_those_of_the_script(names: Sequence[str], data: st.DataObject) -> None:
    """For valid and invalid sequences, empty rows, and steps without a target."""
    targets, found = data.draw(draw_tags(names))
    metric = SpanF1()
    metric.update(make_scores(names, targets, found))
    counts = {kind: each for kind, each in metric.counts_by_type().items() if any(each)}
    expected = count_spans(targets, found)
    assert counts == {kind: each for kind, each in expected.items() if any(each)}
    wanted, predicted, correct = (sum(each[index] for each in expected.values()) for index in range(3))
    if any(tag is not None for row in targets for tag in row):
        assert metric.compute() == pytest.approx(2 * correct / max(wanted + predicted, 1))


@pytest.mark.parametrize(
    ("targets", "found", "expected"),
    [
        # The examples of seqeval's page. The first compares spans, the second accepts I at the begin of a span.
        (
            [["O", "O", "O", "B-M", "I-M", "I-M", "O"], ["B-P", "I-P", "O"]],
            [["O", "O", "B-M", "I-M", "I-M", "I-M", "O"], ["B-P", "I-P", "O"]],
            0.5,
        ),
        ([["B-P", "I-P", "O"]], [["I-P", "I-P", "O"]], 1.0),
        # A span of another type, and one that is too long.
        ([["B-P", "O", "B-P", "O"]], [["B-M", "O", "B-P", "I-P"]], 0.0),
        # Two neighbors are not one span.
        ([["B-P", "B-P"]], [["B-P", "I-P"]], 0.0),
        # A span does not continue in the next row.
        ([["O", "B-P"], ["I-P"]], [["O", "B-P"], ["B-P"]], 1.0),
        # Without spans.
        ([["O"]], [["O"]], 0.0),
    ],
)
def test_examples(targets: list[list[str]], found: list[list[str]], expected: float) -> None:
    """Published ones, and the hard cases by hand."""
    assert compute(["O", "B-P", "I-P", "B-M", "I-M"], targets, found) == pytest.approx(expected)


def test_bilou_and_tags_without_types_are_read() -> None:
    """L ends a span as E does, U is a span as S is, and B without a type is one."""
    assert compute(["O", "B-p", "I-p", "L-p", "U-p"], [["B-p", "L-p", "U-p"]], [["B-p", "I-p", "U-p"]]) == 1
    assert compute(["O", "B", "I"], [["B", "I", "O", "B"]], [["B", "I", "O", "O"]]) == pytest.approx(2 / 3)


def test_merged_counts_are_those_of_all_batches() -> None:
    """By type, also into a metric to which nothing was added."""
    batches = [make_scores(BIO, [["B-per", "O"]], [["B-per", "O"]]), make_scores(BIO, [["B-org"]], [["B-per"]])]
    whole, first, second = SpanF1(), SpanF1(), SpanF1()
    for batch, part in zip(batches, (first, second), strict=True):
        whole.update(batch)
        part.update(batch)
    merged = SpanF1()
    merged.merge(first)
    merged.merge(copy.deepcopy(second))
    assert merged.counts_by_type() == whole.counts_by_type() == {"per": (1, 2, 1), "org": (1, 0, 0)}


def test_wrong_input_is_rejected() -> None:
    """Predictions of rows, classes without names or with other names, and other classes than before."""
    metric = registry().metrics.make("span_f1")
    with pytest.raises(TargetError, match="SpanF1 must get scores of steps, StepScores, got a Values"):
        metric.update(Values[float](torch.ones(2)))
    lengths = torch.tensor([1])
    with pytest.raises(TargetError, match=r"needs the tags of spans as class names .*, got 0; use accuracy"):
        metric.update(StepScores(torch.ones(1, 2), lengths, range(2)))
    with pytest.raises(TargetError, match="needs the tags of spans as class names .*, got 'NOUN'"):
        metric.update(StepScores(torch.ones(1, 2), lengths, ["O", "NOUN"]))
    metric.update(make_scores(BIO, [["O"]], [["O"]]))
    other = SpanF1()
    other.update(make_scores(BIOES, [["O"]], [["O"]]))
    with pytest.raises(OptionError, match="SpanF1 has counts of other classes; use one for each model"):
        metric.update(make_scores(BIOES, [["O"]], [["O"]]))
    with pytest.raises(OptionError, match="SpanF1 has counts of other classes; use one for each model"):
        metric.merge(other)


def test_tags_of_spans_are_recognized() -> None:
    """Of BIO, BIOES and BILOU, with or without O; tags of words and ids are not."""
    for names in (BIO, BIOES, ["I-per", "O"], ["B", "I"], ["O", "B-p", "L-p", "U-p", "I-p"]):
        assert has_span_tags(names)
    for other in (["NOUN", "O"], ["O"], ["S", "L"], range(3), ["B-per", ""]):
        assert not has_span_tags(other)
