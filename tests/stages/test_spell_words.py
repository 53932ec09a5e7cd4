"""Tests of `SpellWords`, and of the tagger that reads its rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
import torch

from pipeline import (
    Bucket,
    Example,
    Labels,
    Pad,
    SpelledWord,
    SpellWords,
    StepScores,
    StreamChain,
    Tokenize,
    TokenizeWords,
    character_tagger,
    load,
)
from pipeline.errors import ShapeError, TargetError, TextError
from pipeline.sources import Conllu
from pipeline_embeddings import CharacterCNN
from support.untyped import as_any, to_list, untyped

SENTENCES: Final = [["To", "be"], ["or", "not", "to", "be"], ["be"]]
TAGS: Final = [["PART", "VERB"], ["CONJ", "ADV", "PART", "VERB"], ["VERB"]]
LABELS: Final = Labels(["ADV", "CONJ", "PART", "VERB"])
Pipe = StreamChain[Sequence[str] | Example[Sequence[str]], StepScores[str]]


def make_pipe(characters: str = "character_lstm") -> Pipe:
    """Return a pipe for the sentences."""
    spell = SpellWords.train(SENTENCES, min_frequency=1)
    data = spell >> Bucket(SpelledWord, max_padded_steps=12, seed=0) >> Pad(SpelledWord, labels=LABELS)
    torch.default_generator.manual_seed(0)
    model = character_tagger(spell.vocab_size, spell.num_characters, LABELS, characters=characters, hidden_size=8)
    return data >> model


def test_words_and_characters_are_read() -> None:
    """Words in lower case, characters as they are; targets are one per word."""
    spell = SpellWords.train(SENTENCES, min_frequency=1)
    row = spell(Example(["To", "bee", ""], target=["PART", "VERB", None]))
    words, letters = spell.words.tokenizer.vocabulary, spell.characters.tokenizer.vocabulary
    assert to_list(row.sequence.word.values) == [words["to"], 1, 1]
    assert to_list(row.sequence.characters.counts) == [2, 3, 0]
    assert to_list(row.sequence.characters.inner.values) == [letters[letter] for letter in "Tobee"]
    assert list(as_any(row.target)) == ["PART", "VERB", None]
    assert (spell.vocab_size, spell.num_characters) == (len(words), len(letters))


def test_rare_words_and_characters_are_unknown() -> None:
    """By default those that occur once."""
    spell = SpellWords.train(SENTENCES)
    assert set(spell.words.tokenizer.vocabulary) == {"<pad>", "<unk>", "<bos>", "<eos>", "to", "be"}
    assert set("Tr").isdisjoint(spell.characters.tokenizer.vocabulary)
    assert set("oben").difference(spell.characters.tokenizer.vocabulary) == {"n"}
    assert SpellWords.train(SENTENCES, lowercase=False).vocab_size == 5
    assert SpellWords.train(SENTENCES, vocab_size=5).vocab_size == 5


def test_rows_may_be_read_from_an_iterator() -> None:
    """Words and characters are collected in one pass over the inputs."""
    assert SpellWords.train(iter(SENTENCES)).vocab_size == SpellWords.train(SENTENCES).vocab_size


def test_places_are_those_of_the_words() -> None:
    """In the words joined by spaces."""
    (found,) = make_pipe().predict([["To", "be"]], scores=True)
    assert [each.span for each in found] == [(0, 2), (3, 5)]


@pytest.mark.parametrize("characters", ["character_lstm", "character_cnn"])
def test_tagger_trains_saves_and_loads(tmp_path: Path, characters: str) -> None:
    """Without passing the class of rows to `load`; empty sentences and words are legal."""
    pipe = make_pipe(characters)
    examples = [Example(words, target=tags) for words, tags in zip(SENTENCES, TAGS, strict=True)]
    pipe.fit(examples, epochs=40, learning_rate=0.02, progress=False)
    assert pipe.evaluate(examples)["accuracy"] == 1
    pipe.save(tmp_path / "saved")
    inputs: list[Sequence[str]] = [*SENTENCES, [], ["", "unseen"]]
    found = list(pipe.predict(inputs))
    assert list(map(len, found)) == [2, 4, 1, 0, 2]
    assert list(load(tmp_path / "saved").predict(inputs)) == found


def test_tagger_reads_files_in_five_lines(tmp_path: Path) -> None:
    """Sentences in CoNLL-U."""
    file = tmp_path / "train.conllu"
    lines: list[str] = []
    for words, tags in zip(SENTENCES, TAGS, strict=True):
        pairs = enumerate(zip(words, tags, strict=True), start=1)
        lines += [f"{number}\t{word}\t_\t{tag}" + "\t_" * 6 for number, (word, tag) in pairs] + [""]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    train = Conllu(str(file), target="upos")
    spell, labels = SpellWords.train(train.inputs()), Labels.from_targets(train.targets())
    data = spell >> Bucket(SpelledWord, max_padded_steps=800, seed=0) >> Pad(SpelledWord, labels=labels)
    pipe = data >> character_tagger(spell.vocab_size, spell.num_characters, labels)
    pipe.fit(train, epochs=1, progress=False)
    assert list(map(len, pipe.predict(SENTENCES))) == [2, 4, 1]


def test_tagger_takes_an_embedder_of_characters() -> None:
    """With sizes of one's own."""
    model = character_tagger(9, 8, 4, characters=CharacterCNN(8, filters=7), embedding_dim=5, hidden_size=6)
    weights = model.state_dict()
    assert weights["encode.encoder.rnn.weight_ih_l0"].shape == (24, 12)


def test_unseen_words_are_told_apart_by_their_characters() -> None:
    """Two unknown words get different scores, and a word replaced by dropout keeps its characters."""
    spell = SpellWords.train(SENTENCES, min_frequency=1)
    model = character_tagger(spell.vocab_size, spell.num_characters, 4, hidden_size=8).eval()
    batch = Pad(SpelledWord)(list(spell.map([["bet"], ["ten"]])))
    assert to_list(batch.fields["word"].values if batch.fields else batch.values) == [[1], [1]]
    values = model(batch).values
    assert not torch.equal(values[0], values[1])


def test_wrong_inputs_raise() -> None:
    """With the row."""
    spell = SpellWords.train(SENTENCES)
    with pytest.raises(TextError, match=r"row 1"):
        list(spell.map(as_any([["to"], "to be"])))
    with pytest.raises(TargetError, match=r"row 0"):
        list(spell.map([Example(["to", "be"], target=["PART"])]))
    with pytest.raises(TextError):
        untyped(SpellWords.train)("to be")
    pieces = SpellWords(TokenizeWords.train(SENTENCES, "characters"), Tokenize.train(["tobe"], "characters"))
    with pytest.raises(ShapeError, match=r"must have one value per step each, but word has 4, characters has 2"):
        pieces(["to", "be"])
