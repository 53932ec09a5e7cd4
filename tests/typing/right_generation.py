"""Lines that generate, and run step by step, with their types. Both checkers check them, and a test runs them."""

from collections.abc import Iterator
from typing import assert_type

import torch

from pipeline import (
    Bucket,
    Embed,
    Encode,
    FromFeatures,
    FromIds,
    Generation,
    Labels,
    NextToken,
    Pack,
    Pad,
    StepCarry,
    StepPrediction,
    StepScores,
    Tag,
    Tokenize,
    Vectors,
    language_model,
)
from pipeline_recurrent import LSTM

texts = ["to be or not to be"]
tokenize = Tokenize.train(texts, bos=True, eos=True)
model = language_model(tokenize.vocab_size, embedding_dim=4, hidden_size=4)

# Texts and ids
of_texts = tokenize >> Bucket(rows=8) >> Pad() >> model
assert_type(of_texts.generate(texts, max_new_tokens=2), Iterator[str])
assert_type(of_texts.generate(texts, max_new_tokens=2, scores=True), Iterator[Generation[str]])
for text in of_texts.generate(["to", ""], max_new_tokens=2, top_k=3, seed=0):
    assert_type(text, str)
for found in of_texts.generate(texts, max_new_tokens=2, num_beams=2, scores=True):
    assert_type(found.output, str)
    assert_type(found.log_probability, float)
of_ids = FromIds() >> Bucket(rows=8) >> Pad() >> model
assert_type(of_ids.generate([[1, 2]], max_new_tokens=2), Iterator[list[int]])
assert_type(of_ids.generate([torch.tensor([1])], max_new_tokens=2, scores=True), Iterator[Generation[list[int]]])

# One row, step by step
token, carry = of_texts.step(2)
assert_type(token, StepPrediction[int])
assert_type(carry, StepCarry)
sensor = FromFeatures() >> Bucket(Vectors, rows=8) >> Pad(Vectors) >> Encode(LSTM(2, 3)) >> Tag(Labels(["on", "off"]))
tag, carry = sensor.step([0.5, 1.0])
tag, carry = sensor.step(torch.ones(2), carry)
assert_type(tag.label, str)

# Many rows
chain = Pack() >> Embed(9, 4) >> Encode(LSTM(4, 3)) >> NextToken(9)
scores, carry = chain.step(torch.tensor([1, 2]))
assert_type(scores, StepScores[int])
scores, carry = chain.step(Pad()([FromIds()([3]), FromIds()([])]), carry.select(torch.tensor([1, 0])))

# For inference: of the same type
fast = of_texts.for_inference(precision="float32", examples=texts)
assert_type(fast.generate(texts, max_new_tokens=2), Iterator[str])
token, carry = fast.step(2)
assert_type(token, StepPrediction[int])
scores, carry = chain.for_inference().step(torch.tensor([1, 2]))
assert_type(scores, StepScores[int])
