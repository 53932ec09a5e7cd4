"""Classify users by their payments: `events.py [FILE]`, a CSV with user, shop, amount, balance, day, label."""

import random
import sys
import tempfile
from pathlib import Path

import attrs
import torch

import pipeline as pl
from pipeline.sources import Csv


def write_payments(file: Path, users: int = 400) -> Path:
    """Write the payments of all users. Who pays much for `fuel` is a driver; much for `food` says nothing."""
    rng, lines = random.Random(0), list[str]()
    for user in range(users):
        dear, label = ("fuel", "driver") if user % 2 else ("food", "other")
        for shop in rng.choices(["fuel", "food", "books"], k=rng.randint(3, 20)):
            lines.append(f"u{user},{shop},{rng.random() + (shop == dear)},{rng.random()},{rng.random()},{label}")
    file.write_text("\n".join(["user,shop,amount,balance,day,label", *rng.sample(lines, len(lines))]))
    return file


@attrs.frozen(eq=False)
class Payment(pl.Fields):
    """The fields of a step."""

    shop: pl.Ids
    amount: pl.Vectors
    balance: pl.Vectors
    day: pl.Vectors


# Data: the payments of a user are one row, in the order of time.
file = Path(sys.argv[1]) if sys.argv[1:] else write_payments(Path(tempfile.mkdtemp()) / "payments.csv")
columns = {"shop": str, "amount": float, "balance": float, "day": float}
train, valid = Csv(file, inputs=columns, group="user", sort="day", target="label").split(0.8, seed=0)
shops, numbers = pl.TokenizeWords.train(one["shop"] for one in train.inputs()), pl.read(pl.FromFeatures())
labels = pl.Labels.from_targets(train.targets())
rows = pl.FromColumns(Payment, pl.read(shops), numbers, numbers, numbers)
data = rows >> pl.Bucket(Payment, max_padded_steps=600, seed=0) >> pl.Pad(Payment, labels=labels)

# Model: the ids are embedded, and joined with the numbers of each step.
torch.default_generator.manual_seed(0)
shop, number = pl.through(pl.Embed(shops.vocab_size, 8)), pl.through(pl.Identity(1))
fields = pl.EmbedFields(Payment, shop=shop, amount=number, balance=number, day=number)
model = pl.Pack(Payment) >> fields >> pl.Encode("bilstm", hidden_size=32) >> pl.Pool("max") >> pl.Classify(labels)
pipe = data >> model

# Training and evaluation.
pipe.fit(train, epochs=8, learning_rate=0.01)
print(f"accuracy on {len(valid)} held-out users: {pipe.evaluate(valid)['accuracy']:.1%}")
