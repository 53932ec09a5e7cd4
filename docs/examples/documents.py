"""Classify documents by their sentences, and show which of them decide: `python docs/examples/documents.py`."""

import random

import torch

from pipeline import Bucket, Example, Ids, Labels, Nested, Pad, Tokenize, TokenizeDocument, document_classifier
from pipeline.sources import Records

OPINIONS = {"good": ["I liked it a lot", "what a fine film"], "bad": ["I did not like it", "what a dull film"]}
FACTS = ["It is two hours long", "I saw it on a Monday", "The film is from Italy", "We went by train", "It was late"]


def write_review(rng: random.Random, label: str) -> str:
    """Write a review of some facts, which say nothing about the label, and one opinion among them."""
    sentences = [*rng.choices(FACTS, k=rng.randint(0, 8)), rng.choice(OPINIONS[label])]
    rng.shuffle(sentences)
    return " ".join(f"{sentence}." for sentence in sentences)


rng = random.Random(0)
torch.default_generator.manual_seed(0)
targets = [rng.choice(list(OPINIONS)) for _ in range(400)]
train, test = Records([Example(write_review(rng, label), label) for label in targets]).split(0.75, seed=0)

# Data: the steps of a row are sentences, and a batch is limited by its words.
tokenize, labels = Tokenize.train(train.inputs(), lowercase=True), Labels(list(OPINIONS))
documents = TokenizeDocument(tokenize, split="sentences")
data = documents >> Bucket(Nested[Ids], max_padded_steps=1_000, seed=0) >> Pad(Nested[Ids], labels=labels)

# Model: words become sentences, and sentences a document, each by an encoder and a pool with attention.
pipe = data >> document_classifier(tokenize.vocab_size, labels, embedding_dim=32, hidden_size=16)
pipe.fit(train, epochs=12, learning_rate=0.01)

# The sentence, and the word in it, with the largest weights.
text = test[0].input
found = next(pipe.attention_weights([text]))
assert found.spans is not None
best = int(found.weights["pool"].argmax())
word = int(found.inner_weights["each_step.pool"][best].argmax())
(start, end), (first, last) = found.spans[best], documents.locate_tokens(text)[best][word]
print(f"{text}\n  decided by {text[start:end]!r}, and in it by {text[first:last]!r}")

evaluation = pipe.evaluate(test)
print(f"accuracy on {len(test)} held-out reviews: {evaluation['accuracy']:.1%}")
