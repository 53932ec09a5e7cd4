"""Classify texts that come with numbers: `python docs/examples/text_and_numbers.py`."""

import random  # noqa: I001 - names on few lines
from collections.abc import Iterator

import attrs
import torch

from pipeline import (
    Bucket, Classify, Embed, Encode, Example, FromColumns, FromFeatures, Ids, Join, Labels, Pack, Pad, Pool, Sides,
    Tokenize, Vectors, read,
)  # fmt: skip
from pipeline.sources import Records
from pipeline_recurrent import GRU, LSTM


@attrs.frozen(eq=False)
class Offer(Sides):
    """A flat: its description, and one step with its size and its rent."""

    text: Ids
    numbers: Vectors


def make_offers(rows: int = 600) -> Iterator[Example[dict[str, object]]]:
    """Make flats. In the centre a rent of 20 per square meter is cheap, in the suburbs one of 10."""
    rng = random.Random(0)
    for _ in range(rows):
        central, size, cheap = rng.random() < 0.5, rng.uniform(0.3, 1), rng.random() < 0.5
        rent = size * (2 if central else 1) * (rng.uniform(0.5, 0.8) if cheap else rng.uniform(1.2, 1.8))
        place = rng.choice(["close to the cathedral", "in the old town"] if central else ["near the fields", "far out"])
        text = f"a {rng.choice(['sunny', 'quiet', 'large and newly painted'])} flat {place}"
        yield Example({"text": text, "numbers": [[size, rent]]}, "cheap" if cheap else "expensive")


# Data: each side of a row is read by an input stage of its own.
torch.default_generator.manual_seed(0)
train, valid = Records(list(make_offers())).split(0.8, seed=0)
tokenize, labels = Tokenize.train(str(offer["text"]) for offer in train.inputs()), Labels(["cheap", "expensive"])
columns = FromColumns(Offer, text=read(tokenize), numbers=read(FromFeatures()))
data = columns >> Bucket(Offer, max_padded_steps=300, seed=0) >> Pad(Offer, labels=labels)

# Stages: a branch for each side, whose vectors are joined.
words = Offer.text >> Embed(tokenize.vocab_size, 16) >> Encode(LSTM(16, 16)) >> Pool("max")
numbers = Offer.numbers >> Encode(GRU(2, 16)) >> Pool("last")
model = Pack(Offer) >> Join(words, numbers) >> Classify(labels)
pipe = data >> model

pipe.fit(train, epochs=25, learning_rate=0.01)
print(f"accuracy on {len(valid)} held-out flats: {pipe.evaluate(valid)['accuracy']:.1%}")
