"""Tokenizers are saved as the library's own files, with all that belongs to them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from pipeline import (
    Bucket,
    Classify,
    Embed,
    Encode,
    Pad,
    Pool,
    StreamChain,
    TextPair,
    Tokenize,
    TokenizePair,
    TokenizeWords,
    load,
    matcher,
)
from pipeline.errors import LoadError
from pipeline.saving.tokenizer_files import describe_tokenizer, make_tokenizer, name_tokenizer_file
from support.fakes import Fakes
from support.untyped import as_any, to_list

TEXTS = ["To be, or not to be", "naïve café", "\U0001f600 a\tb\n"]

OWN = '''\
from pipeline import Tokenizer
from pipeline.extend import Tokens, hookimpl


class Letters(Tokenizer):
    """One token per letter of an alphabet."""

    pad_token = unk_token = bos_token = eos_token = None

    def __init__(self, texts=(), *, alphabet=""):
        self.alphabet = alphabet or "".join(sorted(set("".join(texts))))
        self.vocabulary = {letter: number for number, letter in enumerate(self.alphabet)}

    def get_config(self):
        return {"alphabet": self.alphabet}

    @classmethod
    def from_config(cls, config):
        return cls(alphabet=config["alphabet"])

    def encode(self, texts, *, offsets=True):
        return [self._encode(text) for text in texts]

    def _encode(self, text):
        known = [place for place, letter in enumerate(text) if letter in self.vocabulary]
        return Tokens([self.vocabulary[text[place]] for place in known], [(place, place + 1) for place in known])

    def encode_words(self, rows, *, offsets=True):
        found = [[self._encode(word) for word in row] for row in rows]
        return [
            Tokens(
                [number for word in row for number in word.ids],
                [span for word in row for span in word.offsets],
                [index for index, word in enumerate(row) for _ in word.ids],
            )
            for row in found
        ]

    def decode(self, ids):
        return "".join(self.alphabet[number] for number in ids)


@hookimpl
def pipeline_tokenizers():
    return {"letters": Letters}
'''


def finish(tokenize: Any) -> StreamChain[Any, Any]:
    """Return a pipe with an input stage."""
    pipe: StreamChain[Any, Any] = (
        tokenize
        >> Bucket(rows=2)
        >> Pad()
        >> Embed(999, 3)
        >> Encode("lstm", hidden_size=3)
        >> Pool("max")
        >> Classify(2)
    )
    return pipe


MAKERS: dict[str, Callable[[], Tokenize]] = {
    "words": lambda: Tokenize.train(TEXTS, lowercase=True, normalization="NFKD", max_length=3),
    "characters": lambda: Tokenize.train(TEXTS, "characters", bos=True, pad_token="[P]", bos_token="[B]"),
    "bytes": lambda: Tokenize.train(TEXTS, "bytes", eos=True, unk_token=None),
    "bpe": lambda: Tokenize.train(TEXTS, "bpe", vocab_size=300, lowercase=True),
    "whole": lambda: Tokenize.train(TEXTS, "whole", offsets=False).with_token_targets(),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_a_tokenizer_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    """With its special tokens, its normalization and its options."""
    tokenize = MAKERS[name]()
    finish(tokenize).save(tmp_path / "pipe")
    found: Tokenize = as_any(load(tmp_path / "pipe").stages["tokenize"])
    for text in [*TEXTS, "", "<pad> unseen"]:
        row, other = tokenize(text), found(text)
        assert row.sequence.values.equal(other.sequence.values)
        assert (row.sequence.offsets is None) == (other.sequence.offsets is None)
        assert row.sequence.offsets is None or row.sequence.offsets.equal(as_any(other.sequence.offsets))
        assert tokenize.decode(to_list(row.sequence.values)) == found.decode(to_list(other.sequence.values))
    assert found.has_token_targets == tokenize.has_token_targets
    assert found.tokenizer.cache_key() == tokenize.tokenizer.cache_key()


def test_the_file_is_that_of_the_library(tmp_path: Path) -> None:
    """Other tools read it."""
    finish(Tokenize.train(TEXTS)).save(tmp_path / "pipe")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "pipe" / "tokenizer.json"))
    assert theirs.encode("To be").ids == to_list(
        as_any(load(tmp_path / "pipe").stages["tokenize"])("To be").sequence.values
    )


def test_several_tokenizers_have_a_file_each(tmp_path: Path) -> None:
    """One that occurs twice has one."""
    one, two = Tokenize.train(TEXTS), Tokenize.train(TEXTS, "bytes")
    pipe = TokenizePair(one, two) >> Bucket(TextPair, rows=2) >> Pad(TextPair) >> matcher(300, 2, hidden_size=3)
    pipe.save(tmp_path / "pipe")
    assert {file.name for file in (tmp_path / "pipe").glob("tokenizer*")} == {"tokenizer-1.json", "tokenizer-2.json"}
    stage = as_any(load(tmp_path / "pipe").stages["tokenize_pair"])
    assert stage.first.tokenizer.cache_key() == one.tokenizer.cache_key()
    assert stage.second.tokenizer.cache_key() == two.tokenizer.cache_key()
    both = TokenizePair(one) >> Bucket(TextPair, rows=2) >> Pad(TextPair) >> matcher(300, 2, hidden_size=3)
    both.save(tmp_path / "both")
    shared = as_any(load(tmp_path / "both").stages["tokenize_pair"])
    assert shared.first is shared.second
    assert name_tokenizer_file(0, 1) == "tokenizer.json"


def test_a_tokenizer_of_ones_own_is_saved_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what its get_config returns, and without a file."""
    Fakes(tmp_path / "packages", monkeypatch).add("pipeline-letters", OWN)
    finish(Tokenize.train(["abc"], "letters")).save(tmp_path / "pipe")
    assert not list((tmp_path / "pipe").glob("tokenizer*"))
    config = json.loads((tmp_path / "pipe" / "pipeline.json").read_text())
    assert config["tokenizers"] == [{"name": "letters", "config": {"alphabet": "abc"}}]
    found: Tokenize = as_any(load(tmp_path / "pipe", takes=str, gives=int).stages["tokenize"])
    assert to_list(found("cab").sequence.values) == [2, 0, 1]


@pytest.mark.parametrize(
    "described",
    [
        None,
        {},
        {"file": "a"},
        {"file": "b", "tokens": {}},
        {"file": "a", "tokens": {"pad_token": 1}},
        {"name": "words", "config": {}},
    ],
)
def test_other_descriptions_are_rejected(described: Any) -> None:
    """A tokenizer that is trained has no from_config."""
    with pytest.raises(LoadError, match=r"tokenizer '.*' is not valid"):
        make_tokenizer(described, {"a": b"{}"})


def test_a_description_makes_an_equal_tokenizer() -> None:
    """Of the content of its file."""
    tokenizer = TokenizeWords.train([["a", "b"]]).tokenizer
    described, text = describe_tokenizer(tokenizer, "tokenizer.json")
    assert text is not None
    assert make_tokenizer(described, {"tokenizer.json": text.encode()}).cache_key() == tokenizer.cache_key()
