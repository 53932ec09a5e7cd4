"""Tag words by their ids and characters: `words_and_characters.py [TRAIN TEST]`, sentences in CoNLL-U."""

import random
import sys
import tempfile
from operator import methodcaller
from pathlib import Path

import attrs
import torch

import pipeline as pl
from pipeline.sources import Conllu


def write_sentences(file: Path, rows: int = 200) -> str:
    """Write random words whose ending is that of their part of speech, as in `417ed`."""
    lines, endings = list[str](), {"ed": "VERB", "ly": "ADV", "er": "NOUN"}
    for _ in range(rows):
        chosen = enumerate(random.choices([*endings.items()], k=random.randint(2, 12)), start=1)
        lines += [f"{n}\t{random.randrange(10_000)}{end}\t_\t{tag}" + "\t_" * 6 for n, (end, tag) in chosen] + [""]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


@attrs.frozen(eq=False)
class Token(pl.Fields):
    """The fields of a step."""

    word: pl.Ids
    letters: pl.Nested[pl.Ids]


# Data: each word as an id, unknown if it occurs once, and as a sequence of characters.
files = sys.argv[1:] or [write_sentences(Path(tempfile.mkdtemp()) / "words.conllu") for _ in range(2)]
train, test = (Conllu(file, inputs=["form", "upos"], target="upos") for file in files)
forms = [one["form"] for one in train.inputs()]
words = pl.TokenizeWords.train(forms, lowercase=True, min_frequency=2)
letters = pl.Tokenize.train((word for form in forms for word in form), "characters")
labels = pl.Labels.from_targets(train.targets())
rows = pl.FromColumns(Token, word=pl.read(words, "form"), letters=pl.read(pl.FromNested(letters), "form"))
data = rows >> pl.Bucket(Token, max_padded_steps=800, seed=0) >> pl.Pad(Token, labels=labels)

# Model: the characters of each distinct word of a batch are encoded once.
torch.default_generator.manual_seed(0)
spell = pl.EachStep(pl.Embed(letters.vocab_size, 32) >> pl.Encode("bilstm", hidden_size=64) >> pl.Pool("final"))
fields = pl.EmbedFields(Token, word=pl.through(pl.Embed(words.vocab_size, 100)), letters=pl.through(spell))
encode = pl.Dropout(0.5) >> pl.Encode("bilstm", hidden_size=200) >> pl.Dropout(0.5)
model = pl.Pack(Token) >> fields >> encode >> pl.Tag(labels)

optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for _ in range(12):
    for batch in data(train):
        optimizer.zero_grad()
        torch.autograd.backward(model(batch).loss())
        methodcaller("step")(optimizer)
    optimizer.param_groups[0]["lr"] *= 0.8
pairs = zip((data >> model).predict(test.inputs()), test.inputs(), strict=True)
right = [found == tag for tags, one in pairs for found, tag in zip(tags, one["upos"], strict=True)]
print(f"accuracy on {len(right)} held-out words: {sum(right) / len(right):.1%}")
