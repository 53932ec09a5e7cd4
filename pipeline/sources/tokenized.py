"""Lengths of rows for planning batches, and rows of ids, cached so that no text is tokenized twice."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Final, Generic, SupportsIndex, TypeAlias, TypeVar, cast, final, overload

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from typing_extensions import override

from pipeline.array_file import Array, ArrayFile, ArrayFileError, ArrayWriter, explain_failed_write, read_arrays
from pipeline.data.kinds import Ids, K, count_steps
from pipeline.data.rows import Example, Row
from pipeline.errors import OptionError, SourceError
from pipeline.parts.tokenizer import Tokens
from pipeline.sources.records import Records
from pipeline.sources.source import Source, check_index, compute_digest
from pipeline.stages.input_stage import InputStage
from pipeline.stages.text_input_stage import TextInputStage
from pipeline.stages.tokenize_words import TokenizeWords

X = TypeVar("X")

Lengths: TypeAlias = NDArray[np.int32]

Digests: TypeAlias = NDArray[np.uint64]
"""Two numbers per input: 128 bits of a BLAKE2b hash."""

_CHUNK: Final = 4_096
"""Number of inputs that are tokenized together."""


# A source has an overload of its own: with the other alone, checkers cannot infer the type of some sources' inputs.
@overload
def lengths_of(
    source: Source[X], input_stage: InputStage[X, K], *, cache: str | PathLike[str] | None = None
) -> Lengths: ...
@overload
def lengths_of(
    source: Iterable[X | Example[X]], input_stage: InputStage[X, K], *, cache: str | PathLike[str] | None = None
) -> Lengths: ...
def lengths_of(
    source: Iterable[X | Example[X]], input_stage: InputStage[X, K], *, cache: str | PathLike[str] | None = None
) -> Lengths:
    """Return the number of steps of each row of a source, for planning batches; two numbers per row for pairs.

    The source may also be a list of inputs or examples, as for `Records`. The first call tokenizes all records, or
    makes the rows of other inputs. With a `cache`, a folder, the lengths of texts are stored there, 20 bytes per
    record. A later call with the same records and the same tokenizer reads them; if records were added or changed, only
    those are tokenized. Records are recognized by the fingerprint of their source, or by a digest of all inputs if it
    has none.

    Args:
        source: the records.
        input_stage: makes rows of them, such as `Tokenize` or `FromColumns`.
        cache: the folder, for `Tokenize` and `TokenizeWords`.

    Raises:
        OptionError: if there is a cache, but the tokenizer has no cache key, or the input stage is not a tokenizer; or
            if the source can be read only once.
        RecordError: if a record is malformed, and the source raises for it.
        SourceError: if the folder cannot be written.
        TextError: if an input is not text, or has a lone surrogate.
        PipelineError: other errors of the input stage, for an input that is not of its type.

    Example:
        >>> from pipeline import FromIds, Tokenize, TokenizePair
        >>> from pipeline.sources import Records
        >>> texts = ["to be", "or not to be"]
        >>> tokenize = Tokenize.train(texts, eos=True)
        >>> lengths_of(Records(texts), tokenize, cache=getfixture("tmp_path")).tolist()
        [3, 5]
        >>> lengths_of([[7, 8], [9]], FromIds()).tolist()
        [2, 1]
        >>> lengths_of([("to be", "or not to be")], TokenizePair(tokenize)).tolist()
        [[3, 5]]
    """
    records = _to_source(source)
    if cache is not None:
        file = _TokenCache(records, input_stage, Path(cache), with_ids=False).load_or_write()
        return _count_steps(cast("Lengths", file.arrays["counts"]), _check_caches(input_stage))
    if not isinstance(input_stage, TextInputStage):
        counts = np.array([count_steps(row.sequence) for row in input_stage.map(records)], np.int32)
        # One number per row without an axis of its own, and also without rows.
        return counts if counts.shape[1:] == (2,) else counts.reshape(-1)
    # Faster than making the rows: it needs no tensors.
    chunks = _read_chunks(records)
    found = (input_stage.tokenize(inputs, range(first, first + len(inputs))) for first, inputs in chunks)
    return _count_steps(np.array([len(tokens.ids) for some in found for tokens in some], np.int32), input_stage)


@final
class Tokenized(Dataset[Row[Ids]], Generic[X]):
    """Rows of ids of a source, tokenized once.

    The tokens are stored in the folder `cache` and memory-mapped: 4 bytes per token, 8 more with offsets, and 28 per
    record. They are recognized as in `lengths_of`, and the errors are the same. Targets are read from the source. Can
    be sent to workers of a `DataLoader`. For inputs other than texts and rows of words, use `RowDataset`.

    Example:
        >>> from pipeline import Tokenize
        >>> from pipeline.sources import Records
        >>> texts = ["to be", "or not to be"]
        >>> rows = Tokenized(Records(texts), Tokenize.train(texts), cache=getfixture("tmp_path"))
        >>> rows.lengths.tolist(), rows[1].sequence.values.tolist()
        ([2, 4], [7, 6, 5, 4])
    """

    @overload
    def __init__(self, source: Source[X], tokenize: TextInputStage[X], *, cache: str | PathLike[str]) -> None: ...
    @overload
    def __init__(
        self, source: Iterable[X | Example[X]], tokenize: TextInputStage[X], *, cache: str | PathLike[str]
    ) -> None: ...
    def __init__(
        self, source: Iterable[X | Example[X]], tokenize: TextInputStage[X], *, cache: str | PathLike[str]
    ) -> None:
        self.source: Final = _to_source(source)
        self.tokenize: Final = tokenize
        file = _TokenCache(self.source, tokenize, Path(cache), with_ids=True).load_or_write()
        self._path: Final = file.path
        self._mapped: Mapping[str, Array] | None = file.arrays

    @property
    def lengths(self) -> Lengths:
        """Number of steps of each row."""
        return _count_steps(cast("Lengths", self._arrays["counts"]), self.tokenize)

    def __len__(self) -> int:
        return len(self._arrays["counts"])

    @override
    def __getitem__(self, index: SupportsIndex) -> Row[Ids]:
        number = check_index(index, len(self), "Tokenized")
        return self.tokenize.make_row(_get_tokens(self._arrays, number), self.source.target(number), number)

    def __iter__(self) -> Iterator[Row[Ids]]:
        for number, target in enumerate(self.source.targets()):
            yield self.tokenize.make_row(_get_tokens(self._arrays, number), target, number)

    def where(self, index: int) -> str:
        """Return the location of a record as errors show it."""
        return self.source.where(index)

    @property
    def _arrays(self) -> Mapping[str, Array]:
        if self._mapped is None:
            try:
                self._mapped = read_arrays(self._path).arrays
            except (OSError, ArrayFileError) as error:
                msg = f"the cached tokens {str(self._path)!r} were deleted or damaged; create Tokenized again."
                raise SourceError(msg, file=str(self._path)) from error
        return self._mapped

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}  # mapped again by each worker


@final
class _TokenCache(Generic[X]):
    """Tokens of the records of a source, or only their numbers, in one file of a folder.

    The name of the file is a digest of the tokenizer, which is the same for a family of files, and a digest of the
    records. If the file does not exist, it is written; tokens of inputs that the latest file of the family has are
    copied.
    """

    def __init__(self, source: Source[X], input_stage: InputStage[X, K], folder: Path, *, with_ids: bool) -> None:
        self._source: Final = source
        tokenize = _check_caches(input_stage)
        self._tokenize: Final = tokenize
        self._folder: Final = folder
        self._with_ids: Final = with_ids
        self._has_spans: Final = with_ids and tokenize.offsets
        # bos, eos and max_length are added when rows are made, so they are not part of the key.
        key = tokenize.tokenizer.cache_key()
        if key is None:
            name = type(tokenize.tokenizer).__name__
            msg = (
                f"tokens of {name!r} cannot be cached, because other tokenizers would get them from the cache, too; "
                "write its method `cache_key`, or leave out the cache."
            )
            raise OptionError(msg)
        kind = "tokens" if with_ids else "lengths"
        self._family: Final = f"{kind}-{compute_digest(key, type(tokenize).__name__, str(self._has_spans))}"

    def load_or_write(self) -> ArrayFile:
        """Return the arrays of all records.

        Raises:
            SourceError: if the folder cannot be written.
        """
        # A source that knows a digest of its files spares reading all inputs for one.
        name = self._source.fingerprint or compute_digest(
            *(compute_digests(inputs).tobytes() for _, inputs in _read_chunks(self._source))
        )
        path = self._folder / f"{self._family}-{name}.arrays"
        found = _read_or_none(path)
        if found is None:
            with explain_failed_write(self._folder):
                self._write(path)
                found = read_arrays(path)
        return found

    def _write(self, path: Path) -> None:
        # Without records nothing else would be appended, but readers need every array.
        nothing = self._make_arrays([], np.empty((0, 2), np.uint64), 0)
        paths = sorted(self._folder.glob(f"{self._family}-*.arrays"), key=lambda path: -path.stat().st_mtime_ns)
        before = next((file.arrays for other in paths if (file := _read_or_none(other)) is not None), nothing)
        known = KnownInputs(cast("Digests", before["digests"]))
        end = 0
        with ArrayWriter(path) as writer:
            for name, empty in nothing.items():
                writer.append(name, empty)
            for first, inputs in _read_chunks(self._source):
                digests = compute_digests(inputs)
                rows: list[int] = known.find(digests).tolist()
                new = [place for place, row in enumerate(rows) if row < 0]
                made = iter(self._tokenize.tokenize([inputs[place] for place in new], [first + place for place in new]))
                found = [next(made) if row < 0 else self._copy_tokens(before, row) for row in rows]
                for name, values in self._make_arrays(found, digests, end).items():
                    writer.append(name, values)
                end += sum(len(tokens.ids) for tokens in found)

    def _copy_tokens(self, before: Mapping[str, Array], row: int) -> Tokens:
        # Of lengths alone, any tokens of the right number serve.
        return _get_tokens(before, row) if self._with_ids else Tokens(range(int(before["counts"][row])))

    def _make_arrays(self, found: Sequence[Tokens], digests: Digests, end: int) -> dict[str, Array]:
        """Return the arrays of some records; `end` is the number of tokens before them."""
        counts = np.array([len(tokens.ids) for tokens in found], np.int32)
        arrays: dict[str, Array] = {"counts": counts, "digests": digests}
        if self._with_ids:
            arrays["ends"] = end + np.cumsum(counts, dtype=np.int64)
            arrays["ids"] = _flatten(tokens.ids for tokens in found)
            if isinstance(self._tokenize, TokenizeWords):
                arrays["words"] = _flatten(tokens.words for tokens in found)
            if self._has_spans:
                spans = [np.array(tokens.offsets, np.int32).reshape(-1, 2) for tokens in found]
                arrays["spans"] = np.concatenate([np.empty((0, 2), np.int32), *spans])
        return arrays


@final
class KnownInputs:
    """Inputs that were tokenized before, by their digests."""

    def __init__(self, digests: Digests) -> None:
        self._order = np.argsort(digests[:, 0], kind="stable")
        self._first = digests[self._order, 0]
        self._second = digests[:, 1]

    def find(self, digests: Digests) -> NDArray[np.int64]:
        """Return the earlier row of each input; -1 for a new input.

        Example:
            >>> KnownInputs(compute_digests(["a", "b", "c"])).find(compute_digests(["c", "d", "a"])).tolist()
            [2, -1, 0]
        """
        if len(self._order) == 0:
            return np.full(len(digests), -1, np.int64)
        # Binary search by the first half of a digest, then a comparison of the second. Two inputs with the same first
        # half are practically impossible; the later one would be tokenized again each time, which is not wrong.
        places = np.minimum(np.searchsorted(self._first, digests[:, 0]), len(self._order) - 1)
        found = self._order[places]
        is_same = (self._first[places] == digests[:, 0]) & (self._second[found] == digests[:, 1])
        return np.where(is_same, found, -1)


def compute_digests(inputs: Iterable[object]) -> Digests:
    """Return the digests of texts or of rows of words.

    Example:
        >>> found = compute_digests(["to be", "to be", ["to", "be"]])
        >>> found.shape, bool((found[0] == found[1]).all()), bool((found[0] == found[2]).any())
        ((3, 2), True, False)
    """
    hashes = bytearray()
    for value in inputs:
        # `person` makes the hash of a row of words differ from that of a text that is its JSON.
        person = b"text" if isinstance(value, str) else b"words"
        content = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode(
            "utf-8", "surrogatepass"
        )
        hashes += hashlib.blake2b(content, digest_size=16, person=person).digest()
    return np.frombuffer(hashes, np.uint64).reshape(-1, 2)


def _to_source(values: Iterable[X | Example[X]]) -> Source[X]:
    return cast("Source[X]", values) if isinstance(values, Source) else Records(values)


def _check_caches(stage: InputStage[X, K]) -> TextInputStage[X]:
    """Return the stage if it is a tokenizer.

    Raises:
        OptionError: if it is not.
    """
    if not isinstance(stage, TextInputStage):
        name = type(stage).__name__
        msg = (
            f"only the tokens of Tokenize and TokenizeWords can be cached, got {name}; use RowDataset(source, stage) "
            "for the rows, and lengths_of(source, stage) without a cache for their lengths."
        )
        raise OptionError(msg, stage=name)
    return stage


def _read_chunks(source: Source[X]) -> Iterator[tuple[int, list[X]]]:
    """Yield the inputs of all records, some thousand at a time, with the number of the first."""
    examples = iter(source)
    first = 0
    while inputs := [example.input for example in islice(examples, _CHUNK)]:
        yield first, inputs
        first += len(inputs)


def _read_or_none(path: Path) -> ArrayFile | None:
    try:
        return read_arrays(path)
    except (OSError, ArrayFileError):
        return None


def _get_tokens(arrays: Mapping[str, Array], record: int) -> Tokens:
    ends = arrays["ends"]
    start, stop = int(ends[record - 1]) if record else 0, int(ends[record])
    spans, words = arrays.get("spans"), arrays.get("words")
    return Tokens(
        arrays["ids"][start:stop].tolist(),
        () if spans is None else [(begin, end) for begin, end in spans[start:stop].tolist()],
        () if words is None else words[start:stop].tolist(),
    )


def _count_steps(counts: Lengths, tokenize: TextInputStage[X]) -> Lengths:
    """Return the lengths of rows of some numbers of tokens, with bos and eos, and truncated."""
    added = tokenize.count_added()
    if tokenize.max_length is None:
        return np.minimum(counts, np.int32(2**31 - 1 - added)) + np.int32(added) if added else counts
    return np.minimum(counts, np.int32(tokenize.max_length - added)) + np.int32(added)


def _flatten(parts: Iterable[Sequence[int]]) -> Array:
    return np.fromiter((number for part in parts for number in part), np.int32)
