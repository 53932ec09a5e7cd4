"""Tests of the composed models."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import (
    Bucket,
    FromIds,
    FromNested,
    Ids,
    Labels,
    Nested,
    Pad,
    Padded,
    character_tagger,
    classifier,
    document_classifier,
    language_model,
    tagger,
)
from pipeline.errors import CompositionError, ShapeError, UnknownNameError, UnknownOptionError
from support.untyped import as_any, seed

BATCH = Padded(Ids, torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1]))


def test_a_classifier_scores_each_row() -> None:
    """Its options reach the stages."""
    model = classifier(9, 3, embedding_dim=4, hidden_size=5, encoder="gru", pooling="mean", dropout=0.5)
    assert model(BATCH).values.shape == (2, 3)
    assert [str(entry.output) for entry in model.check().entries][1::2] == [
        "Packed[Vectors] steps x 4",
        "States[Causal] steps x 5",
        "Pooled batch x 5",
    ]
    assert {getattr(stage, "p", 0.5) for stage in model.modules()} == {0.5}


DOCUMENTS: list[list[list[int]]] = [[[1, 2, 3], [4]], [], [[4], [], [1, 2, 3], [8, 8]], [[]]]


def pool_by_attention(states: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    """Equations 5 to 7 of Yang et al. for the states of one sentence or document; zeros without any."""
    scores = torch.tanh(states @ weights[f"{name}.projection.weight"].T + weights[f"{name}.projection.bias"])
    return (scores @ weights[f"{name}.query"]).softmax(0) @ states


def read_alone(
    vectors: list[Tensor], gru: Callable[[Tensor], tuple[Tensor, Tensor]], weights: Mapping[str, Tensor], name: str
) -> Tensor:
    """Encode and pool one sentence or document with torch's own layer."""
    if not vectors:
        return torch.zeros(8, dtype=torch.float64)
    states, _ = gru(torch.stack(vectors))
    return pool_by_attention(states, weights, name)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a function that runs a module with other weights, so that gradients reach these."""
    call: Any = as_any(torch.func).functional_call
    return lambda values: call(module, weights, values)


def test_a_document_classifier_equals_a_loop_over_sentences() -> None:
    """In scores and gradients, for documents without sentences and sentences without words."""
    seed(0)
    model = document_classifier(9, 3, embedding_dim=5, hidden_size=4).double()
    batch = Pad(Nested[Ids])(list(FromNested(FromIds()).map(DOCUMENTS)))
    scores = model(batch).values
    weights = dict(model.named_parameters())
    grus: list[Callable[[Tensor], tuple[Tensor, Tensor]]] = []
    for place in ("each_step.inner.encode.encoder.rnn.", "encode.encoder.rnn."):
        own = {name.removeprefix(place): each for name, each in weights.items() if name.startswith(place)}
        gru = nn.GRU(5 if place.startswith("each") else 8, 4, bidirectional=True).double()
        grus.append(load_weights(gru, own))
    expected: list[Tensor] = []
    for document in DOCUMENTS:
        sentences = [
            read_alone(
                [weights["each_step.inner.embed.weight"][word] for word in sentence],
                grus[0],
                weights,
                "each_step.inner.pool.pooling",
            )
            for sentence in document
        ]
        vector = read_alone(sentences, grus[1], weights, "pool.pooling")
        expected.append(vector @ weights["classify.linear.weight"].T + weights["classify.linear.bias"])
    torch.testing.assert_close(scores, torch.stack(expected))
    chosen = torch.randn(scores.shape, dtype=torch.float64)
    found = torch.autograd.grad((scores * chosen).sum(), list(weights.values()))
    wanted = torch.autograd.grad((torch.stack(expected) * chosen).sum(), list(weights.values()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_document_classifier_takes_its_options() -> None:
    """Other encoders and pools, attention among words and among sentences, and labels."""
    labels = Labels(["no", "yes"])
    model = document_classifier(
        9, labels, hidden_size=4, sentence_hidden_size=6, encoder="lstm", attention="dot", pooling="max", dropout=0.5
    )
    assert repr(model) == "Pack >> EachStep >> Dropout >> Encode >> Attend >> Pool >> Dropout >> Classify"
    assert repr(as_any(model.stages["each_step"]).inner) == "Embed >> Dropout >> Encode >> Attend >> Pool"
    assert model.state_dict()["classify.linear.weight"].shape == (2, 6)
    pipe = FromNested(FromIds()) >> Bucket(Nested[Ids], rows=2) >> Pad(Nested[Ids]) >> model
    assert all(found in labels for found in pipe.predict(DOCUMENTS))


def test_a_tagger_scores_each_step() -> None:
    """With labels, predictions are class names."""
    labels = Labels(["noun", "verb"])
    rows = list(tagger(9, labels, embedding_dim=4, hidden_size=5)(BATCH).rows())
    assert [len(tags) for _, tags in rows] == [3, 1]
    assert all(tag in labels for _, tags in rows for tag in tags)


def test_a_tagger_may_choose_the_tags_of_a_row_together() -> None:
    """By a registered head, and its rules of spans."""
    labels = Labels(["O", "B-x", "I-x"])
    model = tagger(9, labels, embedding_dim=4, hidden_size=5, head="crf", constraints="bio")
    assert [len(tags) for _, tags in model(BATCH).rows()] == [3, 1]
    assert all(tags[0] != "I-x" for _, tags in model(BATCH).rows())
    words = character_tagger(9, 5, labels, embedding_dim=4, hidden_size=5, head="crf")
    assert repr(words).endswith("Dropout >> CRF")
    with pytest.raises(UnknownOptionError, match="constraints"):
        tagger(9, labels, constraints="bio")


def test_a_language_model_may_tie_its_weights() -> None:
    """The sizes must be equal then."""
    model = language_model(9, embedding_dim=4, hidden_size=4, tied=True)
    weights = dict(model.named_parameters(remove_duplicate=False))
    assert weights["embed.weight"] is weights["next_token.linear.weight"]
    assert model(BATCH).values.shape == (4, 9)
    with pytest.raises(CompositionError, match="the input has size 5 .* but NextToken has input_size=4"):
        language_model(9, embedding_dim=4, hidden_size=5, tied=True)


def test_a_language_model_is_causal() -> None:
    """Changing the last step changes the scores of that step only."""
    model = language_model(9, embedding_dim=4, hidden_size=4).eval()
    one, other = (model(Padded(Ids, torch.tensor([[1, 2, last]]), torch.tensor([3]))).values for last in (3, 4))
    assert torch.equal(one[:2], other[:2])
    assert not torch.equal(one[2], other[2])


def test_a_language_model_may_have_no_attention_or_use_contexts_alone() -> None:
    """By default context and state predict together."""
    make = partial(language_model, 9, embedding_dim=4, hidden_size=4)
    stages = [list(make(attention=attention).stages) for attention in ("dot", None)]
    assert stages[0] == ["pack", "embed", "dropout", "encode", "attend_earlier", "dropout_2", "next_token"]
    assert stages[1] == ["pack", "embed", "dropout", "encode", "dropout_2", "next_token"]
    assert as_any(make().stages["attend_earlier"]).output == "tanh"
    alone = make(output="context")
    assert "attend_earlier.combine.weight" not in alone.state_dict()
    joined = make(output="concat")
    assert joined.state_dict()["next_token.linear.weight"].shape == (9, 8)


def test_invalid_names_raise() -> None:
    """A language model needs a causal encoder."""
    with pytest.raises(CompositionError, match="encoder 'bilstm' must be causal, but its steps depend on later ones"):
        language_model(9, encoder="bilstm")
    with pytest.raises(UnknownNameError, match="'lstmm' is not the name of an installed encoder"):
        classifier(9, 2, encoder="lstmm")


def test_a_model_that_gets_texts_says_how_to_predict() -> None:
    """It takes batches, and only a pipe takes texts."""
    model = as_any(classifier(9, 3, embedding_dim=4, hidden_size=5))
    with pytest.raises(ShapeError, match=r"got a list; join .* predict: \(data >> model\)\.predict\(texts\)"):
        model(["to be"])
