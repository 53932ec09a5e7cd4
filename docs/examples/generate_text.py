"""Train a language model on short sentences, and let it end new ones: `python docs/examples/generate_text.py`."""

from itertools import product

import torch

from pipeline import Bucket, Embed, Encode, NextToken, Pad, Shift, Tokenize
from pipeline_recurrent import LSTM

VERBS = {"dog": "bark", "cat": "sleep", "bird": "sing", "horse": "run", "fish": "swim", "bee": "buzz"}


def make_sentences() -> list[str]:
    """Make sentences such as `the dogs near the old car bark`. The verb follows from the first noun alone."""
    sentences: list[str] = []
    things = ["car", "cars", "house", "houses", "river", "trees"]
    for (noun, verb), many, adjective, thing in product(VERBS.items(), [False, True], ["old", "red", "big"], things):
        subject, end = (f"{noun}s", verb) if many else (noun, f"{verb}s")
        sentences.append(f"the {subject} near the {adjective} {thing} {end}")
    return sentences


# Data: every target is the token after. bos begins a text that is generated from nothing, eos ends it.
torch.default_generator.manual_seed(0)
texts = make_sentences()
train = [text for number, text in enumerate(texts) if number % 5]
valid = [text for number, text in enumerate(texts) if number % 5 == 0]
tokenize = Tokenize.train(texts, bos=True, eos=True)
data = tokenize >> Shift() >> Bucket(max_padded_steps=300, seed=0) >> Pad()

# Stages: causal ones, so that the model can run token by token.
model = Embed(tokenize.vocab_size, 32) >> Encode(LSTM(32, 64)) >> NextToken(tokenize.vocab_size)
pipe = data >> model
pipe.fit(train, epochs=40, learning_rate=0.01)

# Generation: three texts from nothing, then the most probable end of each sentence that was held out.
for text in pipe.generate([""] * 3, max_new_tokens=12, top_p=0.9, seed=0):
    print(text)
prompts, ends = [text.rpartition(" ")[0] for text in valid], [text.rpartition(" ")[2] for text in valid]
found = pipe.generate(prompts, max_new_tokens=3, temperature=0)
right = sum(text == end for text, end in zip(found, ends, strict=True))
print(f"accuracy on {len(valid)} held-out sentences: {right / len(valid):.1%}")
