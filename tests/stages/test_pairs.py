"""Pairs of texts: planned by both lengths, each side padded to its own, read by one encoder or two, and compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline import (
    Bucket,
    Chain,
    Example,
    FromColumns,
    FromIds,
    Ids,
    Labels,
    Pad,
    Padded,
    Row,
    Scores,
    Sides,
    TextPair,
    Tokenize,
    TokenizePair,
    TokenizeWords,
    matcher,
    read,
)
from pipeline.batching import Budget, Shapes
from pipeline.errors import LengthError, OptionError, TextError
from pipeline.loading import Loader, PlannedBatches, RowDataset
from pipeline.sources import Csv
from support.records import make_ids
from support.untyped import as_any, seed, to_list

LENGTHS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30)
PAIRS = TokenizePair(FromIds())


def make_rows(lengths: Sequence[tuple[int, int]]) -> list[Row[TextPair]]:
    """Return pairs of these lengths."""
    return list(PAIRS.map([([row] * first, [row] * second) for row, (first, second) in enumerate(lengths)]))


def count_padded(batch: list[Row[TextPair]]) -> int:
    """Return the padded steps of both sides."""
    firsts, seconds = ([len(getattr(row.sequence, side)) for row in batch] for side in ("first", "second"))
    return len(batch) * (max(firsts) + max(seconds))


@given(lengths=LENGTHS, budget=st.integers(18, 60), buffer_size=st.one_of(st.none(), st.integers(1, 20)))
def test_a_budget_counts_the_padded_steps_of_both_sides(
    lengths: list[tuple[int, int]], budget: int, buffer_size: int | None
) -> None:
    """Every pair is in one batch, in training and in prediction; reports count both sides, too."""
    bucket = Bucket(TextPair, max_padded_steps=budget, buffer_size=buffer_size)
    rows = make_rows(lengths)
    pad = Pad(TextPair, policy=bucket.policy)
    for batches in (list(bucket(rows)), list(bucket.predict_batches(rows))):
        assert sorted(row.row_id for batch in batches for row in batch) == list(range(len(rows)))
        for batch in batches:
            padded = pad(batch)
            assert padded.report().padded == count_padded(batch) <= budget
            assert padded.report().steps == sum(map(sum, (lengths[row.row_id] for row in batch)))
            assert padded.fields is not None
            for side, field in padded.fields.items():
                assert field.width == max(len(getattr(row.sequence, side)) for row in batch)


def test_planning_by_both_lengths_saves_padding() -> None:
    """Pairs of equal longest sides may differ in the other: sorted by the longest side, they are padded to it."""
    generator = torch.Generator().manual_seed(0)
    lengths = [(int(a), int(b)) for a, b in torch.randint(1, 50, (2000, 2), generator=generator)]
    rows = make_rows(lengths)
    planned = sum(map(count_padded, Bucket(TextPair, max_padded_steps=2000)(rows)))
    by_longest = sorted(rows, key=len)
    one_length = sum(count_padded(by_longest[start : start + 25]) for start in range(0, 2000, 25))
    assert planned < 1.15 * sum(map(sum, lengths)) < 0.9 * one_length


def test_pairs_over_the_budget_raise_are_alone_or_lose_steps_of_the_longer_side() -> None:
    """In prediction they are alone."""
    rows = make_rows([(9, 3), (2, 2)])
    with pytest.raises(LengthError, match="row 0 has 12 steps, but Budget"):
        list(Bucket(TextPair, max_padded_steps=10)(rows))
    for batches in (
        Bucket(TextPair, max_padded_steps=10, too_long="alone")(rows),
        Bucket(TextPair, max_padded_steps=10).predict_batches(rows),
    ):
        assert sorted(count_padded(batch) for batch in batches) == [4, 12]
    for budget, expected in ((10, [7, 3]), (5, [2, 2]), (4, [2, 2])):
        cut = next(
            row
            for batch in Bucket(TextPair, max_padded_steps=budget, too_long="truncate")(rows)
            for row in batch
            if not row.row_id
        )
        assert [len(side) for side in cut.sequence.get_sequences().values()] == expected


@attrs.frozen(eq=False)
class Triple(Sides):
    """A question, a right answer and a wrong one."""

    question: Ids
    right: Ids
    wrong: Ids


@given(lengths=st.lists(st.tuples(*[st.integers(0, 9)] * 3), max_size=30), budget=st.integers(27, 90))
def test_a_budget_counts_the_padded_steps_of_three_sides(lengths: list[tuple[int, ...]], budget: int) -> None:
    """Rows with more than two sides are planned by all of them."""
    rows = [Row(Triple(*[make_ids([1] * side) for side in sides]), row_id=row) for row, sides in enumerate(lengths)]
    batches = list(Bucket(Triple, max_padded_steps=budget)(rows))
    assert sorted(row.row_id for batch in batches for row in batch) == list(range(len(rows)))
    for batch in batches:
        padded = len(batch) * sum(map(max, zip(*(lengths[row.row_id] for row in batch), strict=True)))
        assert Pad(Triple)(batch).report().padded == padded <= budget


def test_three_sides_over_the_budget_lose_steps_of_the_longest() -> None:
    """Shorter ones keep theirs; what they leave is shared."""
    row = Row(Triple(make_ids([1] * 2), make_ids([1] * 9), make_ids([1] * 7)))
    (batch,) = Bucket(Triple, max_padded_steps=10, too_long="truncate")([row])
    assert [len(side) for side in batch[0].sequence.get_sequences().values()] == [2, 4, 4]


def test_a_policy_that_needs_one_length_raises() -> None:
    """With both lengths, rounding could exceed the budget."""
    rows = make_rows([(3, 1)])
    for policy in (Shapes([(2, 8)]), Budget(16, multiple_of=4)):
        with pytest.raises(OptionError, match="one length per row"):
            list(Bucket(TextPair, policy=policy)(rows))
    with pytest.raises(LengthError, match="a batch of 2 rows of up to 7 steps exceeds the limits"):
        Pad(TextPair, policy=Budget(10))(make_rows([(3, 1), (1, 4)]))


def test_an_epoch_of_pairs_resumes() -> None:
    """From the cursor after any batch."""
    rows = make_rows([(row % 7, row % 5) for row in range(60)])
    bucket = Bucket(TextPair, max_padded_steps=40)
    found = list(bucket.resume(rows, as_any(bucket)._epochs.position))
    for index in (0, len(found) // 2):
        rest = [batch for batch, _ in bucket.resume(rows, found[index][1])]
        expected = [batch for batch, _ in found[index + 1 :]]
        assert [[row.row_id for row in batch] for batch in rest] == [
            [row.row_id for row in batch] for batch in expected
        ]


def test_a_loader_reads_pairs_that_are_planned_by_both_lengths() -> None:
    """With the batches of `Bucket`, in a worker."""
    lengths = [(row % 7, row % 5) for row in range(30)]
    examples = [Example(([row] * first, [row] * second), target=row) for row, (first, second) in enumerate(lengths)]
    policy = Budget(30)
    loader = Loader(
        RowDataset(examples, PAIRS),
        PlannedBatches(lengths, policy, seed=0),
        Pad(TextPair, policy=policy),
        num_workers=1,
    )
    found = [to_list(batch.row_ids) for batch in loader]
    assert found == [
        [row.row_id for row in batch] for batch in Bucket(TextPair, policy=policy, seed=0)(make_rows(lengths))
    ]


@pytest.mark.parametrize("shared", [True, False])
def test_a_pair_equals_its_texts_by_themselves(shared: bool) -> None:
    """The plain loop in float64: read each text alone, put u, v, |u - v| and u * v side by side, and classify."""
    seed(0)
    model = matcher(9, 3, embedding_dim=4, hidden_size=5, shared=shared).double()
    batch = Pad(TextPair, value=7)(make_rows([(3, 1), (0, 4), (2, 0), (5, 5)]))
    found = model(batch).values
    stages = as_any(model).stages
    join, classify = stages["join"], stages["classify"]
    expected: list[Tensor] = []
    for row in range(4):
        vectors: list[Tensor] = []
        for side, branch in zip(("first", "second"), join.branches.values(), strict=True):
            assert batch.fields is not None
            field = batch.fields[side]
            ids = field.values[row : row + 1, : int(field.lengths[row])]
            alone = Padded(Ids, ids, field.lengths[row : row + 1])
            for stage in list(branch.stages.values())[1:]:
                alone = stage(alone)
            vectors.append(as_any(alone).values[0])
        u, v = vectors
        expected.append(classify.linear(torch.cat([u, v, (u - v).abs(), u * v])))
    torch.testing.assert_close(found, torch.stack(expected))
    readers = sum(name.endswith("weight_ih_l0") for name, _ in model.named_parameters())
    assert readers == (1 if shared else 2)


def train(pipe: Chain[Any, Scores[str]], data: Any, examples: list[Example[tuple[str, str]]]) -> None:
    """Train until the loss is small."""
    optimizer = torch.optim.Adam(as_any(pipe).parameters(), lr=0.02)
    for _ in range(30):
        for batch in data(examples):
            optimizer.zero_grad()
            torch.autograd.backward(pipe(batch).loss())
            as_any(optimizer).step()


def test_a_matcher_learns_and_predicts_pairs_of_texts(tmp_path: Path) -> None:
    """Whether two words are the same; from tuples, and from a file with two columns."""
    seed(0)
    words = list("abcdef")
    examples = [Example((a, f"x {b}"), "same" if a == b else "other") for a in words for b in words]
    examples += [example for example in examples if example.target == "same"] * 4
    tokenize = Tokenize.train(["a b c d e f x"])
    labels = Labels(["other", "same"])
    data = TokenizePair(tokenize) >> Bucket(TextPair, max_padded_steps=60) >> Pad(TextPair, labels=labels)
    model = matcher(tokenize.vocab_size, labels, embedding_dim=8, hidden_size=8, encoder="gru")
    train(model, data, examples)
    model.eval()
    pipe = data >> model
    predicted = list(pipe.predict([("a", "x a"), ("a", "x b"), ("d", "x d")]))
    assert predicted == ["same", "other", "same"]
    file = tmp_path / "pairs.csv"
    file.write_text("question,answer,label\na,x a,same\na,x b,other\nd,x d,same\n", encoding="utf-8")
    source = Csv(file, inputs=("question", "answer"), target="label")
    columns = FromColumns(TextPair, first=read(tokenize, "question"), second=read(tokenize, "answer"))
    from_file = columns >> Bucket(TextPair, max_padded_steps=60) >> Pad(TextPair, labels=labels) >> model
    assert list(from_file.predict(source.inputs())) == predicted == list(source.targets())


def test_inputs_that_are_no_pairs_raise_with_the_row() -> None:
    """And errors of a text say which."""
    pairs = TokenizePair(Tokenize.train(["a"]))
    for wrong in ("ab", ("a",), ("a", "b", "c"), None):
        with pytest.raises(
            TextError, match=r"row 1 must be a pair of texts, got .*; pass pairs: \[\(first, second\), \.\.\.\]"
        ):
            list(pairs.map([("a", "a"), as_any(wrong)]))
    with pytest.raises(TextError, match="second text: row 1 must be text, got an int"):
        list(pairs.map([("a", "a"), as_any(("a", 3))]))
    words = TokenizePair(TokenizeWords.train([["a", "b"]]), TokenizeWords.train([["b"]]))
    row = words(Example((["a", "b"], ["b"]), target=1))
    assert (to_list(row.sequence.second.values), row.target) == ([4], 1)
