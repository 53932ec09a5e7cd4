"""Tag words: `python docs/examples/tag_conllu.py [FILE]`, sentences in CoNLL-U with universal parts of speech."""

import random
import sys
import tempfile
from pathlib import Path

import torch

from pipeline import Bucket, Labels, Pad, TokenizeWords, tagger
from pipeline.sources import Conllu


def write_sentences(file: Path, rows: int = 400) -> Path:
    """Write sentences such as `the old run can walk`, where words are nouns or verbs by their neighbours."""
    rng, lines, both = random.Random(0), list[str](), ["run", "walk", "show", "play"]
    for _ in range(rows):
        words = list[tuple[str, str]]()
        for clause in range(rng.randint(1, 3)):
            words += [("and", "CCONJ")] * bool(clause) + [("the", "DET")] + [("old", "ADJ")] * rng.randint(0, 2)
            words += [(rng.choice(["dog", *both]), "NOUN"), ("can", "AUX"), (rng.choice(["sleep", *both]), "VERB")]
        lines += [f"{n}\t{word}\t_\t{tag}" + "\t_" * 6 for n, (word, tag) in enumerate(words, start=1)] + [""]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


# Data: sentences of words, and a tag per word.
file = Path(sys.argv[1]) if sys.argv[1:] else write_sentences(Path(tempfile.mkdtemp()) / "sentences.conllu")
train, valid = Conllu(file, target="upos").split(0.9, seed=0)

# Stages: words are cut into byte pairs, and a word is tagged at one of its pieces.
torch.default_generator.manual_seed(0)
tokenize = TokenizeWords.train(train.inputs(), "bpe", vocab_size=2_000)
labels = Labels.from_targets(train.targets())
data = tokenize >> Bucket(max_padded_steps=1_000, seed=0) >> Pad(labels=labels)
pipe = data >> tagger(tokenize.vocab_size, labels, embedding_dim=64, hidden_size=64)

# Training, and evaluation: precision and recall of each tag.
pipe.fit(train, epochs=2, learning_rate=0.01)
evaluation = pipe.evaluate(valid)
print(evaluation)
words = int(evaluation.confusion.counts.sum())
print(f"accuracy on {words} held-out words: {evaluation['accuracy']:.1%}")
