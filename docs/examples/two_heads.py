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


def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer. As an `Optimizer`, its `step` is typed, which `Adam.step` is not."""
    return torch.optim.Adam(model.parameters(), lr=0.01)


# Data: each target has a name and a type, and may be missing.
torch.default_generator.manual_seed(0)
train, valid = Records(list(make_orders())).split(0.8, seed=0)
tokenize, products = Tokenize.train(train.inputs()), Labels(["coffee", "sugar", "tea"])
data = tokenize >> Bucket(max_padded_steps=300, seed=0) >> Pad(targets={"product": products, "amount": Numbers()})

# Stages: two heads on one body. Their losses are added.
heads = Heads(Classify(products), Regress(), into=Order, weights={"amount": 0.5})
model = Embed(tokenize.vocab_size, 32) >> Encode(LSTM(32, 32, bidirectional=True)) >> Pool("max") >> heads

optimizer = make_optimizer(model)
for _ in range(12):
    for batch in data(train):
        loss = model(batch).loss()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

# Evaluation: orders, to compare with the texts.
orders, words = (data >> model).predict(valid.inputs()), map(str.split, valid.inputs())
right = sum((o.product, NUMBERS[round(o.amount) - 1]) == (w[-1], w[-4]) for o, w in zip(orders, words, strict=True))
print(f"accuracy on {len(valid)} held-out orders: {right / len(valid):.1%}")
