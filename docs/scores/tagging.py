"""Parts of speech on Universal Dependencies English EWT, from words and their characters, without given vectors."""

from pathlib import Path
from typing import Final

import torch

from pipeline import Bucket, Labels, Pad, SpelledWord, SpellWords, character_tagger
from pipeline.sources import Conllu
from pipeline_embeddings import CharacterLSTM
from scores.task import Task

_EPOCHS: Final = 10


def run(folder: Path, seed: int) -> dict[str, float]:
    """Train on the training set, keep the best epoch on the development set, and return both accuracies."""
    parts = (folder / f"en_ewt-ud-{part}.conllu" for part in ("train", "dev", "test"))
    train, valid, test = (Conllu(file, target="upos") for file in parts)
    spell, labels = SpellWords.train(train.inputs()), Labels.from_targets(train.targets())

    torch.default_generator.manual_seed(seed)
    data = spell >> Bucket(SpelledWord, max_padded_steps=800, seed=seed) >> Pad(SpelledWord, labels=labels)
    characters = CharacterLSTM(spell.num_characters, embedding_dim=64, hidden_size=128)
    pipe = data >> character_tagger(
        spell.vocab_size, spell.num_characters, labels, characters=characters, embedding_dim=128, hidden_size=256
    )
    pipe.fit(train, valid=valid, epochs=_EPOCHS, learning_rate=0.003, schedule="cosine", ema=0.998, seed=seed)
    return {"accuracy": 100 * pipe.evaluate(test)["accuracy"], "on dev": 100 * pipe.evaluate(valid)["accuracy"]}


TASK: Final = Task(
    "tagging",
    "Universal Dependencies English EWT, universal parts of speech, test set",
    "accuracy in %",
    94.6,
    run,
)
