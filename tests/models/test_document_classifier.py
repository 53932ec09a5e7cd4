"""Test the classifier of documents against a loop over sentences."""

from collections.abc import Callable, Mapping
from typing import Any

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
    document_classifier,
)
from support.untyped import as_any, seed

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
