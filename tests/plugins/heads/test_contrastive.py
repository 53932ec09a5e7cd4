"""Contrastive loss: its formula pair by pair, and vectors that find each other in a pipe."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import (
    Bucket,
    Embed,
    Encode,
    Example,
    Join,
    Pack,
    Pad,
    Pool,
    Pooled,
    TextPair,
    Tokenize,
    TokenizePair,
    load,
)
from pipeline.errors import CompositionError, OptionError, ShapeError, TargetError
from pipeline.export.runner import Model
from pipeline.extend import FILLER, IGNORED, BatchMetadata, registry
from pipeline.testing import HEAD_LAWS, Law
from pipeline_heads import Contrastive, PairScores
from support.needs import needs
from support.untyped import as_any, seed

TARGETS = torch.tensor([1, IGNORED, 1, 1])


def make(targets: Tensor | None = TARGETS, *, symmetric: bool = True, row_ids: Tensor | None = None) -> PairScores:
    """Return four pairs of vectors, one of them zeros, in float64."""
    seed(0)
    values = torch.randn(4, 6, dtype=torch.float64)
    values[2, :3] = 0
    ids = torch.arange(4) if row_ids is None else row_ids
    pooled = Pooled(values.requires_grad_(), metadata=BatchMetadata(ids, targets=targets))
    return Contrastive(0.2, symmetric=symmetric)(pooled)


def compare(one: Tensor, other: Tensor) -> Tensor:
    """Return the cosine of two vectors."""
    size = one.square().sum().sqrt() * other.square().sum().sqrt()
    return one @ other / size.clamp(min=1e-12)


def compute_loss(scores: PairScores, row: int, choices: list[int]) -> Tensor:
    """Return the loss of a row, pair by pair."""
    first, second = scores.values.unbind(1)
    there = torch.stack([compare(first[row], second[each]) for each in choices]) / 0.2
    back = torch.stack([compare(second[row], first[each]) for each in choices]) / 0.2
    at = choices.index(row)
    losses = [-each.log_softmax(0)[at] for each in (there, back)]
    return (losses[0] + losses[1]) / 2 if scores.symmetric else losses[0]


@pytest.mark.parametrize("law", HEAD_LAWS)
def test_obeys_the_laws(law: Law[Contrastive]) -> None:
    """Those of all heads; two vectors of two features."""
    law(Contrastive)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_loss_equals_a_loop_over_pairs(symmetric: bool) -> None:
    """A row without a target is no choice, and has no loss."""
    scores = make(symmetric=symmetric)
    expected = torch.stack([compute_loss(scores, row, [0, 2, 3]) for row in (0, 2, 3)])
    torch.testing.assert_close(scores.loss(reduction="none")[torch.tensor([0, 2, 3])], expected)
    assert scores.loss(reduction="none")[1] == 0
    torch.testing.assert_close(scores.loss(), expected.mean())
    torch.testing.assert_close(scores.loss(over=6), expected.sum() / 6)
    found, wanted = (
        torch.autograd.grad(loss, scores.values, retain_graph=True)[0] for loss in (scores.loss(), expected.mean())
    )
    kept = torch.tensor([0, 1, 3])  # at zeros, a norm has no derivative
    torch.testing.assert_close(found[kept], wanted[kept])
    assert found.isfinite().all()


def test_rows_of_no_input_have_no_prediction() -> None:
    """Such as those that fill up a batch."""
    assert [row_id for row_id, _ in make(row_ids=torch.tensor([5, FILLER, 7, 8])).rows()] == [5, 7, 8]


def test_predictions_are_cosines() -> None:
    """A vector of zeros is similar to nothing."""
    scores = make()
    first, second = scores.values.detach().unbind(1)
    expected = [float(compare(*pair)) for pair in zip(first, second, strict=True)]
    assert [similarity for _, similarity in scores.rows()] == pytest.approx(expected)
    assert expected[2] == 0


def test_errors_say_what_to_change() -> None:
    """Targets other than 1, sizes that do not split, options that do not fit."""
    with pytest.raises(TargetError, match="pass Example"):
        make(None).loss()
    with pytest.raises(TargetError, match="got 0 in row 3; leave out pairs"):
        make(torch.tensor([1, 1, 1, 0])).loss()
    with pytest.raises(OptionError, match="temperature must be a finite number above 0, got 0"):
        Contrastive(0)
    with pytest.raises(OptionError, match="temperature must be a finite number above 0, got inf"):
        Contrastive(float("inf"))
    with pytest.raises(OptionError, match="symmetric must be True or False, got 'no'"):
        as_any(Contrastive)(symmetric="no")
    with pytest.raises(OptionError, match="label_smoothing"):
        make().loss(**as_any({"label_smoothing": 0.1}))
    with pytest.raises(ShapeError, match="got 3 features"):
        Contrastive()(Pooled(torch.ones(1, 3)))
    with pytest.raises(CompositionError, match="join two branches of one size"):
        _ = Encode("gru", input_size=2, hidden_size=3) >> Pool("mean") >> Contrastive()


def test_it_is_offered_by_name() -> None:
    """With its options."""
    assert isinstance(registry().heads.make("contrastive", temperature=0.1), Contrastive)


def test_pairs_find_each_other_in_a_pipe(tmp_path: Path) -> None:
    """After training, a pair is more similar than parts of different pairs. A saved pipe predicts the same."""
    pairs = [(f"what is {word}", f"{word} is nice") for word in ("tea", "rain", "jazz", "gold")]
    tokenize = Tokenize.train([text for pair in pairs for text in pair])
    reader = Embed(tokenize.vocab_size, 8) >> Encode("gru", hidden_size=8) >> Pool("mean")
    model = Pack(TextPair) >> Join(TextPair.first >> reader, TextPair.second >> reader) >> Contrastive()
    pipe = TokenizePair(tokenize) >> Bucket(TextPair, rows=4) >> Pad(TextPair) >> model
    # One batch of all pairs: a pair that occurs twice in a batch would be the wrong choice for itself.
    rows = [Example(pair, target=1) for pair in pairs]
    result = pipe.fit(rows, epochs=60, learning_rate=0.02, seed=0, progress=False)
    assert result.epochs[-1].train_loss < 0.5 * result.epochs[0].train_loss
    others = [(pairs[0][0], pairs[1][1]), (pairs[2][0], pairs[3][1])]
    assert min(pipe.predict(pairs)) > max(pipe.predict(others))
    pipe.save(tmp_path / "saved")
    loaded: Any = load(tmp_path / "saved")
    assert list(loaded.predict(pairs)) == list(pipe.predict(pairs))


@needs("onnx", "onnxruntime", "onnxscript", "tokenizers")
@pytest.mark.parametrize("shared", [True, False])
def test_the_exported_script_gives_the_similarities_of_the_pipe(shared: bool, tmp_path: Path) -> None:
    """An input is a pair of texts, of which each part has its own length; a part may be empty."""
    seed(0)
    tokenize = Tokenize.train(["what is tea", "tea is nice"])
    readers = [Embed(tokenize.vocab_size, 3) >> Encode("gru", hidden_size=2) >> Pool("mean") for _ in range(2 - shared)]
    model = Pack(TextPair) >> Join(TextPair.first >> readers[0], TextPair.second >> readers[-1]) >> Contrastive()
    pipe = TokenizePair(tokenize) >> Bucket(TextPair, rows=4) >> Pad(TextPair) >> model
    exported = pipe.export(tmp_path / "pairs.onnx", batches=5)
    assert [(each.name, each.meaning, each.axes) for each in exported.outputs] == [("values", "numbers", ("batch",))]
    pairs = [("what is tea", "tea"), ("", "tea is nice"), ("tea is", ""), ("is", "what is tea tea is nice"), ("", "")]
    found: Any = Model(tmp_path / "pairs.onnx", rows=2).predict(pairs)
    # One pair after the other, so that nothing of a batch is compared with itself.
    assert found == pytest.approx([next(iter(pipe.predict([pair]))) for pair in pairs], abs=1e-5)
    assert [found[row] for row in (1, 2, 4)] == [0, 0, 0], "an empty part has a vector of zeros"
    assert min(abs(found[0]), abs(found[3])) > 0.01


def test_the_exported_similarities_equal_the_rows() -> None:
    """Also of a vector of zeros, and of fillers, which a graph does not know."""
    scores = make(row_ids=torch.tensor([4, FILLER, 5, 6]))
    numbers = dict(scores.for_export().rows())
    assert numbers == dict(scores.rows())
    assert numbers == pytest.approx({4: compare(*scores.values[0]).item(), 5: 0, 6: compare(*scores.values[3]).item()})
