"""The same model in stages."""

from typing import TypeAlias

from bench.epochs.by_hand import ByHand
from bench.epochs.corpus import CLASSES
from pipeline import Chain, Classify, Embed, Encode, Ids, Pack, Padded, Pool, Scores
from pipeline_recurrent import LSTM

Model: TypeAlias = Chain[Padded[Ids], Scores[int]]

_NAMES = {"embed": "embed", "lstm": "encode.encoder.rnn", "linear": "classify.linear"}
"""What a part that was written by hand is called here."""


def in_stages(weights: ByHand) -> Model:
    """A chain with the weights of a model that was written by hand."""
    embed, lstm = weights.embed, weights.lstm
    encode = Encode(LSTM(lstm.input_size, lstm.hidden_size, bidirectional=True))
    model = Pack() >> Embed(embed.num_embeddings, embed.embedding_dim) >> encode >> Pool("max") >> Classify(CLASSES)
    parts = ((key.partition("."), weight) for key, weight in weights.state_dict().items())
    model.load_state_dict({f"{_NAMES[part]}.{rest}": weight for (part, _, rest), weight in parts})
    return model
