"""Sources after tokenizing: lengths, and rows of ids, made once and kept in files."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Final, Generic, SupportsIndex, TypeAlias, cast, final

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from typing_extensions import override

from pipeline.data.rows import Ids, Row
from pipeline.errors import SourceError
from pipeline.sources.keeping import chunks_of, kept_tokens, tokens_at
from pipeline.sources.kept import Array, Kept, Store
from pipeline.sources.source import Source, checked_index
from pipeline.stages.input_stage import X
from pipeline.stages.tokenizing import Tokenizing

Lengths: TypeAlias = NDArray[np.int32]


def lengths_of(source: Source[X], tokenize: Tokenizing[X], *, cache: str | PathLike[str] | None = None) -> Lengths:
    """How many steps each record has, as a row: what batches are planned by.

    The first time, all records are tokenized, some thousands at a time, and nothing but their lengths is held. With a
    `cache`, the lengths are kept there, 20 bytes a record: the next time, with the same records and the same tokenizer,
    they are read at once; if records were added or changed, only those are tokenized. Records are known by the
    fingerprint of their source, or, where it has none, by a digest of all their content, for which all are read.

    Args:
        source: the records.
        tokenize: what will make rows of them.
        cache: the folder; None keeps nothing.

    Raises:
        OptionError: if there is a cache, but the tokenizer does not say its content.
        RecordError: if a record is malformed, and the source is to stop at one.
        SourceError: if the folder cannot be written.
        TextError: if an input is not text, or holds a lone surrogate.

    Example:
        >>> from pipeline import Tokenize
        >>> from pipeline.sources import Records
        >>> texts = ["to be", "or not to be"]
        >>> lengths_of(Records(texts), Tokenize.train(texts, eos=True), cache=getfixture("tmp_path")).tolist()
        [3, 5]
    """
    if cache is None:
        found = (tokenize.tokens(inputs, range(first, first + len(inputs))) for first, inputs in chunks_of(source))
        counts = np.array([len(tokens.ids) for some in found for tokens in some], np.int32)
    else:
        counts = cast("Lengths", kept_tokens(source, tokenize, Store(Path(cache)), whole=False).arrays["counts"])
    return _as_rows(counts, tokenize)


@final
class Tokenized(Dataset[Row[Ids]], Generic[X]):
    """A source after tokenizing: rows of ids by number, none of them tokenized again.

    The tokens are kept in a folder, memory-mapped: 4 bytes a token, 8 more with offsets, and 28 a record. They are
    known again as lengths are, see `lengths_of`; targets are read from the source. It can be sent to the workers of a
    `DataLoader`: what is mapped is mapped again there.

    Args:
        source: the records.
        tokenize: what makes rows of them.
        cache: the folder.

    Raises:
        OptionError: if the tokenizer does not say its content.
        RecordError: if a record is malformed, and the source is to stop at one.
        SourceError: if the folder cannot be written.
        TextError: if an input is not text, or holds a lone surrogate.

    Example:
        >>> from pipeline import Tokenize
        >>> from pipeline.sources import Records
        >>> texts = ["to be", "or not to be"]
        >>> rows = Tokenized(Records(texts), Tokenize.train(texts), cache=getfixture("tmp_path"))
        >>> rows.lengths.tolist(), rows[1].sequence.values.tolist()
        ([2, 4], [7, 6, 5, 4])
    """

    def __init__(self, source: Source[X], tokenize: Tokenizing[X], *, cache: str | PathLike[str]) -> None:
        self.source: Final = source
        self.tokenize: Final = tokenize
        self._store: Final = Store(Path(cache))
        kept = kept_tokens(source, tokenize, self._store, whole=True)
        self._name: Final = kept.folder.name
        self._mapped: Kept | None = kept

    @property
    def lengths(self) -> Lengths:
        """How many steps each row has."""
        return _as_rows(cast("Lengths", self._arrays["counts"]), self.tokenize)

    def __len__(self) -> int:
        return len(self._arrays["counts"])

    @override
    def __getitem__(self, index: SupportsIndex) -> Row[Ids]:
        number = checked_index(index, len(self), "Tokenized")
        return self.tokenize.row(tokens_at(self._arrays, number), self.source.target(number), number)

    def __iter__(self) -> Iterator[Row[Ids]]:
        for number, example in enumerate(self.source):
            yield self.tokenize.row(tokens_at(self._arrays, number), example.target, number)

    def where(self, index: int) -> str:
        """The place of a record, as errors name it."""
        return self.source.where(index)

    @property
    def _arrays(self) -> Mapping[str, Array]:
        if self._mapped is None:
            self._mapped = self._store.load(self._name)
        if self._mapped is None:
            msg = f"{str(self._store.folder / self._name)!r} is gone, or is not whole any more; make the rows anew."
            raise SourceError(msg, folder=str(self._store.folder))
        return self._mapped.arrays

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}


def _as_rows(counts: Lengths, tokenize: Tokenizing[X]) -> Lengths:
    """How long rows of so many tokens are."""
    room = None if tokenize.max_length is None else tokenize.max_length - tokenize.bos - tokenize.eos
    added = int(tokenize.bos) + int(tokenize.eos)
    if room is None and not added:
        return counts
    return np.minimum(counts, np.int32(2**31 - 1 - added) if room is None else room) + np.int32(added)
