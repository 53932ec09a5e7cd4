"""Train a decoder to write numbers in words, character by character in: `python docs/examples/spell_numbers.py`."""

import random

import torch

from pipeline import Bucket, Embed, Encode, Example, Pack, Pad, Texts, Tokenize
from pipeline_decoders import RecurrentDecoder
from pipeline_recurrent import GRU

ONES = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spell(number: int) -> str:
    """Return a number below 10,000 in words: `three hundred forty two`."""
    if number >= 1_000:
        return f"{ONES[number // 1_000]} thousand {spell(number % 1_000) if number % 1_000 else ''}".strip()
    if number >= 100:
        return f"{ONES[number // 100]} hundred {spell(number % 100) if number % 100 else ''}".strip()
    return ONES[number] if number < 20 else f"{TENS[number // 10]} {ONES[number % 10] if number % 10 else ''}".strip()


# Data: a source text, and a target text of another length, each with a tokenizer of its own.
torch.default_generator.manual_seed(0)
numbers = random.Random(0).sample(range(10_000), 3_200)
examples = [Example(str(number), target=spell(number)) for number in numbers]
train, valid = examples[:3_000], examples[3_000:]
source = Tokenize.train([each.input for each in train], "characters")
target = Tokenize.train([str(each.target) for each in train], bos=True, eos=True)
data = source >> Bucket(rows=32, seed=0) >> Pad(targets=Texts(target))

# Stages: the decoder attends to all states of the encoder, and writes word by word until eos.
states = Pack() >> Embed(source.vocab_size, 32) >> Encode(GRU(32, 48, bidirectional=True))
pipe = data >> states >> RecurrentDecoder(target, embedding_size=32, hidden_size=96, search={"max_new_tokens": 12})
pipe.fit(train, epochs=10, learning_rate=0.01, schedule="cosine")

# Prediction: the most probable word each time; then the three best texts of a beam search, with their probabilities.
evaluation = pipe.evaluate(valid)
print(evaluation)
print(list(pipe.predict(["7", "4096", "777"])))
decoder = pipe.stages["recurrent_decoder"]
assert isinstance(decoder, RecurrentDecoder)
decoder.set_search(num_beams=4, num_return_sequences=3)
for found in next(pipe.predict(["1066"], scores=True)):
    print(f"{found.log_probability:.3f} {found.output}")
print(f"accuracy on {len(valid)} held-out numbers: {evaluation['exact_match']:.1%}")
