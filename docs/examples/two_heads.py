"""Read a class and a number from each text with one body: `python docs/examples/two_heads.py`."""

import random
from collections.abc import Iterator

import attrs
import torch

from pipeline import Bucket, Classify, Embed, Encode, Example, Heads, Labels, Numbers, Pad, Pool, Regress, Tokenize
from pipeline.sources import Records
from pipeline_recurrent import LSTM

NUMBERS = ["one", "two", "three", "four", "five"]


@attrs.frozen
class Order:
    """The prediction for a text: a field per head, in their order."""

    product: str
    amount: float


def make_orders(rows: int = 600) -> Iterator[Example[str]]:
    """Make orders such as `please send two boxes of tea`. Some have no product or no amount as target."""
    rng = random.Random(0)
    for _ in range(rows):
        amount, product = rng.randint(1, 5), rng.choice(["tea", "coffee", "sugar"])
        start = rng.choice(["please send", "we need", "could you send us"])
        target = {"product": product if rng.random() < 0.8 else None, "amount": amount if rng.random() < 0.8 else None}
        yield Example(f"{start} {NUMBERS[amount - 1]} boxes of {product}", target)


# Data: each target has a name and a type, and may be missing.
torch.default_generator.manual_seed(0)
train, valid = Records(list(make_orders())).split(0.8, seed=0)
tokenize, products = Tokenize.train(train.inputs()), Labels(["coffee", "sugar", "tea"])
data = tokenize >> Bucket(max_padded_steps=300, seed=0) >> Pad(targets={"product": products, "amount": Numbers()})

# Stages: two heads on one body. Their losses are added.
heads = Heads(Classify(products), Regress(), into=Order, weights={"amount": 0.5})
model = Embed(tokenize.vocab_size, 32) >> Encode(LSTM(32, 32, bidirectional=True)) >> Pool("max") >> heads
pipe = data >> model

# Training, and evaluation of both heads; then orders, to compare with the texts.
pipe.fit(train, epochs=12, learning_rate=0.01)
print(pipe.evaluate(valid))
orders, words = pipe.predict(valid.inputs()), map(str.split, valid.inputs())
right = sum((o.product, NUMBERS[round(o.amount) - 1]) == (w[-1], w[-4]) for o, w in zip(orders, words, strict=True))
print(f"accuracy on {len(valid)} held-out orders: {right / len(valid):.1%}")
