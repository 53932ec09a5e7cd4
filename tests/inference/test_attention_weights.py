"""Weights of attentions: of each stage, pooling and branch those of the row alone, without effect on what follows."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.testing import assert_close
from typing_extensions import override

from pipeline import (
    Attend,
    AttendEarlier,
    Attention,
    AttentionWeights,
    Bucket,
    Classify,
    Dropout,
    EachStep,
    Embed,
    Encode,
    FromIds,
    FromNested,
    Heads,
    Ids,
    Join,
    Nested,
    Pad,
    Pool,
    Sides,
    Tag,
    Tokenize,
    TokenizeWords,
)
from pipeline.core.contexts import seeded
from pipeline.errors import CompositionError, OptionError
from pipeline.stages.from_columns import FromColumns, read
from pipeline_attention import AttentionPool
from support.needs import needs
from support.untyped import to_list

ROWS = [[5, 6, 7], [3], [], [4, 4, 8, 2, 1, 6], [1, 2]]


def make_pipe(*after: Any) -> Any:
    """Return a pipe from ids to states, and other stages after it, in float64."""
    with seeded(0):
        pipe: Any = FromIds() >> Bucket(max_padded_steps=12) >> Pad() >> Embed(9, 3) >> Encode("gru", hidden_size=4)
        for stage in after:
            pipe = pipe >> stage
        return pipe.double()


def compute_states(pipe: Any, row: list[int]) -> Tensor:
    """Return the encoded steps of one row."""
    (batch,) = (FromIds() >> Bucket(rows=1) >> Pad())([row])
    with torch.no_grad():
        states: Tensor = pipe.stages["encode"](pipe.stages["embed"](batch)).packed().values
    return states


def test_weights_of_attention_are_those_of_each_row_alone() -> None:
    """The softmax of inner products, over all steps or over the earlier ones; no padding is left."""
    pipe = make_pipe(Attend("dot"), Pool("max"), Classify(2))
    earlier = make_pipe(AttendEarlier("dot"), Pool("max"), Classify(2))
    for row, found, before in zip(ROWS, pipe.attention_weights(ROWS), earlier.attention_weights(ROWS), strict=True):
        states = compute_states(pipe, row)
        scores = states @ states.T
        assert list(found.weights) == ["attend"]
        assert_close(found.weights["attend"], scores.softmax(1))
        causal = before.weights["attend_earlier"]
        for step in range(len(row)):
            wanted = torch.zeros(len(row), dtype=torch.float64)
            keys = max(1, step)
            wanted[:keys] = scores[step, :keys].softmax(0)
            assert_close(causal[step], wanted)


def test_weights_of_pooling_mix_the_steps_to_the_vector() -> None:
    """The pooled vector is the weighted mean of the steps."""
    pipe = make_pipe(Pool("attention"))
    for row, found, vector in zip(ROWS, pipe.attention_weights(ROWS), pipe.vectors(ROWS), strict=True):
        weights = found.weights["pool"]
        assert weights.shape == (len(row),)
        assert_close(weights @ compute_states(pipe, row), vector)
        if row:
            assert_close(weights.sum().item(), 1.0)


def test_weights_in_branches_and_heads_are_found() -> None:
    """Under the names of the branch and the stage; branches without attention are not run again."""
    pools = Join(Pool("attention"), Dropout(0.5) >> Pool("attention"), Pool("max"))
    heads = Heads(Pool("attention") >> Classify(2), Attend("additive") >> Tag(3), names=["row", "steps"])
    pipe, two = make_pipe(pools, Classify(2)), make_pipe(heads)
    for row, found, other in zip(ROWS, pipe.attention_weights(ROWS), two.attention_weights(ROWS), strict=True):
        assert [(name, tuple(each.shape)) for name, each in found.weights.items()] == [
            ("join.pool", (len(row),)),
            ("join.pool_2.pool", (len(row),)),
        ]
        assert [(name, tuple(each.shape)) for name, each in other.weights.items()] == [
            ("heads.row.pool", (len(row),)),
            ("heads.steps.attend", (len(row), len(row))),
        ]
        weights = [*found.weights.values(), *other.weights.values()]
        assert all(torch.allclose(each.sum(-1), each.new_ones(())) for each in weights if each.numel())


def test_spans_are_the_places_of_the_tokens() -> None:
    """One for each step, bos and eos included."""
    texts = ["A fine film", "", "dull"]
    tokenize = Tokenize.train(texts, bos=True, eos=True)
    model = Embed(9, 3) >> Encode("gru", hidden_size=3) >> Pool("attention") >> Classify(2)
    pipe: Any = tokenize >> Bucket(rows=2) >> Pad() >> model
    found = list(pipe.attention_weights(texts))
    tokens = [[text[start:end] for start, end in each.spans] for text, each in zip(texts, found, strict=True)]
    assert tokens == [["", "A", "fine", "film", ""], ["", ""], ["", "dull", ""]]
    assert [len(each.weights["pool"]) for each in found] == [5, 2, 3]


def test_pieces_of_words_have_places_of_their_own() -> None:
    """The first stands for the word, since it has its prediction; later ones are where they are in it."""
    tokenize = TokenizeWords.train([["ab"]], "characters")
    pipe: Any = tokenize >> Bucket(rows=2) >> Pad() >> Embed(9, 3) >> Encode("gru", hidden_size=3) >> Pool("attention")
    (found,) = pipe.attention_weights([["ba", "ab"]])
    assert ["ba ab"[start:end] for start, end in found.spans] == ["ba", "a", "ab", "b"]


@attrs.frozen(eq=False)
class Two(Sides):
    """Two sequences per row."""

    first: Ids
    second: Ids


def test_both_sides_of_a_pair_have_weights() -> None:
    """Each of its own length, but no common places."""
    sides = FromColumns(Two, first=read(FromIds()), second=read(FromIds()))
    side = Embed(9, 3) >> Encode("gru", hidden_size=3) >> Pool("attention")
    both = Join(Two.first >> side, Two.second >> side)
    pipe: Any = sides >> Bucket(Two, rows=4) >> Pad(Two) >> both >> Classify(2)
    pairs = [{"first": [1, 2], "second": [3]}, {"first": [], "second": [1, 2, 3]}]
    found = list(pipe.attention_weights(pairs))
    assert [[len(each) for each in row.weights.values()] for row in found] == [[2, 1], [0, 3]]
    assert [row.spans for row in found] == [None, None]


def test_a_pipe_without_attention_has_no_weights() -> None:
    """Neither among its steps nor within them."""
    kind = Nested[Ids]
    spell = EachStep(Embed(9, 3) >> Encode("gru", hidden_size=3) >> Pool("mean"))
    nested: Any = FromNested(FromIds()) >> Bucket(kind, rows=2) >> Pad(kind) >> spell
    nested = nested >> Encode("gru", hidden_size=3) >> Pool("max") >> Classify(2)
    for pipe, inputs in ((make_pipe(Pool("max"), Classify(2)), ROWS), (nested, [[[1, 2]]])):
        with pytest.raises(
            CompositionError, match=r"attention_weights needs Attend, AttendEarlier, CrossAttend or Pool\('attention"
        ):
            next(pipe.attention_weights(inputs))


class Uniform(Attention):
    """Overrides only one of `forward` and `weights`, so that `weights` are not those of the contexts."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size

    @override
    def score(self, query: Float[Tensor, "b q h"], key: Float[Tensor, "b k h"]) -> Float[Tensor, "b q k"]:
        return query @ key.mT

    @override
    def forward(
        self, query: Float[Tensor, "b q h"], key: Float[Tensor, "b k h"], mask: Bool[Tensor, "#b #q k"]
    ) -> Float[Tensor, "b q h"]:
        return query


def test_unknown_weights_are_an_error_and_leave_nothing() -> None:
    """Prediction works as before, in the mode that the model was in."""
    pipe = make_pipe(Attend(Uniform(4)), Pool("max"), Classify(2))
    before = list(pipe.predict(ROWS))
    with pytest.raises(CompositionError, match="Uniform overrides forward but not weights"):
        list(pipe.attention_weights(ROWS))
    assert list(pipe.predict(ROWS)) == before
    assert pipe.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in pipe.modules())


def test_weights_are_computed_on_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """`predict` computes none."""
    pipe = make_pipe(Attend("dot"), Pool("attention"), Classify(2))
    calls: list[object] = []
    for cls in (Attend, AttentionPool):
        monkeypatch.setattr(cls, "weights", calls.append)
    list(pipe.predict(ROWS, scores=True))
    assert not calls


def find_weights() -> AttentionWeights:
    """Return the weights of a row of three words: of an attention, and of a pooling."""
    tokenize = TokenizeWords.train([["a", "fine", "film"]])
    states = Embed(tokenize.vocab_size, 3) >> Encode("gru", hidden_size=4)
    pipe: Any = tokenize >> Bucket(rows=4) >> Pad() >> states >> Attend("dot") >> Pool("attention") >> Classify(2)
    found: AttentionWeights = next(pipe.attention_weights([["a", "fine", "film"]]))
    return found


@needs("matplotlib")
@pytest.mark.parametrize("names", [None, ["attend"], ["pool"]])
def test_weights_are_drawn(tmp_path: Path, names: list[str] | None) -> None:
    """One heat map per stage, with the tokens and the numbers; the same bytes each time."""
    weights = find_weights()
    path = weights.plot(tmp_path / "weights.svg", ["a", "$fine$", "film"], names=names)
    # Letters are shapes in the picture; their text is in comments.
    text = path.read_text(encoding="utf-8")
    shown = names or ["attend", "pool"]
    numbers = [f"{weight:.2f}" for name in shown for weight in to_list(weights.weights[name].flatten())]
    assert all(f"<!-- {each} -->" in text for each in ("$fine$", "film", *numbers))
    assert [name for name in ("attend", "pool") if f"<!-- {name}: weight of each step -->" in text] == shown
    assert weights.plot(path, ["a", "$fine$", "film"], names=names).read_text(encoding="utf-8") == text


@needs("matplotlib")
def test_a_text_is_cut_by_the_spans(tmp_path: Path) -> None:
    """A step without text, such as eos, is a dot."""
    tokenize = Tokenize.train(["a film"], eos=True)
    states = Embed(tokenize.vocab_size, 3) >> Encode("gru", hidden_size=4)
    pipe: Any = tokenize >> Bucket(rows=4) >> Pad() >> states >> Attend("dot") >> Pool("max") >> Classify(2)
    path = next(pipe.attention_weights(["a film"])).plot(tmp_path / "weights.svg", "a film")
    text = path.read_text(encoding="utf-8")
    assert all(f"<!-- {each} -->" in text for each in ("a", "film", "·"))


def test_wrong_tokens_and_names_are_rejected(tmp_path: Path) -> None:
    """Another number of tokens, a text without spans, no such stage, and a row without steps."""
    weights, file = find_weights(), tmp_path / "weights.svg"
    with pytest.raises(
        OptionError, match="tokens must have one text for each of 3 steps, got 2; pass the steps of this"
    ):
        weights.plot(file, ["a", "film"])
    with pytest.raises(OptionError, match=r"names must be some of the stages attend, pool, got \['pol'\]"):
        weights.plot(file, ["a", "fine", "film"], names=["pol"])
    with pytest.raises(
        OptionError, match="tokens must be one text per step, since their places in the text are not known"
    ):
        attrs.evolve(weights, spans=None).plot(file, "a fine film")
    with pytest.raises(OptionError, match="the row has no steps, so that there are no weights to draw"):
        AttentionWeights({"pool": torch.zeros(0)}, None).plot(file, [])


def test_documents_have_weights_of_words_and_of_sentences() -> None:
    """Those of a sentence's words are those of the sentence alone, however often it occurs; documents may be empty."""
    documents = [[[1, 2, 3], [4]], [], [[4], [], [1, 2, 3]]]
    words = Embed(9, 3) >> Encode("gru", hidden_size=3) >> Pool("attention")
    sentences = Encode("gru", hidden_size=4) >> Pool("attention") >> Classify(2)
    data = FromNested(FromIds()) >> Bucket(Nested[Ids], rows=4) >> Pad(Nested[Ids])
    pipe: Any = data >> EachStep(words) >> sentences
    found = list(pipe.attention_weights(documents))
    assert [len(each.weights["pool"]) for each in found] == [2, 0, 3]
    alone: Any = FromIds() >> Bucket(rows=4) >> Pad() >> words
    for document, each in zip(documents, found, strict=True):
        inner = each.inner_weights["each_step.pool"]
        assert len(inner) == len(document)
        for sentence, weights in zip(document, inner, strict=True):
            (own,) = alone.attention_weights([sentence])
            assert_close(weights, own.weights["pool"])
    plain: Any = data >> EachStep(Embed(9, 3) >> Encode("gru", hidden_size=3) >> Pool("mean")) >> sentences
    assert next(plain.attention_weights(documents)).inner_weights == {}
    only_inside: Any = data >> EachStep(words) >> Encode("gru", hidden_size=4) >> Pool("mean") >> Classify(2)
    assert [list(each.weights) for each in only_inside.attention_weights(documents)] == [[], [], []]
