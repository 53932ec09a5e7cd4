"""Tokens of a source's records, kept in files: made once, and after a change only for the records that are new."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, cast

import numpy as np

from pipeline.errors import OptionError
from pipeline.parts.tokenizer import Tokens
from pipeline.sources.kept import Array, Kept, Store, digest
from pipeline.sources.reuse import Digests, Known, digests_of
from pipeline.sources.source import Source
from pipeline.stages.input_stage import X
from pipeline.stages.tokenize_words import TokenizeWords
from pipeline.stages.tokenizing import Tokenizing

_CHUNK: Final = 4_096


def chunks_of(source: Source[X]) -> Iterator[tuple[int, list[X]]]:
    """The inputs of all records, some thousands at a time, and the number of the first of them."""
    examples = iter(source)
    first = 0
    while inputs := [example.input for example in islice(examples, _CHUNK)]:
        yield first, inputs
        first += len(inputs)


def kept_tokens(source: Source[X], tokenize: Tokenizing[X], store: Store, *, whole: bool) -> Kept:
    """What is kept of the tokens of a source's records; made, if it is not there yet.

    Args:
        source: the records.
        tokenize: cuts and numbers them; its bos, eos and `max_length` play no part.
        store: where it is kept.
        whole: whether tokens are kept, or only how many each record has.

    Raises:
        OptionError: if the tokenizer does not say its content.
    """
    content = tokenize.tokenizer.content()
    if content is None:
        msg = (
            f"tokenizer {type(tokenize.tokenizer).__name__!r} does not say its content, so that nobody would notice if "
            "another one had made what is kept; write its method `content`, or leave the cache out."
        )
        raise OptionError(msg)
    kind = "tokens" if whole else "lengths"
    family = f"{kind}-{digest(content, type(tokenize).__name__, str(tokenize.offsets and whole))}"
    name = f"{family}-{source.fingerprint or _content_of(source)}"
    return store.load(name) or _made(source, tokenize, store, family, name, whole=whole)


def tokens_at(arrays: Mapping[str, Array], record: int) -> Tokens:
    """The tokens of one record, out of what is kept of all."""
    ends = arrays["ends"]
    start, stop = int(ends[record - 1]) if record else 0, int(ends[record])
    spans, words = arrays.get("spans"), arrays.get("words")
    return Tokens(
        arrays["ids"][start:stop].tolist(),
        () if spans is None else [(begin, end) for begin, end in spans[start:stop].tolist()],
        () if words is None else words[start:stop].tolist(),
    )


def _content_of(source: Source[X]) -> str:
    """A name for records whose source has none: all of them are read."""
    found = (digests_of(inputs).tobytes() for _, inputs in chunks_of(source))
    return digest(*found)


def _made(source: Source[X], tokenize: Tokenizing[X], store: Store, family: str, name: str, *, whole: bool) -> Kept:
    """Tokenize what is new, and keep it beside what was there before; the latest of its family is looked through."""
    before = next((kept for other in store.names(family) if (kept := store.load(other)) is not None), None)
    known = None if before is None else Known(cast("Digests", before.arrays["digests"]))
    end = 0
    with store.writing(name) as writing:
        for array, empty in _arrays([], np.empty((0, 2), np.uint64), 0, tokenize, whole=whole).items():
            writing.add(array, empty)
        for first, inputs in chunks_of(source):
            digests = digests_of(inputs)
            if before is None or known is None:
                found = tokenize.tokens(inputs, range(first, first + len(inputs)))
            else:
                found = _some_again(inputs, first, tokenize, before, known.rows(digests).tolist())
            for array, values in _arrays(found, digests, end, tokenize, whole=whole).items():
                writing.add(array, values)
            end += sum(len(tokens.ids) for tokens in found)
        writing.finish({})
    kept = store.load(name)
    assert kept is not None
    return kept


def _some_again(
    inputs: list[X], first: int, tokenize: Tokenizing[X], before: Kept, rows: Sequence[int]
) -> list[Tokens]:
    """The tokens of inputs, of which some were tokenized before: those have a row there."""
    fresh = [place for place, row in enumerate(rows) if row < 0]
    made = iter(tokenize.tokens([inputs[place] for place in fresh], [first + place for place in fresh]))
    return [next(made) if row < 0 else _again(before, row) for row in rows]


def _again(before: Kept, row: int) -> Tokens:
    """The tokens of an input from before; as many as there were, if only that was kept."""
    if "ids" in before.arrays:
        return tokens_at(before.arrays, row)
    return Tokens(range(int(before.arrays["counts"][row])))


def _arrays(
    found: Sequence[Tokens], digests: Digests, end: int, tokenize: Tokenizing[X], *, whole: bool
) -> dict[str, Array]:
    """What is written of some inputs; their tokens begin at place `end` among all."""
    counts = np.array([len(tokens.ids) for tokens in found], np.int32)
    made: dict[str, Array] = {"counts": counts, "digests": digests}
    if whole:
        made["ends"] = end + np.cumsum(counts, dtype=np.int64)
        made["ids"] = _joined([tokens.ids for tokens in found]).astype(np.int32)
        if isinstance(tokenize, TokenizeWords):
            made["words"] = _joined([tokens.words for tokens in found]).astype(np.int32)
        if tokenize.offsets:
            spans = [np.array(tokens.offsets, np.int32).reshape(-1, 2) for tokens in found]
            made["spans"] = np.concatenate([np.empty((0, 2), np.int32), *spans])
    return made


def _joined(parts: Sequence[Sequence[int]]) -> Array:
    return np.fromiter((number for part in parts for number in part), np.int64)
