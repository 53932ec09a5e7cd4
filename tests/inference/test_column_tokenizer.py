"""Texts are tokenized into columns: training on the ids equals training on the texts."""

import pickle
from typing import Any

import pytest

from pipeline import Bucket, ColumnTokenizer, Example, FromIds, Labels, Pad, Tokenize, TokenizeWords
from pipeline.errors import TargetError, TextError
from support.untyped import to_list

TEXTS = ["to be", "", "or not to be", "not"]
WORDS = [["unbelievably", "so"], [], ["to", "be"]]
TAGS = [["ADV", "X"], [], ["PART", "AUX"]]


def list_batches(pipe: Any, inputs: Any) -> list[Any]:
    """Return values and targets of each batch."""
    return [
        (to_list(batch.values), None if batch.metadata.targets is None else to_list(batch.metadata.targets))
        for batch in pipe(inputs)
    ]


def test_ids_are_those_of_the_input_stage() -> None:
    """With bos, eos and truncation."""
    tokenize = Tokenize.train(TEXTS, "bpe", bos=True, eos=True, max_length=5, bos_token="[BOS]", eos_token="[EOS]")
    columns: dict[str, Any] = {"review": TEXTS}
    found = ColumnTokenizer(tokenize, "review", ids="tokens", length="n")(columns)
    assert list(found) == ["review", "tokens", "n"]
    assert found["tokens"] == [to_list(row.sequence.values) for row in tokenize.map(TEXTS)]
    assert found["n"] == list(map(len, found["tokens"]))


def test_batches_of_ids_are_those_of_texts() -> None:
    """So training is the same."""
    tokenize = Tokenize.train(TEXTS)
    columns: dict[str, Any] = pickle.loads(pickle.dumps(ColumnTokenizer(tokenize, length=None)))({"text": TEXTS})
    assert list(columns) == ["text", "ids"]
    rest = Bucket(rows=2) >> Pad()
    assert list_batches(FromIds() >> rest, columns["ids"]) == list_batches(tokenize >> rest, TEXTS)


def test_targets_per_word_become_targets_per_id() -> None:
    """A word's later tokens have none; the batches are those of words and their targets."""
    tokenize = TokenizeWords.train(WORDS, "characters", eos=True, eos_token="[EOS]")
    given: dict[str, Any] = {"words": WORDS, "tags": TAGS}
    columns = ColumnTokenizer(tokenize, "words", target="tags")(given)
    assert columns["tags"][0] == ["ADV", *[None] * 11, "X", None, None]
    assert columns["tags"][1] == [None]
    rest = Bucket(rows=2) >> Pad(labels=Labels.from_targets(TAGS))
    from_ids = [Example(ids, tags) for ids, tags in zip(columns["ids"], columns["tags"], strict=True)]
    from_words = [Example(words, tags) for words, tags in zip(WORDS, TAGS, strict=True)]
    assert list_batches(FromIds() >> rest, from_ids) == list_batches(tokenize >> rest, from_words)


def test_errors_say_how_rows_are_numbered() -> None:
    """Of texts and of targets."""
    prepare = ColumnTokenizer(Tokenize.train(TEXTS))
    with pytest.raises(TextError, match="row 1 must be text, got a float") as info:
        prepare({"text": ["a", float("nan")]})
    assert info.value.__notes__ == ["Rows are numbered from 0 within a batch of 2 rows of column 'text'."]
    words = ColumnTokenizer(TokenizeWords.train(WORDS), "words", target="tags")
    with pytest.raises(TargetError, match="row 0"):
        words({"words": WORDS, "tags": [["ADV"], [], []]})
