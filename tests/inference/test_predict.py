"""Predictions with scores: each equals that of its row alone, in input order, with its place in the input."""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from typing_extensions import override

from pipeline import (
    Bucket,
    Classify,
    ClassifyMultiLabel,
    ClassPrediction,
    EachStep,
    Embed,
    EmbedFields,
    Encode,
    Example,
    Fields,
    FromColumns,
    FromFeatures,
    FromIds,
    FromNested,
    Heads,
    Identity,
    Ids,
    Join,
    Labels,
    Nested,
    NextToken,
    Pad,
    Padded,
    Pool,
    Regress,
    Scores,
    Sides,
    Stage,
    Tag,
    Tokenize,
    TokenizeWords,
    Vectors,
    read,
    tagger,
    through,
)
from pipeline.batching import Shapes
from pipeline.core.contexts import seeded
from pipeline.data.tensors import to_floats
from pipeline.errors import OptionError
from pipeline.inference.locator import Locator
from pipeline_recurrent import LSTM

ROWS = [[5, 6, 7], [3], [], [4, 4, 8, 2, 1, 6], [1, 2]]
LABELS = Labels(["ham", "spam", "egg"])
TEXTS = ["A fine film.", "", "dull", "what a very dull evening this was"]
WORDS = [["New", "York", "is", "big"], [], ["unbelievably", "so"]]


def make_body(tokens: int = 9) -> Any:
    """Return a model from ids to states, in float64."""
    with seeded(0):
        return (Embed(tokens, 3) >> Encode(LSTM(3, 4, bidirectional=True))).double()


def run_alone(model: Any, row: Sequence[int]) -> Tensor:
    """Return the scores of a row that is alone in its batch."""
    batch: Any = next(iter((FromIds() >> Bucket(rows=1) >> Pad())([row])))
    with torch.no_grad():
        return cast("Tensor", model(batch).values)


def slice_text(text: str, steps: Any) -> list[str]:
    """Return what the places of predictions are in a text."""
    return [text[step.start : step.end] for step in steps]


def test_class_scores_are_those_of_each_row_alone() -> None:
    """Label, probability and all classes, sorted, in input order: batches are sorted by length."""
    model = (make_body() >> Pool("max") >> Classify(LABELS)).double()
    pipe: Any = FromIds() >> Bucket(max_padded_steps=6) >> Pad() >> model
    found = list(pipe.predict([Example(row, target="?") for row in ROWS], scores=True))
    assert [each.label for each in found] == list(pipe.predict(ROWS))
    for row, each in zip(ROWS, found, strict=True):
        scores = run_alone(model, row)[0]
        shares = scores.exp() / scores.exp().sum()
        wanted = sorted(zip(LABELS, to_floats(shares), strict=True), key=lambda pair: -pair[1])
        assert [name for name, _ in each.top()] == [name for name, _ in wanted]
        assert_close([share for _, share in each.top()], [share for _, share in wanted])
        assert each.top(2) == each.top()[:2]
        assert (each.label, each.probability) == each.top(1)[0]


@pytest.mark.parametrize("k", [0, -1, True, "all"])
def test_top_rejects_numbers_that_are_none(k: Any) -> None:
    """An error, not an empty list."""
    prediction = ClassPrediction(0, 1.0, torch.zeros(2), range(2))
    with pytest.raises(OptionError, match="k must be an integer of at least 1"):
        prediction.top(k)


def test_equal_scores_give_the_first_class_everywhere() -> None:
    """The label is the first of `top`, also where probabilities are rounded to the same number."""
    scores = torch.tensor([[1.0, 1.0, 0.0], [200.0, 200.00002, 0.0]])
    model: Any = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors) >> _Constant(scores)
    found = list(model.predict([torch.ones(2, 1), torch.ones(2, 1)], scores=True))
    assert [each.label for each in found] == [each.top()[0][0] for each in found] == [0, 1]


class _Constant(Stage[Padded[Vectors], Scores]):
    """A head that returns fixed scores."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    @override
    def __call__(self, value: Padded[Vectors], /) -> Scores:
        return Scores(self.scores, range(self.scores.shape[1]), metadata=value.metadata)


def test_probabilities_of_half_precision_are_of_single_precision() -> None:
    """They are computed from the scores in float32."""
    scores = torch.tensor([[3.0, 1.0, 0.5]], dtype=torch.bfloat16)
    pipe: Any = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors) >> _Constant(scores)
    (found,) = pipe.predict([torch.ones(2, 1)], scores=True)
    assert found.probability == scores.float().softmax(1).max().item()


def test_tags_of_a_text_have_the_place_of_their_token() -> None:
    """`text[start:end]` is the token; bos and eos have no prediction."""
    tokenize = Tokenize.train(TEXTS, lowercase=True, bos=True, eos=True)
    pipe: Any = tokenize >> Bucket(max_padded_steps=9) >> Pad() >> tagger(tokenize.vocab_size, LABELS, hidden_size=3)
    found = list(pipe.predict(TEXTS, scores=True))
    assert [slice_text(*pair) for pair in zip(TEXTS, found, strict=True)] == [
        ["A", "fine", "film", "."],
        [],
        ["dull"],
        ["what", "a", "very", "dull", "evening", "this", "was"],
    ]
    assert [[each.label for each in row] for row in found] == list(pipe.predict(TEXTS))
    assert [each.step for each in found[0]] == [1, 2, 3, 4]


@pytest.mark.parametrize("ends", [{}, {"bos": True, "eos": True}])
@pytest.mark.parametrize("kind", ["whole", "bpe", "bytes"])
@pytest.mark.parametrize("offsets", [True, False])
def test_tags_of_words_have_the_place_of_their_word(kind: str, ends: Any, offsets: bool) -> None:
    """In the words joined by spaces, however many tokens a word has, and whether or not offsets are kept."""
    tokenize = TokenizeWords.train(WORDS[:1], kind, offsets=offsets, **ends)
    pipe: Any = tokenize >> Bucket(max_padded_steps=9) >> Pad() >> tagger(tokenize.vocab_size, 3, hidden_size=3)
    found = list(pipe.predict(WORDS, scores=True))
    assert [slice_text(" ".join(words), row) for words, row in zip(WORDS, found, strict=True)] == WORDS


def test_scores_of_steps_are_those_of_each_row_alone() -> None:
    """In the order of the steps, which are packed in another order."""
    model = (make_body() >> Tag(LABELS)).double()
    pipe: Any = FromIds() >> Bucket(max_padded_steps=12) >> Pad() >> model
    for row, found in zip(ROWS, pipe.predict(ROWS, scores=True), strict=True):
        assert len(found) == len(row)
        if row:
            assert_close(torch.stack([each.scores for each in found]), run_alone(model, row))
        # Ids are no text: the place is the number of the step.
        assert [row[each.start : each.end] for each in found] == [[each] for each in row]


def test_next_tokens_are_predicted_for_bos_too() -> None:
    """All steps have a prediction, at the place of the token before."""
    tokenize = Tokenize.train(TEXTS, bos=True)
    model = Embed(tokenize.vocab_size, 3) >> Encode(LSTM(3, 4)) >> NextToken(tokenize.vocab_size)
    pipe: Any = tokenize >> Bucket(rows=4) >> Pad() >> model
    (found,) = pipe.predict(["what a"], scores=True)
    assert slice_text("what a", found) == ["", "what", "a"]


def test_cut_rows_keep_the_places_of_their_steps() -> None:
    """Truncated in the input stage, or by the bucket, which cuts after rows were made."""
    for tokenize, options in (
        (Tokenize.train(TEXTS, max_length=2), {}),
        (Tokenize.train(TEXTS), {"too_long": "truncate"}),
    ):
        bucket = Bucket(max_padded_steps=2, **cast("Any", options))
        pipe: Any = tokenize >> bucket >> Pad() >> tagger(tokenize.vocab_size, 3, hidden_size=3)
        found = list(pipe.predict(TEXTS, scores=True))
        assert [slice_text(*pair) for pair in zip(TEXTS, found, strict=True)][3] == ["what", "a"]


def test_unknown_places_raise_only_where_they_are_read() -> None:
    """Without offsets, and with a stage that changes the text before it is tokenized."""

    class Lower(Stage[str, str]):
        @override
        def __call__(self, value: str, /) -> str:
            return value.strip()

    silent = Tokenize.train(TEXTS, offsets=False)
    for data in (silent, cast("Any", Lower() >> Tokenize.train(TEXTS))):
        pipe: Any = data >> Bucket(rows=4) >> Pad() >> tagger(silent.vocab_size, 3, hidden_size=3)
        (found,) = pipe.predict([" dull"], scores=True)
        assert 0 < found[0].probability < 1
        with pytest.raises(OptionError, match="place of this step in its input is not known"):
            _ = found[0].start


def test_many_labels_have_all_probabilities() -> None:
    """The chosen ones are those whose probability reaches their threshold."""
    head = ClassifyMultiLabel(LABELS, threshold=0.5)
    model = (make_body() >> Pool("mean") >> head).double()
    pipe: Any = FromIds() >> Bucket(max_padded_steps=6) >> Pad() >> model
    for row, each in zip(ROWS, pipe.predict(ROWS, scores=True), strict=True):
        shares = dict(zip(LABELS, to_floats(1 / (1 + (-run_alone(model, row)[0]).exp())), strict=True))
        assert each.labels == [name for name, share in shares.items() if share >= 0.5]
        assert_close(dict(each.top()), dict(sorted(shares.items())))
        assert [share for _, share in each.top()] == sorted((share for _, share in each.top()), reverse=True)


def test_heads_keep_their_joint_prediction_and_add_their_scores() -> None:
    """A number has no score, so it is the prediction itself."""

    @attrs.frozen
    class Verdict:
        label: str
        amount: float
        steps: list[int]

    body = make_body()
    pooled = Pool("max") >> Classify(LABELS), Pool("max") >> Regress()
    pipe: Any = FromIds() >> Bucket(max_padded_steps=6) >> Pad() >> body >> Heads(*pooled, Tag(2), into=Verdict)
    pipe.double()
    for row, plain, each in zip(ROWS, pipe.predict(ROWS), pipe.predict(ROWS, scores=True), strict=True):
        assert each.prediction == plain
        label, amount, steps = each.heads
        assert (label.label, amount) == (plain.label, plain.amount)
        assert [step.label for step in steps] == plain.steps
        assert [row[step.start : step.end] for step in steps] == [[token] for token in row]


@attrs.frozen(eq=False)
class Word(Fields):
    """A word and a number."""

    word: Ids
    size: Vectors


@attrs.frozen(eq=False)
class Pair(Sides):
    """Two texts."""

    first: Ids
    second: Ids


def test_tags_of_rows_with_fields_have_the_place_in_the_field_of_ids() -> None:
    """The words of a column."""
    words = TokenizeWords.train(WORDS[:1])
    data = FromColumns(Word, word=read(words), size=read(FromFeatures(), "number"))
    fields = EmbedFields(Word, word=through(Embed(words.vocab_size, 3)), size=through(Identity(1)))
    pipe: Any = data >> Bucket(Word, rows=4) >> Pad(Word) >> fields >> Encode("gru", hidden_size=3) >> Tag(2)
    rows: list[dict[str, Any]] = [{"word": words, "number": [1.0] * len(words)} for words in (["New", "York"], ["big"])]
    found = list(pipe.predict(rows, scores=True))
    assert [slice_text(" ".join(row["word"]), each) for row, each in zip(rows, found, strict=True)] == [
        ["New", "York"],
        ["big"],
    ]


def test_steps_of_nested_rows_are_numbered() -> None:
    """A document's sentences are the items of a list."""
    data = FromNested(Tokenize.train(TEXTS))
    spell = EachStep(Embed(40, 3) >> Encode("gru", hidden_size=3) >> Pool("max"))
    kind = Nested[Ids]
    pipe: Any = data >> Bucket(kind, rows=4) >> Pad(kind) >> spell >> Encode("gru", hidden_size=3) >> Tag(2)
    document = ["dull", "a film"]
    (found,) = pipe.predict([document], scores=True)
    assert [document[each.start : each.end] for each in found] == [["dull"], ["a film"]]


def make_long_pipes() -> list[tuple[Any, list[Any]]]:
    """Return pipes with a budget of 4 padded steps, and inputs of which one is longer: rows, pairs and fields."""
    words = TokenizeWords.train(WORDS[:1])
    record = FromColumns(Word, word=read(words), size=read(FromFeatures()))
    fields = EmbedFields(Word, word=through(Embed(9, 3)), size=through(Identity(1)))
    read_side = Embed(9, 3) >> Encode("gru", hidden_size=3) >> Pool("max")
    both = Join(Pair.first >> read_side, Pair.second >> read_side)
    head = Classify(2)
    rows = [{"word": list("abcdefg"), "size": [1.0] * 7}, {"word": ["a"], "size": [2.0]}]
    pairs = [{"first": [1, 2], "second": [1] * 9}, {"first": [3], "second": [4]}]
    sides = FromColumns(Pair, first=read(FromIds()), second=read(FromIds()))
    return [
        (FromIds() >> Bucket(max_padded_steps=4) >> Pad() >> read_side >> Classify(2), [[1] * 7, [2], []]),
        (
            record
            >> Bucket(Word, max_padded_steps=4)
            >> Pad(Word)
            >> fields
            >> Encode("gru", hidden_size=3)
            >> Pool("max")
            >> Classify(2),
            rows,
        ),
        (sides >> Bucket(Pair, max_padded_steps=4) >> Pad(Pair) >> both >> head, pairs),
    ]


@pytest.mark.parametrize("which", range(3), ids=["ids", "fields", "pairs"])
def test_rows_above_the_budget_are_predicted_alone(which: int) -> None:
    """A long row is no error in prediction, and has the scores that it has alone."""
    pipe, inputs = make_long_pipes()[which]
    with pytest.raises(Exception, match="at most 4"):
        list(pipe(inputs))
    found = list(pipe.predict(inputs, scores=True))
    assert len(found) == len(inputs)
    for given, each in zip(inputs, found, strict=True):
        (alone,) = pipe.predict([given], scores=True)
        assert_close(each.scores, alone.scores)


def test_nothing_is_kept_of_rows_that_were_predicted() -> None:
    """A long stream is predicted lazily, in the memory of a few batches."""
    tokenize = Tokenize.train(TEXTS)
    pipe: Any = tokenize >> Bucket(rows=2, buffer_size=4) >> Pad() >> tagger(tokenize.vocab_size, 2, hidden_size=3)
    held: list[Locator] = []
    plain = Locator.see_row

    def see_row(self: Locator, row: object) -> None:
        held.append(self)
        plain(self, row)
        # The input stage reads up to 256 inputs ahead, the bucket 4 rows.
        assert len(self.rows) <= 8
        assert len(self.inputs) <= 256 + 8

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Locator, "see_row", see_row)
        assert sum(1 for _ in pipe.predict(("a film" for _ in range(1_000)), scores=True)) == 1_000
    assert not held[0].rows
    assert not held[0].inputs


HEADS: dict[str, Callable[[], Any]] = {
    "classify": lambda: Pool("max") >> Classify(LABELS),
    "tag": lambda: Tag(LABELS),
    "several": lambda: Pool("max") >> ClassifyMultiLabel(LABELS),
    "number": lambda: Pool("max") >> Regress(),
    "heads": lambda: Heads(Pool("max") >> Classify(LABELS), Tag(2)),
}


@pytest.mark.parametrize("head", HEADS)
def test_fillers_have_no_prediction_with_scores(head: str) -> None:
    """Rows that fill a batch up to its fixed shape belong to no input."""
    shapes = Shapes([(4, 8)])
    pipe: Any = FromIds() >> Bucket(policy=shapes) >> Pad(policy=shapes) >> make_body() >> HEADS[head]()
    assert len(list(pipe.double().predict(ROWS, scores=True))) == len(ROWS)


@pytest.mark.parametrize("head", ["classify", "tag", "several"])
def test_a_pickled_prediction_is_equal_and_small(head: str) -> None:
    """Its scores are a view of those of the batch, which are not pickled."""
    classes = Labels([str(number) for number in range(50)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "LABELS", classes)
        pipe: Any = FromIds() >> Bucket(rows=100) >> Pad() >> make_body() >> HEADS[head]()
    found = list(pipe.double().predict([[5]] * 100, scores=True))
    first = found[0][0] if head == "tag" else found[0]
    data = pickle.dumps(first)
    # 50 scores and the names, instead of 5,000 scores.
    assert len(data) < 5_000
    for copied in (pickle.loads(data), copy.deepcopy(first)):
        assert copied.top() == first.top()
        assert (type(copied), repr(copied)) == (type(first), repr(first))
