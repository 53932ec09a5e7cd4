"""Adaptive softmax equals torch's, as a loss and as scores of all tokens; and in a pipe."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from pipeline import (
    Bucket,
    Embed,
    Encode,
    Packed,
    Pad,
    Shift,
    StepScores,
    Tokenize,
    Vectors,
    load,
)
from pipeline.errors import CompositionError, OptionError, TargetError
from pipeline.extend import IGNORED, BatchMetadata, Causal, States, registry
from pipeline.testing import HEAD_LAWS, Law
from pipeline_heads import AdaptiveNextToken, AdaptiveScores
from pipeline_recurrent import LSTM
from support.needs import needs
from support.untyped import as_any, seed, to_list

LENGTHS = torch.tensor([3, 0, 2])
TARGETS = torch.tensor([[8, 0, 5], [IGNORED] * 3, [IGNORED, 3, IGNORED]])
COUNTS = [1, 9, 3, 7, 2, 8, 5, 4, 6]
"""The order by frequency is 1, 5, 3, 8, 6, 7, 2, 4, 0."""


def make(*, counts: list[int] | None = None, dtype: torch.dtype = torch.float64) -> AdaptiveNextToken:
    """Return a head of 9 tokens in three parts."""
    seed(0)
    return AdaptiveNextToken(9, cutoffs=[3, 6], counts=counts, div_value=2.0, input_size=4).to(dtype)


def encode(targets: Tensor | None = None, dtype: torch.dtype = torch.float64) -> States[Causal]:
    """Return the states of a batch, whose values are a leaf."""
    seed(1)
    metadata = BatchMetadata(torch.tensor([4, 5, 6]), targets=targets)
    batch = Packed(Vectors, torch.randn(5, 2, dtype=dtype), LENGTHS, metadata=metadata)
    return LSTM(2, 4).to(dtype)(batch)


def get_softmax(head: AdaptiveNextToken) -> nn.AdaptiveLogSoftmaxWithLoss:
    """Return torch's module."""
    assert head.softmax is not None
    return head.softmax


@pytest.mark.parametrize("law", HEAD_LAWS)
def test_obeys_the_laws(law: Law[AdaptiveNextToken]) -> None:
    """Those of all heads."""
    law(lambda: AdaptiveNextToken(9, cutoffs=[3, 6], div_value=1.5, input_size=3))


@pytest.mark.parametrize("counts", [None, COUNTS])
def test_the_loss_and_its_gradients_equal_torchs(counts: list[int] | None) -> None:
    """Of the steps with a target; the target is a rank by frequency there."""
    head, states = make(counts=counts), encode(TARGETS)
    scores = head(states)
    assert isinstance(scores, AdaptiveScores)
    packed = scores.packed_targets
    assert packed is not None
    known = packed != IGNORED
    order = list(range(9)) if counts is None else [1, 5, 3, 8, 6, 7, 2, 4, 0]
    ranks = torch.tensor([order.index(int(target)) for target in packed[known]])
    expected: Any = get_softmax(head)(states.packed().values[known], ranks)
    torch.testing.assert_close(scores.loss(), expected.loss)
    torch.testing.assert_close(scores.loss(reduction="none")[known], -expected.output)
    assert not scores.loss(reduction="none")[~known].any()
    torch.testing.assert_close(scores.loss(over=8), -expected.output.sum() / 8)
    weights = list(head.parameters())
    found, wanted = (torch.autograd.grad(loss, weights, retain_graph=True) for loss in (scores.loss(), expected.loss))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_computed_under_autocast(dtype: torch.dtype) -> None:
    """Torch's module mixes the dtypes of vectors and products there. The loss is float32, also of bfloat16 weights."""
    head = make(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
        scores = head(encode(TARGETS, dtype))
    targets = scores.packed_targets
    assert targets is not None
    known = targets != IGNORED
    found = torch.autograd.grad(scores.loss(), list(head.parameters()))
    assert all(bool(each.any()) for each in found)
    expected: Any = get_softmax(head.double())(scores.values[known].double(), targets[known])
    assert scores.loss().dtype is torch.float32
    assert scores.loss().item() == pytest.approx(expected.loss.item(), abs=0.02)


@pytest.mark.parametrize("counts", [None, COUNTS])
def test_scores_equal_torchs(counts: list[int] | None) -> None:
    """Of all tokens, in the order of their ids."""
    head = make(counts=counts)
    scores = head(encode())
    assert type(scores) is StepScores
    by_rank = get_softmax(head).log_prob(encode().packed().values)
    order = list(range(9)) if counts is None else [1, 5, 3, 8, 6, 7, 2, 4, 0]
    for rank, token in enumerate(order):
        torch.testing.assert_close(scores.values[:, token], by_rank[:, rank])
    torch.testing.assert_close(scores.values.exp().sum(1), torch.ones(5, dtype=torch.float64))


def test_predictions_do_not_depend_on_targets() -> None:
    """Best tokens, probabilities, and the loss of options that need all scores."""
    head = make(counts=COUNTS)
    plain, adaptive = head(encode()), head(encode(TARGETS))
    assert dict(plain.rows()) == dict(adaptive.rows())
    one, other = ([step.probability for _, row in each.scored_rows() for step in row] for each in (plain, adaptive))
    assert one == pytest.approx(other)
    same = attrs.evolve(plain, metadata=adaptive.metadata)
    torch.testing.assert_close(adaptive.loss(), same.loss())
    torch.testing.assert_close(adaptive.loss(label_smoothing=0.1), same.loss(label_smoothing=0.1))


def test_batches_without_any_target_have_no_loss() -> None:
    """But a gradient of zeros."""
    head = make()
    loss = head(encode(torch.full((3, 3), IGNORED))).loss()
    assert loss.item() == 0
    assert not any(
        bool(each.any()) for each in torch.autograd.grad(loss, list(head.parameters()), materialize_grads=True)
    )


def test_errors_say_what_to_change() -> None:
    """Cutoffs, counts, sizes and targets that do not fit."""
    with pytest.raises(OptionError, match="use NextToken for a small vocabulary"):
        AdaptiveNextToken(100)
    for cutoffs in ([], [3, 3], [5, 2], [0], [9], 3, "3", ["3"], [2.5]):
        with pytest.raises(OptionError, match="cutoffs must be increasing ranks from 1 to 8"):
            as_any(AdaptiveNextToken)(9, cutoffs=cutoffs)
    for counts, got in (([1, 2], "2"), (3, "3"), (["1"] * 9, r"\['1', "), (torch.ones(9, 2), r"numbers of shape \(9,")):
        with pytest.raises(OptionError, match=f"counts must be one number for each of 9 tokens, got {got}"):
            as_any(AdaptiveNextToken)(9, cutoffs=[3], counts=counts)
    for option, value in (("div_value", "4"), ("div_value", 0.5), ("head_bias", "no"), ("input_size", "8")):
        with pytest.raises(OptionError, match=f"{option} must be .*, got {value!r}"):
            as_any(AdaptiveNextToken)(9, cutoffs=[3], **{option: value})
    with pytest.raises(OptionError, match="too small for 1 clusters"):
        AdaptiveNextToken(9, cutoffs=[3], input_size=3)
    with pytest.raises(TargetError, match="got 9 in row 4"):
        make()(encode(TARGETS.masked_fill(TARGETS == 8, 9)))
    with pytest.raises(CompositionError, match="must be causal states"):
        _ = Embed(9, 4) >> as_any(Encode(LSTM(4, 4, bidirectional=True))) >> AdaptiveNextToken(9, cutoffs=[3])


def test_it_is_offered_by_name() -> None:
    """With its options."""
    assert isinstance(registry().heads.make("adaptive_next_token", tokens=9, cutoffs=[4]), AdaptiveNextToken)
    assert to_list(AdaptiveNextToken(3, cutoffs=[1], counts=torch.tensor([1, 3, 2])).ids) == [1, 2, 0]


LINES = ["the cat sat", "the dog sat", "a cat ran far away"] * 4


def test_a_language_model_trains_saves_and_generates(tmp_path: Path) -> None:
    """Perplexity is its metric; counts are saved with the weights."""
    tokenize = Tokenize.train(LINES, "words", bos=True, eos=True)
    size = tokenize.vocab_size
    head = AdaptiveNextToken(size, cutoffs=[4], counts=list(range(size)))
    model = Embed(size, 8) >> Encode(LSTM(8, 8)) >> head
    pipe = tokenize >> Shift() >> Bucket(rows=4) >> Pad() >> model
    result = pipe.fit(LINES, valid=LINES[:3], epochs=8, learning_rate=0.02, seed=0, progress=False)
    perplexities = [epoch.metrics["perplexity"] for epoch in result.epochs]
    assert perplexities[-1] < 0.7 * perplexities[0]
    pipe.save(tmp_path / "saved")
    loaded: Any = load(tmp_path / "saved")
    assert to_list(loaded.stages["adaptive_next_token"].ids) == list(range(size))[::-1]
    assert list(loaded.predict(LINES[:2])) == list(pipe.predict(LINES[:2]))
    assert list(loaded.generate(["the"], max_new_tokens=3, seed=0)) == list(
        pipe.generate(["the"], max_new_tokens=3, seed=0)
    )


@needs("onnx", "onnxruntime", "onnxscript")
def test_it_is_exported_with_the_scores_of_all_tokens(tmp_path: Path) -> None:
    """The export compares the graph with the model."""
    tokenize = Tokenize.train(LINES, "words", bos=True, eos=True)
    model = Embed(tokenize.vocab_size, 4) >> Encode(LSTM(4, 8)) >> AdaptiveNextToken(tokenize.vocab_size, cutoffs=[4])
    (tokenize >> Shift() >> Bucket(rows=4) >> Pad() >> model).export(tmp_path / "model.onnx", batches=3)
    assert (tmp_path / "model.onnx").exists()
