"""Tests of `MaskedToken`, and of masked-token pretraining in a whole pipe."""

import math
import re
from pathlib import Path
from typing import final

import attrs
import numpy as np
import pytest
import torch
from torch import nn
from typing_extensions import override

from pipeline import (
    Bucket,
    Classify,
    Embed,
    Encode,
    Example,
    Labels,
    ModuleStage,
    Pack,
    Pad,
    Pool,
    States,
    StepScores,
    StreamChain,
    Tokenize,
    load,
)
from pipeline.errors import CompositionError, ExportError, OptionError
from pipeline.extend import BatchMetadata, Spec
from pipeline.testing import HEAD_LAWS
from pipeline_decoders import MaskedToken, MaskTokens
from pipeline_recurrent import GRU
from support.untyped import as_any, seed, to_list

TEXTS = [
    "the cat sat on the mat",
    "a dog sat on a log",
    "the dog ran to the cat",
    "a cat ran to a mat",
    "the log lay on a mat",
    "a mat lay on the log",
] * 4


def make_states(mask: list[list[bool]], *, packed: bool) -> States:
    """Return states of rows of 4, 0, and 2 steps, with NaN in the padding, that need predictions where the mask is True."""
    values = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([4, 0, 2])
    values[torch.arange(5) >= lengths.unsqueeze(1)] = torch.nan
    targets = torch.arange(15).reshape(3, 5) % 7
    metadata = BatchMetadata(torch.tensor([5, 6, 7]), targets=targets, answer_mask=torch.tensor(mask))
    states = States.from_padded(values, lengths)
    steps = attrs.evolve(states.steps, metadata=metadata)
    return attrs.evolve(states, steps=steps.packed() if packed else steps)


MASK = [[True, False, True, False, True], [True] * 5, [False, True, False, False, False]]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inner_size", [None, 3])
def test_equals_a_loop_over_rows(packed: bool, inner_size: int | None) -> None:
    """The layers at each chosen step by itself; the loss is the mean over these; padding and other steps do not count."""
    head = MaskedToken(7, inner_size=inner_size, input_size=4).double()
    states = make_states(MASK, packed=packed)
    scores = head(states)
    rows = states.padded().values
    assert head.linear is not None
    wanted: list[torch.Tensor] = []
    losses: list[torch.Tensor] = []
    for row, step in ((0, 0), (0, 2), (2, 1)):
        vector = rows[row, step]
        if head.dense is not None and head.norm is not None:
            vector = head.norm(nn.functional.gelu(head.dense(vector)))
        wanted.append(head.linear(vector))
        losses.append(-wanted[-1].log_softmax(0)[(row * 5 + step) % 7])
    found = scores.values.index_select(0, scores.order.reading_order)
    torch.testing.assert_close(found, torch.stack(wanted))
    assert to_list(scores.lengths) == [2, 0, 1]
    torch.testing.assert_close(scores.loss(), torch.stack(losses).mean())
    names, weights = zip(*head.named_parameters(), strict=True)
    ours = torch.autograd.grad(scores.loss(), weights)
    theirs = torch.autograd.grad(torch.stack(losses).mean(), weights)
    for name, one, other in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_obeys_the_laws_of_heads() -> None:
    """But for the lengths of its rows, which are the chosen steps."""
    laws = [law for law in HEAD_LAWS if law.__name__ != "stages_pass_metadata_on"]
    assert len(laws) == len(HEAD_LAWS) - 1
    for law in laws:
        law(lambda: MaskedToken(9, input_size=4))


def test_predictions_name_their_steps() -> None:
    """The number of the step in its row, not among the chosen ones."""
    head = MaskedToken(7, input_size=4).double()
    scores = head(make_states(MASK, packed=True))
    found = {row: [each.step for each in steps] for row, steps in scores.scored_rows()}
    assert found == {5: [0, 2], 6: [], 7: [1]}
    assert {row: len(ids) for row, ids in scores.rows()} == {5: 2, 6: 0, 7: 1}


def test_without_chosen_steps_there_are_no_scores() -> None:
    """The loss is 0, with gradients."""
    head = MaskedToken(7, input_size=4).double()
    scores = head(make_states([[False] * 5] * 3, packed=False))
    assert scores.values.shape == (0, 7)
    assert scores.loss().item() == 0
    torch.autograd.backward(scores.loss())


def test_shares_the_weights_of_an_embedding() -> None:
    """Tied weights; a layer brings states of another size to that of the embedding."""
    embed = Embed(7, 3)
    head = MaskedToken(embed, inner_size=3, input_size=4)
    assert head.linear is not None
    assert head.linear.weight is embed.weight
    with pytest.raises(OptionError, match="size of the tied embedding"):
        MaskedToken(embed, input_size=4)
    with pytest.raises(OptionError, match="inner_size must be 3"):
        MaskedToken(embed, inner_size=5)


@pytest.mark.parametrize("option", ["tokens", "inner_size", "input_size"])
def test_sizes_are_integers(option: str) -> None:
    """Also where a size is known only later. Integers of numpy are integers."""
    for value in ("3", 2.5, math.nan, True, 0, -1, (3,), *([None] if option == "tokens" else [])):
        with pytest.raises(OptionError, match=re.escape(f"{option} must be an integer of at least 1, got {value!r}")):
            as_any(MaskedToken)(**{"tokens": 7, option: value})
    head = as_any(MaskedToken)(**{"tokens": 7, option: np.int64(7)})
    assert type(getattr(head, option)) is int


def test_rejects_another_size_when_joined() -> None:
    """Before any data."""
    with pytest.raises(CompositionError, match="axis 'hidden'"):
        _ = Encode(GRU(3, 5)) >> MaskedToken(7, input_size=4)


def make_pipe(p: float = 0.15) -> tuple[Tokenize, StreamChain[str, StepScores[int]]]:
    """Return a pipe for pretraining, with tied weights."""
    tokenize = Tokenize.train(TEXTS)
    embed = Embed(tokenize.vocab_size + 1, 8)
    data = tokenize >> Bucket(rows=4) >> Pad()
    mask = MaskTokens(
        tokenize.vocab_size, mask_id=tokenize.vocab_size, p=p, p_mask=1.0 if p == 1 else 0.8, p_random=0.0
    )
    seed(0)
    model = Pack() >> embed >> Encode("bigru", hidden_size=8) >> MaskedToken(embed, inner_size=8)
    return tokenize, data >> mask >> model


def test_learns_to_fill_gaps() -> None:
    """Far better than the most frequent token, on other choices than those it was trained on."""
    _, pipe = make_pipe()
    before = pipe.evaluate(TEXTS)
    history = pipe.fit(TEXTS, valid=TEXTS, epochs=12, learning_rate=0.02, progress=False)
    assert list(history.best.metrics) == ["perplexity", "accuracy"]
    assert history.best.metrics["perplexity"] < before.metrics["perplexity"] / 2


def test_validation_is_the_same_each_time() -> None:
    """And so is prediction."""
    _, pipe = make_pipe()
    assert pipe.evaluate(TEXTS).loss == pipe.evaluate(TEXTS).loss
    assert list(pipe.predict(TEXTS)) == list(pipe.predict(TEXTS))
    assert list(pipe.predict([*TEXTS[:2], ""]))[:2] == list(pipe.predict(TEXTS[:2]))


def test_the_loss_counts_the_targets_that_the_model_makes() -> None:
    """With several batches per optimizer step too, each target has the same weight."""
    _, pipe = make_pipe(p=1.0)
    expected = pipe.evaluate(TEXTS).loss
    history = pipe.fit(TEXTS, epochs=1, accumulate=100, progress=False)
    assert history["train_loss"][0] == pytest.approx(expected, rel=1e-5)


@final
class LateTargets(ModuleStage[States, States]):
    """A stage that makes targets, as it says."""

    makes_targets = True

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def forward(self, value: States) -> States:
        return value


def test_targets_must_be_made_before_weights() -> None:
    """`fit` counts them before it runs the model."""
    encode = Embed(9, 4) >> Encode("gru", hidden_size=4) >> LateTargets()
    pipe = Tokenize.train(TEXTS) >> Bucket(rows=4) >> Pad() >> encode >> MaskedToken(9)
    with pytest.raises(CompositionError, match="put LateTargets after Pad"):
        pipe.fit(TEXTS, epochs=1, progress=False)


def test_is_not_exported() -> None:
    """The error names the stage and what to do."""
    _, pipe = make_pipe()
    with pytest.raises(ExportError, match="'mask_tokens'.*with the trained encoder"):
        pipe.export("masked.pt2")


def test_saves_and_loads_to_the_last_bit(tmp_path: Path) -> None:
    """Tied weights stay tied."""
    _, pipe = make_pipe()
    pipe.fit(TEXTS, epochs=1, progress=False)
    pipe.save(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe")
    assert list(loaded.predict(TEXTS)) == list(pipe.predict(TEXTS))
    assert loaded.evaluate(TEXTS).loss == pipe.evaluate(TEXTS).loss
    head, embed = loaded.stages["masked_token"], loaded.stages["embed"]
    assert isinstance(head, MaskedToken)
    assert isinstance(embed, Embed)
    assert head.linear is not None
    assert head.linear.weight is embed.weight


def test_a_classifier_takes_the_pretrained_stages() -> None:
    """The stages themselves are joined to another head: their weights are those that were pretrained, and are trained."""
    tokenize, pretrained = make_pipe()
    pretrained.fit(TEXTS, epochs=2, progress=False)
    embed, encode = pretrained.stages["embed"], pretrained.stages["encode"]
    assert isinstance(embed, Embed)
    labels = Labels(["cat", "dog"])
    fresh = Embed(tokenize.vocab_size + 1, 8) >> Encode("bigru", hidden_size=8)
    pipe = tokenize >> Bucket(rows=4) >> Pad(labels=labels) >> Pack() >> fresh >> Pool("max") >> Classify(labels)
    for name in ("embed", "encode"):
        own, trained = pipe.stages[name], pretrained.stages[name]
        assert isinstance(own, nn.Module)
        assert isinstance(trained, nn.Module)
        own.load_state_dict(trained.state_dict())
    before = embed.weight.clone()
    examples = [
        Example(text, "cat" if "cat" in text else "dog") for text in TEXTS if ("cat" in text) != ("dog" in text)
    ]
    pipe.fit(examples, epochs=2, progress=False)
    own = pipe.stages["embed"]
    assert isinstance(own, Embed)
    assert torch.equal(embed.weight, before)
    assert not torch.equal(own.weight, before)
    assert isinstance(encode, Encode)
