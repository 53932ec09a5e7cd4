"""Sources of files that are parsed from beginning to end; read by number, their records are in a table."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypedDict, TypeVar

import attrs
from typing_extensions import override

from pipeline.array_file import ArrayFileError
from pipeline.data.rows import Example, X_co
from pipeline.sources.malformed import SHOWN, MalformedError, OnBadRecord, Problem
from pipeline.sources.record_table import Parsed, RecordTable, build_table, read_table
from pipeline.sources.source import compute_digest
from pipeline.sources.text_file import FileInput, InputFile, Lines, check_encoding, open_lines
from pipeline.sources.validated import Validated

X = TypeVar("X")

_FORMAT: Final = "1"
"""Version of the stored tables; tables of other versions are not found, and written again."""

_CHECK_EVERY: Final = 1_024
"""Number of records after which a file is checked for changes while all records are read."""


class ParsedSource(Validated[X_co]):
    """A source of files that are parsed from beginning to end, and whose records are stored in a table.

    Iterating parses the files and stores nothing. At the first access by number all records are parsed once into a
    `RecordTable`, and from then on they are read there. The table is in memory if it has less than 8 MiB, else in a
    temporary file; with a `cache`, it is in that folder, and found there again by a digest of the files' content and
    the options. Streams are always parsed into a table, because they can be read only once.
    """

    unit: str = "line"

    def __init__(
        self, files: Sequence[InputFile], on_bad_record: OnBadRecord[X_co], cache: str | PathLike[str] | None
    ) -> None:
        super().__init__(on_bad_record)
        self._files: Final = files
        self._cache: Final = None if cache is None else Path(cache)
        self._is_regular: Final = all(file.path is not None for file in files)
        self._table: RecordTable | None = None

    @property
    def paths(self) -> Sequence[Path]:
        """The files that are read; streams have no path."""
        return [file.path for file in self._files if file.path is not None]

    @abstractmethod
    def _parse(self) -> Iterator[Parsed]:
        """Parse all files."""

    @abstractmethod
    def _get_options(self) -> tuple[object, ...]:
        """Return all options that change the records."""

    @property
    @override
    def fingerprint(self) -> str | None:
        """Digest of the files' content and the options; None if a function replaces malformed records."""
        if callable(self.on_bad_record):
            return None
        if not self._is_regular:
            self._get_table()  # reads the stream, and so computes its digest
        return compute_digest(self._name_table(), self.on_bad_record)

    @override
    def _iterate_raw(self) -> Iterator[Example[X_co] | Problem]:
        # Without a table the file is parsed, so that one pass over a file, as for training a tokenizer, stores nothing.
        if self._table is None and self._is_regular:
            yield from (parsed.record for parsed in self._parse())
            return
        table = self._get_table()
        for number in range(len(table)):
            if number % _CHECK_EVERY == 0:
                for file in self._files:
                    file.check_unchanged()
            yield self._complete(table.read(number))

    @override
    def _count_raw(self) -> int:
        return len(self._get_table())

    @override
    def _read_raw(self, number: int) -> Example[X_co] | Problem:
        # The table is a consistent copy, so a change of the file could be ignored; but then the records of this epoch
        # would not be those of the file that the user sees.
        parsed = self._get_table().read(number)
        self._files[parsed.file].check_unchanged()
        return self._complete(parsed)

    @override
    def _locate_raw(self, number: int) -> str:
        return self._locate(self._get_table().read(number))

    @override
    def _iterate_problems(self) -> Iterator[tuple[int, Problem]]:
        for number in self._get_table().bad:
            record = self._read_raw(number)
            assert isinstance(record, Problem)
            yield number, record

    def _locate(self, parsed: Parsed) -> str:
        where = f"{self._files[parsed.file].name}, {self.unit} {parsed.line}"
        return f"{where} ({parsed.name})" if parsed.name else where

    def _complete(self, parsed: Parsed) -> Example[X_co] | Problem:
        """Return the example, or the problem with its location."""
        if not isinstance(parsed.record, Problem):
            return parsed.record
        # Stored problems have none, because the files may be moved and still have the same digest.
        return attrs.evolve(parsed.record, where=self._locate(parsed), file=self._files[parsed.file].name)

    def _make_problem(self, file: int, line: int, name: str, error: MalformedError, lines: int, text: str) -> Parsed:
        # Bytes that could not be decoded are shown as escapes.
        shown = text[:SHOWN].rstrip("\r\n").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        parsed = Parsed(file, line, name, Problem("", "", line, lines, error.kind, error.reason, shown[:SHOWN]))
        return parsed._replace(record=self._complete(parsed))

    def _name_table(self) -> str:
        # By content, not by path and time: a copy or a moved file is recognized, and another file never is.
        digests = [file.digest for file in self._files]
        return compute_digest(_FORMAT, type(self).__name__, repr(self._get_options()), *digests)

    def _get_table(self) -> RecordTable:
        if self._table is None:
            self._table = self._load_or_build()
        return self._table

    def _load_or_build(self) -> RecordTable:
        if self._cache is None:
            return build_table(self._parse(), None)
        if not self._is_regular:
            table = build_table(self._parse(), None)
            return table.save(self._get_cache_path(self._cache))  # the digest of a stream is known only now
        path = self._get_cache_path(self._cache)
        return _read_or_none(path) or build_table(self._parse(), path)

    def _get_cache_path(self, cache: Path) -> Path:
        return cache / f"records-{self._name_table()}.arrays"

    def __getstate__(self) -> dict[str, object]:
        if not self._is_regular:
            self._get_table()  # a stream cannot be sent, but its records can
        # A mapped table is sent as its path: all workers share the pages of one file. One in memory is small.
        table = self._table
        return {**self.__dict__, "_table": table if table is None or table.path is None else table.path}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        if isinstance(path := state["_table"], Path):
            # If it was deleted, for example with the process that made it, the files are parsed again.
            self._table = _read_or_none(path)


def _read_or_none(path: Path) -> RecordTable | None:
    try:
        return read_table(path)
    except (OSError, ArrayFileError):
        return None


class FileOptions(TypedDict, Generic[X], total=False):
    """Options of all sources of text files.

    Attributes:
        encoding: the encoding, "utf-8" by default; a byte-order mark is left out.
        on_bad_record: rule for records that violate their format, have bytes that cannot be decoded, or have a NUL:
            "raise" (the default), "skip", or a function of a `Problem` that returns a replacement or None.
        cache: folder for the parsed records. By default, they are in memory or, if they are many, in a temporary file.
    """

    encoding: str
    on_bad_record: OnBadRecord[X]
    cache: str | PathLike[str] | None


class WholeRecord(NamedTuple, Generic[X]):
    """A record with its lines, to be written again with its prediction.

    Attributes:
        record: the example, or the problem of a record that is skipped.
        lines: the lines of the record; None if another example replaces it.
        where: the location of the record.
    """

    record: Example[X] | Problem
    lines: Sequence[str] | None
    where: str


class FileSource(ParsedSource[X_co]):
    """A source of text files whose records are one or several lines.

    Args:
        file: the path, "-" for standard input, or an open file; may be compressed by gzip. Or several files.
        encoding, on_bad_record, cache: see `FileOptions`.

    Raises:
        OptionError: if an option is out of range.
        SourceError: if a file cannot be read.
    """

    def __init__(
        self,
        file: FileInput | list[InputFile],
        *,
        encoding: str = "utf-8",
        on_bad_record: OnBadRecord[X_co] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        self.encoding: Final = check_encoding(encoding)
        super().__init__(file if isinstance(file, list) else [InputFile(file, encoding)], on_bad_record, cache)

    @abstractmethod
    def _open_parser(self, lines: Lines, file: int) -> Callable[[], Example[X_co] | None]:
        """Return a function that reads the next record from the lines of a file.

        The function returns None for lines that are not a record, such as blank ones. It raises `MalformedError` for a
        malformed record, and StopIteration at the end.
        """

    @property
    def has_lines(self) -> bool:
        """Whether each record is some lines of its own, which can be read again."""
        return self._is_regular

    def read_whole(self) -> Iterator[WholeRecord[X_co]]:
        """Read all records in order with their lines, and the problems of those that are skipped."""
        for parsed, lines in self._parse_lines():
            where = self._locate(parsed)
            if isinstance(parsed.record, Problem):
                example = self._replace(parsed.record)
                yield WholeRecord(parsed.record if example is None else example, None, where)
            else:
                yield WholeRecord(parsed.record, lines, where)

    def parse_columns(self, lines: Sequence[str]) -> Mapping[str, object]:
        """Return all fields of a record, given its lines."""
        return {"text": "".join(lines).rstrip("\r\n")}

    def name_columns(self, value: object) -> Mapping[str, object]:
        """Return the columns of an input that replaces a malformed record."""
        return {"text": value}

    def _name_record(self, lines: Sequence[str]) -> str:  # noqa: ARG002 - for formats whose records have names
        """Return the name that a record gives itself; empty for none."""
        return ""

    def _prepare(self) -> None:
        """Read what the first lines say about the columns; read all records of a stream."""
        if self._is_regular:
            with open_lines(self._files[0], self.encoding) as lines:
                self._open_parser(lines, 0)
        else:
            self._get_table()

    @override
    def _parse(self) -> Iterator[Parsed]:
        return (parsed for parsed, _ in self._parse_lines())

    def _parse_lines(self) -> Iterator[tuple[Parsed, Sequence[str]]]:
        """Parse all files; yield each record with its lines."""
        for number, file in enumerate(self._files):
            with open_lines(file, self.encoding) as lines:
                read = self._open_parser(lines, number)
                while True:
                    lines.begin_record()
                    try:
                        example = read()
                        if example is not None:
                            lines.check_characters()
                            yield Parsed(number, lines.first, self._name_record(lines.taken), example), lines.taken
                    except StopIteration:
                        break
                    except MalformedError as error:
                        yield self._parse_problem(number, lines, error), lines.taken

    def _parse_problem(self, number: int, lines: Lines, error: MalformedError) -> Parsed:
        try:
            lines.check_characters()
        except MalformedError as wrong_characters:
            error = wrong_characters  # bytes that could not be decoded may be the cause of any other problem
        name, text = self._name_record(lines.taken), "".join(lines.taken)
        return self._make_problem(number, lines.first, name, error, len(lines.taken), text)
