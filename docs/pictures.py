"""Draw pictures of a trained model: `python docs/pictures.py` writes them into docs/_static. Needs the extra `plots`.

A small classifier learns whether reviews are good or bad. Unlike the figures of drawings.py, its numbers differ a
little between machines, so no test compares the committed files with new ones.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline import Attend, Bucket, Classify, Embed, Encode, Example, Labels, Pack, Pad, Pool, Tokenize
from pipeline.sources import Records

STATIC = Path(__file__).parent / "_static"
NAMES = ("learning-curve.svg", "confusion.svg", "attention.svg")

WORDS = {"good": ["fine", "clever", "moving"], "bad": ["dull", "clumsy", "tired"], "mixed": ["long", "loud", "odd"]}
OPPOSITES = {"good": "bad", "bad": "good", "mixed": "mixed"}


def make_reviews(rows: int) -> Iterator[Example[str]]:
    """Make reviews such as `the plot is not really dull`. One of ten has a random label, as real data may."""
    rng = random.Random(0)
    for _ in range(rows):
        label, negated = rng.choice(list(WORDS)), rng.random() < 0.3
        text = f"the {rng.choice(['film', 'cast', 'plot'])} is {'not ' * negated}really {rng.choice(WORDS[label])}"
        found = OPPOSITES[label] if negated else label
        yield Example(text, rng.choice(list(WORDS)) if rng.random() < 0.1 else found)


def draw_all(folder: Path, *, rows: int = 900, epochs: int = 8) -> list[Path]:
    """Train the model, and draw its learning curve, its confusion matrix and its attention to one review."""
    train, test = Records(list(make_reviews(rows))).split(0.7, seed=0)
    torch.default_generator.manual_seed(0)
    tokenize, labels = Tokenize.train(train.inputs()), Labels(list(WORDS))
    encode = Encode("bilstm", hidden_size=16) >> Attend("scaled_dot")
    model = Pack() >> Embed(tokenize.vocab_size, 16) >> encode >> Pool("max") >> Classify(labels)
    pipe = tokenize >> Bucket(rows=16, seed=0) >> Pad(labels=labels) >> model
    history = pipe.fit(train, valid=test, epochs=epochs, learning_rate=0.003, progress=False)
    text = "the plot is not really clever"
    (weights,) = pipe.attention_weights([text])
    curve, confusion, attention = (folder / name for name in NAMES)
    return [history.plot(curve), pipe.evaluate(test).plot(confusion), weights.plot(attention, text)]


if __name__ == "__main__":
    draw_all(STATIC)
