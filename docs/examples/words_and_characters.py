"""Tag words by their ids and characters: `words_and_characters.py [TRAIN TEST]`, sentences in CoNLL-U."""

import random
import sys
import tempfile
from pathlib import Path

import torch

from pipeline import Bucket, Labels, Pad, SpelledWord, SpellWords, character_tagger
from pipeline.sources import Conllu
from pipeline_embeddings import CharacterLSTM


def write_sentences(file: Path, rows: int = 200) -> str:
    """Write random words whose ending is that of their part of speech, as in `417ed`."""
    lines, endings = list[str](), {"ed": "VERB", "ly": "ADV", "er": "NOUN"}
    for _ in range(rows):
        chosen = enumerate(random.choices([*endings.items()], k=random.randint(2, 12)), start=1)
        lines += [f"{n}\t{random.randrange(10_000)}{end}\t_\t{tag}" + "\t_" * 6 for n, (end, tag) in chosen] + [""]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


files = sys.argv[1:] or [write_sentences(Path(tempfile.mkdtemp()) / f"{name}.conllu") for name in ("train", "test")]
train, test = (Conllu(file, target="upos") for file in files)
torch.default_generator.manual_seed(0)

# Data: each word as an id, unknown if it occurs once, and as a sequence of characters.
spell, labels = SpellWords.train(train.inputs()), Labels.from_targets(train.targets())
data = spell >> Bucket(SpelledWord, max_padded_steps=800, seed=0) >> Pad(SpelledWord, labels=labels)

# Model: the characters of each distinct word of a batch are encoded once.
characters = CharacterLSTM(spell.num_characters, embedding_dim=32, hidden_size=64)
pipe = data >> character_tagger(spell.vocab_size, spell.num_characters, labels, characters=characters)

pipe.fit(train, epochs=12, learning_rate=2e-3, schedule="cosine")
evaluation = pipe.evaluate(test)
words = int(evaluation.confusion.counts.sum())
print(f"accuracy on {words} held-out words: {evaluation['accuracy']:.1%}")
