"""Cached lengths and tokens: equal to those of the input stage, computed once, and never those of other records."""

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
from torch.utils.data import DataLoader
from typing_extensions import override

from pipeline import (
    Example,
    FromColumns,
    FromFeatures,
    FromIds,
    Pad,
    TextPair,
    Tokenize,
    TokenizePair,
    Tokenizer,
    TokenizeWords,
    read,
)
from pipeline.batching import Budget
from pipeline.builtin.tokenizers import HuggingFaceTokenizer
from pipeline.errors import OptionError, RecordError, SourceError, TextError
from pipeline.loading import Loader, PlannedBatches, RowDataset
from pipeline.parts.tokenizer import Tokens
from pipeline.sources import Csv, JsonLines, Records, TextLines, Tokenized, lengths_of
from pipeline.sources.tokenized import KnownInputs
from support.records import Event
from support.untyped import to_list, untyped

TEXTS = ["to be", "", "or not to be", "that", "to be"]


class Counting:
    """Record the inputs of a tokenizer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[object] = []
        for name in ("encode", "encode_words"):
            plain = getattr(HuggingFaceTokenizer, name)

            def counted(
                made: HuggingFaceTokenizer, inputs: Sequence[Any], *, plain: Any = plain, offsets: bool = True
            ) -> Any:
                self.texts.extend(inputs)
                return plain(made, inputs, offsets=offsets)

            monkeypatch.setattr(HuggingFaceTokenizer, name, counted)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Record inputs during a test."""
    return Counting(monkeypatch)


def assert_same(rows: Any, wanted: Any) -> None:
    """Compare ids, offsets, targets, row ids and answer masks of rows."""
    for row, other in zip(rows, wanted, strict=True):
        torch.testing.assert_close(row.sequence.values, other.sequence.values)
        if other.sequence.offsets is None:
            assert row.sequence.offsets is None
        else:
            torch.testing.assert_close(row.sequence.offsets, other.sequence.offsets)
        assert (row.target, row.row_id, row.answer_mask) == (other.target, other.row_id, other.answer_mask)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("max_length", [None, 2, 3])
@pytest.mark.parametrize("offsets", [False, True])
def test_rows_are_those_of_the_input_stage(tmp_path: Path, bos: bool, max_length: int | None, offsets: bool) -> None:
    """With bos, eos and truncation, and with the same lengths."""
    source = Records([Example(text, target=number) for number, text in enumerate(TEXTS)])
    made = Tokenize.train(TEXTS, "bpe", vocab_size=270)
    tokenize = Tokenize(made.tokenizer, bos=bos, eos=bos, max_length=max_length, offsets=offsets)
    wanted = list(tokenize.map(source))
    for _ in range(2):
        rows = Tokenized(source, tokenize, cache=tmp_path)
        assert_same(rows, wanted)
        assert_same([rows[number] for number in range(len(rows))], wanted)
        assert_same(pickle.loads(pickle.dumps(rows)), wanted)
        lengths = [len(row) for row in wanted]
        assert rows.lengths.tolist() == lengths_of(source, tokenize, cache=tmp_path).tolist() == lengths
        assert lengths_of(source, tokenize).tolist() == lengths
    assert len(list(tmp_path.iterdir())) == 2


def test_rows_of_words_are_those_of_the_input_stage(tmp_path: Path) -> None:
    """Targets are at the first token of a word; words without tokens have the unknown token."""
    rows = [["unseen", "be"], [], ["to", "", "to"]]
    source = Records([Example(words, target=["X"] * len(words)) for words in rows])
    tokenize = TokenizeWords.train([["to", "be"]], "bpe", vocab_size=260, min_frequency=1)
    made = Tokenized(source, tokenize, cache=tmp_path)
    assert_same(made, tokenize.map(source))
    assert made.lengths.tolist() == [len(row) for row in tokenize.map(source)]


def test_nothing_is_tokenized_twice(tmp_path: Path, counting: Counting) -> None:
    """Neither in a new process, nor after records were added, changed or moved: then only new ones are tokenized."""
    tokenize = Tokenize.train(TEXTS)
    file = tmp_path / "a.txt"
    file.write_text("to be\nor not\n")
    cache = tmp_path / "cache"
    assert lengths_of(TextLines(file), tokenize, cache=cache).tolist() == [2, 2]
    assert lengths_of(TextLines(file), tokenize, cache=cache).tolist() == [2, 2]
    assert counting.texts == ["to be", "or not"]
    file.write_text("new to be\nto be\nor not\nor not\nthat new\n")
    counting.texts.clear()
    assert lengths_of(TextLines(file), tokenize, cache=cache).tolist() == [3, 2, 2, 2, 2]
    assert counting.texts == ["new to be", "that new"]
    assert Tokenized(TextLines(file), tokenize, cache=cache).lengths.tolist() == [3, 2, 2, 2, 2]
    counting.texts.clear()
    objects = tmp_path / "a.jsonl"
    objects.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("that new", "to be", "unseen")))
    rows = Tokenized(JsonLines(objects), tokenize, cache=cache)
    assert counting.texts == ["unseen"]
    assert_same(rows, tokenize.map(["that new", "to be", "unseen"]))


def test_another_tokenizer_has_its_own_lengths(tmp_path: Path, counting: Counting) -> None:
    """bos, eos and truncation are not part of the cache: they are applied to the cached lengths."""
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
def test_copied_tokens_are_those_that_would_be_computed(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], after: list[str]
) -> None:
    """Whichever records were tokenized before."""
    cache = tmp_path_factory.mktemp("cache")
    tokenize = Tokenize.train(["a b c d"])
    for texts in (before, after):
        assert_same(Tokenized(Records(texts), tokenize, cache=cache), tokenize.map(texts))
        assert lengths_of(Records(texts), tokenize, cache=cache).tolist() == [len(text.split()) for text in texts]


def test_digests_with_equal_halves_differ() -> None:
    """A text is known only by its whole digest."""
    before = np.array([[1, 1], [1, 2], [3, 3]], np.uint64)
    after = np.array([[1, 1], [1, 3], [3, 3], [4, 4]], np.uint64)
    assert KnownInputs(before).find(after).tolist() == [0, -1, 2, -1]
    assert KnownInputs(before[:0]).find(after).tolist() == [-1] * 4


def test_damaged_files_are_written_again(tmp_path: Path, counting: Counting) -> None:
    """A truncated file, an empty one, one of another format, and what a killed process left."""
    tokenize, source = Tokenize.train(TEXTS), Records(TEXTS)
    wanted = lengths_of(source, tokenize, cache=tmp_path).tolist()
    file = next(tmp_path.iterdir())
    whole = file.read_bytes()
    (tmp_path / f".{file.name}.1-abc.part").write_bytes(whole)
    for content in (whole[:-1], whole[:20], b"", b"\x93NUMPY" + whole, None):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        counting.texts.clear()
        assert lengths_of(source, tokenize, cache=tmp_path).tolist() == wanted
        assert counting.texts == TEXTS
        assert file.read_bytes() == whole


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    """The folder is unchanged after an error while records are read."""
    file = tmp_path / "a.csv"
    file.write_text("text\n" + "a\n" * 5_000 + "b,c\n")
    with pytest.raises(RecordError, match=r"a\.csv, line 5002: a record must have 1 fields"):
        lengths_of(Csv(file), Tokenize.train(TEXTS), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_errors_name_the_row(tmp_path: Path) -> None:
    """Also if the rows before it were cached."""
    tokenize = Tokenize.train(TEXTS)
    lengths_of(Records(["a", "b"]), tokenize, cache=tmp_path)
    with pytest.raises(TextError, match="row 2 holds a lone surrogate"):
        lengths_of(Records(["a", "b", "\ud800"]), tokenize, cache=tmp_path)


def test_deleted_tokens_raise_an_error(tmp_path: Path) -> None:
    """A worker that does not find the cached tokens names the file."""
    rows = pickle.dumps(Tokenized(Records(TEXTS), Tokenize.train(TEXTS), cache=tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(SourceError, match="the cached tokens .* were deleted or damaged; create Tokenized again"):
        pickle.loads(rows)[0]


def test_a_folder_that_cannot_be_written_raises(tmp_path: Path) -> None:
    """The error names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(
        SourceError, match="the cache cannot be written to .*file.*; free some space, or name another folder"
    ):
        lengths_of(Records(TEXTS), Tokenize.train(TEXTS), cache=tmp_path / "file")


class WithoutKey(Tokenizer):
    """A tokenizer without a cache key."""

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


def test_tokens_without_a_cache_key_are_not_cached(tmp_path: Path) -> None:
    """Lengths can be computed, but not cached."""
    tokenize = Tokenize(WithoutKey(), offsets=False)
    assert lengths_of(Records(TEXTS), tokenize).tolist() == [5, 0, 12, 4, 5]
    with pytest.raises(
        OptionError, match="tokens of 'WithoutKey' cannot be cached, .*; write its method `cache_key`, or leave out"
    ):
        lengths_of(Records(TEXTS), tokenize, cache=tmp_path)


def test_rows_of_any_input_stage_are_measured() -> None:
    """Those of pairs have two lengths, as `PlannedBatches` takes them."""
    tokenize = Tokenize.train(TEXTS, eos=True, max_length=4)
    columns = FromColumns(Event, code=read(FromIds()), amount=read(FromFeatures()))
    pairs: list[tuple[str, str]] = [("to be", "that"), ("", "or not to be")]
    assert lengths_of(Records([[7, 8], [], [9]]), FromIds()).tolist() == [2, 0, 1]
    assert lengths_of([torch.ones(3, 2), torch.ones(0, 2)], FromFeatures()).tolist() == [3, 0]
    assert lengths_of([{"code": [3, 1], "amount": [0.5, 1.0]}], columns).tolist() == [2]
    assert lengths_of(pairs, TokenizePair(tokenize)).tolist() == [[3, 2], [1, 4]]
    assert lengths_of(Records(list[list[int]]()), FromIds()).shape == (0,)


def test_pairs_are_planned_by_both_lengths() -> None:
    """The loader compares the plan with the rows that it reads."""
    stage = TokenizePair(Tokenize.train(TEXTS))
    texts: list[tuple[str, str]] = [("to be", "that"), ("that", "or not to be")] * 3
    pairs = Records([Example(pair, 1) for pair in texts])
    loader = Loader(
        RowDataset(pairs, stage), PlannedBatches(lengths_of(pairs, stage), Budget(12), seed=0), Pad(TextPair)
    )
    assert sorted(row for batch in loader for row in to_list(batch.metadata.row_ids)) == list(range(6))


def test_bare_inputs_and_examples_in_a_list_are_accepted(tmp_path: Path) -> None:
    """Cached or not, as by the input stage itself."""
    tokenize = Tokenize.train(TEXTS)
    mixed: list[str | Example[str]] = ["to be", Example("that", 1)]
    assert (
        lengths_of(TEXTS, tokenize).tolist() == lengths_of(TEXTS, tokenize, cache=tmp_path).tolist() == [2, 0, 4, 1, 2]
    )
    assert lengths_of(mixed, tokenize).tolist() == [2, 1]
    assert_same(Tokenized(mixed, tokenize, cache=tmp_path), list(tokenize.map(mixed)))
    with pytest.raises(OptionError, match="can be read only once"):
        lengths_of(iter(TEXTS), tokenize)


def test_only_tokens_are_cached(tmp_path: Path) -> None:
    """The error says how to read other rows."""
    message = (
        r"only the tokens of Tokenize and TokenizeWords can be cached, got FromIds; use RowDataset\(source, stage\)"
    )
    with pytest.raises(OptionError, match=message):
        lengths_of([[1]], FromIds(), cache=tmp_path)
    with pytest.raises(OptionError, match=message):
        untyped(Tokenized)([[1]], FromIds(), cache=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_loader_with_workers_reads_rows_as_planned(tmp_path: Path, context: str) -> None:
    """A batch sampler, planned by lengths, reads cached rows."""
    tokenize = Tokenize.train(TEXTS)
    file = tmp_path / "a.txt"
    file.write_text("\n".join(TEXTS * 4))
    rows = Tokenized(TextLines(file, target=1), tokenize, cache=tmp_path / "cache")
    sampler = PlannedBatches(rows.lengths, Budget(8))
    loader = DataLoader(rows, batch_sampler=sampler, num_workers=2, collate_fn=Pad(), multiprocessing_context=context)
    row_ids = [row_id for batch in loader for row_id in batch.metadata.row_ids.tolist()]
    assert sorted(row_ids) == list(range(20))
