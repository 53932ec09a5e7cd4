"""Models written in torch, with which models in stages are compared, and their weights in stages."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


def run_packed(rnn: nn.Module, values: Tensor, lengths: Tensor) -> Tensor:
    """Pack, run and unpack, as torch's documentation does: padded batch in, padded states out, rows in any order."""
    rows = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
    states = cast("tuple[PackedSequence, object]", rnn(rows))[0]
    return pad_packed_sequence(states, batch_first=True)[0]


def pool_max(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the maximum over the real steps of each row."""
    padding = torch.arange(states.shape[1]) >= lengths.unsqueeze(1)
    return states.masked_fill(padding.unsqueeze(2), -torch.inf).amax(1)


class PlainClassifier(nn.Module):
    """A classifier: embed, pack, LSTM, unpack, mask, maximum over time, linear layer."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, classes)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores of a batch."""
        return cast("Tensor", self.linear(pool_max(run_packed(self.lstm, self.embed(ids), lengths), lengths)))

    def compute_loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Compute the cross-entropy of a batch of ids, lengths and targets."""
        ids, lengths, targets = batch
        return cross_entropy(self(ids, lengths), targets)


def load_weights(model: nn.Module, plain: nn.Module, names: Mapping[str, str]) -> None:
    """Load the weights of a plain model into the same model in stages.

    Args:
        model: the model in stages.
        plain: the plain model.
        names: for each part of the plain model, the name of that part in stages.
    """
    keys = ((key.partition("."), weight) for key, weight in plain.state_dict().items())
    model.load_state_dict({f"{names[part]}.{rest}": weight for (part, _, rest), weight in keys})


def load_classifier(model: nn.Module, plain: PlainClassifier) -> None:
    """Load the weights of a plain classifier into the same classifier in stages."""
    load_weights(model, plain, {"embed": "embed", "lstm": "encode.encoder.rnn", "linear": "classify.linear"})
