"""Classify texts: `python docs/examples/classify_csv.py [FILE]`, a CSV file with the columns `text` and `label`."""

import random
import sys
import tempfile
from pathlib import Path

import torch

from pipeline import Bucket, Classify, Embed, Encode, Labels, Pack, Pad, Pool, Tokenize
from pipeline.sources import Csv
from pipeline_recurrent import LSTM


def write_reviews(file: Path, rows: int = 600) -> Path:
    """Write reviews such as `the film is not really dull`, where a negation reverses the meaning of a word."""
    rng, lines = random.Random(0), ["text,label"]
    for _ in range(rows):
        good, negated = rng.random() < 0.5, rng.random() < 0.5
        word = rng.choice(["fine", "clever", "moving"] if good else ["dull", "clumsy", "tired"])
        subject = " and the ".join(rng.sample(["film", "cast", "music", "plot"], rng.randint(1, 4)))
        lines.append(f"the {subject} is {'not ' * negated}really {word},{'bad' if good == negated else 'good'}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


# Data: texts and their labels.
file = Path(sys.argv[1]) if sys.argv[1:] else write_reviews(Path(tempfile.mkdtemp()) / "reviews.csv")
train, valid = Csv(file, text="text", target="label").split(0.9, seed=0)

# Stages: the first half makes batches, the second half is the model.
torch.default_generator.manual_seed(0)
tokenize = Tokenize.train(train.inputs())
labels = Labels.from_targets(train.targets())
data = tokenize >> Bucket(max_padded_steps=500, seed=0) >> Pad(labels=labels)
embed, encode = Embed(tokenize.vocab_size, 32), Encode(LSTM(32, 32, bidirectional=True))
model = Pack() >> embed >> encode >> Pool("max") >> Classify(labels)
pipe = data >> model
print(pipe.check())

# Training: a line per epoch, or a bar on a terminal.
pipe.fit(train, epochs=5, learning_rate=0.01)

# Evaluation, and one prediction per text, in the order of the texts.
evaluation = pipe.evaluate(valid)
print(evaluation)
for text, found in zip(valid.inputs()[:3], pipe.predict(valid.inputs()[:3], scores=True), strict=True):
    print(f"{found.probability:.0%} {found.label}: {text}")
print(f"accuracy on {len(valid)} held-out texts: {evaluation['accuracy']:.1%}")
