"""Lengths and tokens that are kept: equal to tokenizing each text by itself, made once, and never another's."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pipeline.sources.kept import Store
from pipeline.sources.reuse import Known
from torch.utils.data import DataLoader
from typing_extensions import override

from pipeline import Example, Pad, Tokenize, Tokenizer, TokenizeWords
from pipeline.batching import Budget
from pipeline.builtin.tokenizers import HuggingFaceTokenizer
from pipeline.errors import OptionError, RecordError, SourceError, TextError
from pipeline.loading import PlannedBatches
from pipeline.parts.tokenizer import Tokens
from pipeline.sources import Csv, JsonLines, Records, TextLines, Tokenized, lengths_of

TEXTS = ["to be", "", "or not to be", "that", "to be"]


class Counting:
    """What is handed to a tokenizer, counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[object] = []
        for name in ("encode", "encode_words"):
            plain = getattr(HuggingFaceTokenizer, name)

            def counted(made: HuggingFaceTokenizer, inputs: Sequence[Any], *, plain: Any = plain, offsets: bool = True) -> Any:
                self.texts.extend(inputs)
                return plain(made, inputs, offsets=offsets)

            monkeypatch.setattr(HuggingFaceTokenizer, name, counted)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """From now on."""
    return Counting(monkeypatch)


def same(rows: Any, wanted: Any) -> None:
    """Rows with the same ids, offsets, targets, places and askings."""
    for row, other in zip(rows, wanted, strict=True):
        torch.testing.assert_close(row.sequence.values, other.sequence.values)
        if other.sequence.offsets is None:
            assert row.sequence.offsets is None
        else:
            torch.testing.assert_close(row.sequence.offsets, other.sequence.offsets)
        assert (row.target, row.place, row.asked) == (other.target, other.place, other.asked)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("max_length", [None, 2, 3])
@pytest.mark.parametrize("offsets", [False, True])
def test_rows_are_those_of_the_door(tmp_path: Path, bos: bool, max_length: int | None, offsets: bool) -> None:
    """Whatever is added and cut off, and with the same lengths."""
    source = Records([Example(text, target=number) for number, text in enumerate(TEXTS)])
    made = Tokenize.train(TEXTS, "bpe", vocab_size=270)
    tokenize = Tokenize(made.tokenizer, bos=bos, eos=bos, max_length=max_length, offsets=offsets)
    wanted = list(tokenize.map(source))
    for _ in range(2):
        rows = Tokenized(source, tokenize, cache=tmp_path)
        same(rows, wanted)
        same([rows[number] for number in range(len(rows))], wanted)
        same(pickle.loads(pickle.dumps(rows)), wanted)
        lengths = [len(row) for row in wanted]
        assert rows.lengths.tolist() == lengths_of(source, tokenize, cache=tmp_path).tolist() == lengths
        assert lengths_of(source, tokenize).tolist() == lengths
    assert len(list(tmp_path.iterdir())) == 2


def test_rows_of_words_are_those_of_the_door(tmp_path: Path) -> None:
    """With their targets at first pieces, and unknown tokens for words that leave none."""
    rows = [["unseen", "be"], [], ["to", "", "to"]]
    source = Records([Example(words, target=["X"] * len(words)) for words in rows])
    tokenize = TokenizeWords.train([["to", "be"]], "bpe", vocab_size=260, min_frequency=1)
    made = Tokenized(source, tokenize, cache=tmp_path)
    same(made, tokenize.map(source))
    assert made.lengths.tolist() == [len(row) for row in tokenize.map(source)]


def test_nothing_is_tokenized_twice(tmp_path: Path, counting: Counting) -> None:
    """Neither at the next start, nor after records were added, changed or moved: then those that are new are."""
    tokenize = Tokenize.train(TEXTS)
    file = tmp_path / "a.txt"
    file.write_text("to be\nor not\n")
    kept = tmp_path / "kept"
    assert lengths_of(TextLines(file), tokenize, cache=kept).tolist() == [2, 2]
    assert lengths_of(TextLines(file), tokenize, cache=kept).tolist() == [2, 2]
    assert counting.texts == ["to be", "or not"]
    file.write_text("new to be\nto be\nor not\nor not\nthat new\n")
    counting.texts.clear()
    assert lengths_of(TextLines(file), tokenize, cache=kept).tolist() == [3, 2, 2, 2, 2]
    assert counting.texts == ["new to be", "that new"]
    assert Tokenized(TextLines(file), tokenize, cache=kept).lengths.tolist() == [3, 2, 2, 2, 2]
    counting.texts.clear()
    written = tmp_path / "a.jsonl"
    written.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("that new", "to be", "unseen")))
    rows = Tokenized(JsonLines(written), tokenize, cache=kept)
    assert counting.texts == ["unseen"]
    same(rows, tokenize.map(["that new", "to be", "unseen"]))


def test_another_tokenizer_has_lengths_of_its_own(tmp_path: Path, counting: Counting) -> None:
    """As well as another meaning of its tokens; bos, eos and truncation are no part of what is kept."""
    source = Records(TEXTS)
    characters, words = Tokenize.train(TEXTS, "characters"), Tokenize.train(TEXTS)
    assert lengths_of(source, words, cache=tmp_path).tolist() == [2, 0, 4, 1, 2]
    assert lengths_of(source, characters, cache=tmp_path).tolist() == [5, 0, 12, 4, 5]
    counting.texts.clear()
    assert lengths_of(source, Tokenize(words.tokenizer, bos=True), cache=tmp_path).tolist() == [3, 1, 5, 2, 3]
    assert lengths_of(source, Tokenize(words.tokenizer, eos=True, max_length=3), cache=tmp_path).tolist() == [
        3,
        1,
        3,
        2,
        3,
    ]
    assert lengths_of(source, Tokenize.train(TEXTS), cache=tmp_path).tolist() == [2, 0, 4, 1, 2]
    assert not counting.texts
    assert words.tokenizer.cache_key() != characters.tokenizer.cache_key()


@given(
    before=st.lists(st.sampled_from(["a", "b c", "c c c", ""]), max_size=6),
    after=st.lists(st.sampled_from(["a", "b c", "c c c", "", "d d d d d"]), max_size=8),
)
def test_what_is_reused_is_what_would_be_made(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], after: list[str]
) -> None:
    """Whatever was there before."""
    kept = tmp_path_factory.mktemp("kept")
    tokenize = Tokenize.train(["a b c d"])
    for texts in (before, after):
        same(Tokenized(Records(texts), tokenize, cache=kept), tokenize.map(texts))
        assert lengths_of(Records(texts), tokenize, cache=kept).tolist() == [len(text.split()) for text in texts]


def test_equal_halves_of_digests_are_told_apart() -> None:
    """Only a whole digest says that a text is known."""
    before = np.array([[1, 1], [1, 2], [3, 3]], np.uint64)
    after = np.array([[1, 1], [1, 3], [3, 3], [4, 4]], np.uint64)
    assert Known(before).rows(after).tolist() == [0, -1, 2, -1]
    assert Known(before[:0]).rows(after).tolist() == [-1] * 4


def test_what_is_broken_is_made_anew(tmp_path: Path, counting: Counting) -> None:
    """A file that is cut off, notes that are none, another layout, and what was half written."""
    tokenize, source = Tokenize.train(TEXTS), Records(TEXTS)
    wanted = lengths_of(source, tokenize, cache=tmp_path).tolist()
    folder = next(tmp_path.iterdir())
    (tmp_path / f"{folder.name}-x.part").mkdir()
    for file, content in (
        ("counts.npy", b"\x93NUMPY"),
        ("kept.json", b"{"),
        ("kept.json", b"[]"),
        ("kept.json", b'{"format": 0, "sizes": {}, "notes": {}}'),
        ("digests.npy", None),
    ):
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(content)
        assert Store(tmp_path).load(folder.name) is None
        counting.texts.clear()
        assert lengths_of(source, tokenize, cache=tmp_path).tolist() == wanted
        assert counting.texts == TEXTS
        assert Store(tmp_path).load(folder.name) is not None


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    """An error on the way leaves the folder as it was."""
    file = tmp_path / "a.csv"
    file.write_text("text\n" + "a\n" * 5_000 + "b,c\n")
    with pytest.raises(RecordError, match=r"a\.csv, line 5002: a record must have 1 fields"):
        lengths_of(Csv(file), Tokenize.train(TEXTS), cache=tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


def test_the_row_at_fault_is_named(tmp_path: Path) -> None:
    """Also where rows before it were known already."""
    tokenize = Tokenize.train(TEXTS)
    lengths_of(Records(["a", "b"]), tokenize, cache=tmp_path)
    with pytest.raises(TextError, match="row 2 holds a lone surrogate"):
        lengths_of(Records(["a", "b", "\ud800"]), tokenize, cache=tmp_path)


def test_rows_that_are_gone_are_missed(tmp_path: Path) -> None:
    """A worker that finds no kept tokens says so."""
    rows = pickle.dumps(Tokenized(Records(TEXTS), Tokenize.train(TEXTS), cache=tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(SourceError, match="is gone, or is not whole any more; make the rows anew"):
        pickle.loads(rows)[0]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """By its path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="cannot be written to .*; name another folder"):
        lengths_of(Records(TEXTS), Tokenize.train(TEXTS), cache=tmp_path / "file")


class Silent(Tokenizer):
    """Does not say its content."""

    vocabulary = {"a": 0}  # noqa: RUF012
    pad_token = unk_token = bos_token = eos_token = None

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        return [Tokens([0] * len(text)) for text in texts]

    @override
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        return []

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return "a" * len(ids)


def test_a_tokenizer_that_does_not_say_its_content_is_not_kept(tmp_path: Path) -> None:
    """It is asked each time, without a folder."""
    tokenize = Tokenize(Silent(), offsets=False)
    assert lengths_of(Records(TEXTS), tokenize).tolist() == [5, 0, 12, 4, 5]
    with pytest.raises(
        OptionError, match="'Silent' does not say its content, .*; write its method `content`, or leave"
    ):
        lengths_of(Records(TEXTS), tokenize, cache=tmp_path)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_loader_with_workers_reads_rows_as_planned(tmp_path: Path, context: str) -> None:
    """A sampler of row numbers, planned by lengths, and a source after tokenizing."""
    tokenize = Tokenize.train(TEXTS)
    file = tmp_path / "a.txt"
    file.write_text("\n".join(TEXTS * 4))
    rows = Tokenized(TextLines(file, target=1), tokenize, cache=tmp_path / "kept")
    sampler = PlannedBatches(rows.lengths, Budget(8))
    loader = DataLoader(rows, batch_sampler=sampler, num_workers=2, collate_fn=Pad(), multiprocessing_context=context)
    places = [place for batch in loader for place in batch.metadata.places.tolist()]
    assert sorted(places) == list(range(20))
