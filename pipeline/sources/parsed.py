"""Sources of files that are parsed from beginning to end; read by number, their records are in a table."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from typing_extensions import override

from pipeline.array_file import ArrayFileError
from pipeline.data.rows import Example, X_co
from pipeline.sources.malformed import MalformedError, OnBadRecord, Problem, shorten
from pipeline.sources.record_table import Parsed, RecordTable, build_table, read_table
from pipeline.sources.source import compute_digest
from pipeline.sources.text_file import FileInput, InputFile, Lines, check_encoding, open_lines
from pipeline.sources.validated import Validated

_FORMAT: Final = "1"
"""Version of the stored tables; tables of other versions are not found, and written again."""


class ParsedSource(Validated[X_co]):
    """A source of files that are parsed from beginning to end, and whose records are stored in a table.

    Iterating parses the files and stores nothing. At the first access by number all records are parsed once into a
    `RecordTable`, and from then on they are read there. The table is in memory if it has less than 8 MiB, else in a
    temporary file; with a `cache`, it is in that folder, and found there again by a digest of the files' content and
    the options.
    """

    unit: ClassVar = "line"

    def __init__(
        self, files: Sequence[InputFile], on_bad_record: OnBadRecord[X_co], cache: str | PathLike[str] | None
    ) -> None:
        super().__init__(on_bad_record, None)  # the table holds the problems, so there is nothing else to store
        self._folder: Final = None if cache is None else Path(cache)
        self._files: Final = files
        self._is_regular: Final = all(file.is_regular for file in files)
        self._table: RecordTable | None = None

    @abstractmethod
    def _parse(self) -> Iterator[Parsed]:
        """Parse all files."""

    def _get_options(self) -> tuple[object, ...]:
        """Return all options that change the records."""
        return ()

    @property
    @override
    def fingerprint(self) -> str | None:
        """Digest of the content of the files and of the options; None if a function replaces malformed records."""
        if callable(self.on_bad_record):
            return None
        if not self._is_regular:
            self._get_table()
        return compute_digest(self._name_table(), self.on_bad_record)

    @override
    def _iterate_raw(self) -> Iterator[Example[X_co] | Problem]:
        if self._table is None and self._is_regular:
            return (parsed.record for parsed in self._parse())
        return map(self._read_raw, range(self._count_raw()))

    @override
    def _count_raw(self) -> int:
        return len(self._get_table())

    @override
    def _read_raw(self, number: int) -> Example[X_co] | Problem:
        table = self._get_table()
        file = self._files[table.get_file(number)]
        file.check_unchanged()
        value = table.read(number)
        if isinstance(value, dict):
            return self._build_problem(file, int(table.lines[number]), cast("dict[str, Any]", value))
        return Example(value[0], value[1])

    @override
    def _locate_raw(self, number: int) -> str:
        table = self._get_table()
        value = table.read(number)
        name = value["name"] if isinstance(value, dict) else "".join(value[2:])
        return self._locate(self._files[table.get_file(number)], int(table.lines[number]), name)

    @override
    def _iterate_problems(self) -> Iterator[tuple[int, Problem]]:
        for number in self._get_table().bad.tolist():
            record = self._read_raw(number)
            assert isinstance(record, Problem)
            yield number, record

    def _locate(self, file: InputFile, line: int, name: str) -> str:
        return f"{file.name}, {self.unit} {line}" + (f" ({name})" if name else "")

    def _build_problem(self, file: InputFile, line: int, found: Mapping[str, Any]) -> Problem:
        where = self._locate(file, line, found["name"])
        return Problem(where, file.name, line, found["lines"], found["kind"], found["reason"], found["text"])

    def _name_table(self) -> str:
        digests = [file.digest for file in self._files]
        return compute_digest(_FORMAT, type(self).__name__, repr(self._get_options()), *digests)

    def _get_table(self) -> RecordTable:
        if self._table is None:
            self._table = self._make_table()
        return self._table

    def _make_table(self) -> RecordTable:
        if self._folder is None:
            return build_table(self._parse(), None)
        if not self._is_regular:
            table = build_table(self._parse(), None)  # the digest of a stream is known only now
            return table.save(self._folder / f"records-{self._name_table()}.arrays")
        path = self._folder / f"records-{self._name_table()}.arrays"
        try:
            return read_table(path)
        except (OSError, ArrayFileError):
            return build_table(self._parse(), path)

    def __getstate__(self) -> dict[str, object]:
        if not self._is_regular:
            self._get_table()  # a stream cannot be sent, but its records can
        table = self._table
        return {**self.__dict__, "_table": table if table is None or table.path is None else table.path}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if isinstance(state["_table"], Path):
            try:
                self._table = read_table(state["_table"])
            except (OSError, ArrayFileError):
                self._table = None  # deleted, for example with the process that made it; the files are parsed again


class FileSource(ParsedSource[X_co]):
    """A source of text files whose records are one or several lines."""

    def __init__(
        self,
        file: FileInput | Sequence[InputFile],
        *,
        encoding: str,
        on_bad_record: OnBadRecord[X_co],
        cache: str | PathLike[str] | None,
    ) -> None:
        self.encoding: Final = check_encoding(encoding)
        is_one = isinstance(file, str) or not isinstance(file, Sequence)
        super().__init__([InputFile(file, encoding)] if is_one else file, on_bad_record, cache)

    @abstractmethod
    def _open_parser(self, lines: Lines, file: int) -> Callable[[], Example[X_co] | None]:
        """Return a function that reads the next record from the lines of a file.

        The function returns None for lines that are not a record, such as blank ones. It raises `MalformedError` for a
        malformed record, and StopIteration at the end.
        """

    def _name_record(self, lines: Sequence[str]) -> str:  # noqa: ARG002 - for formats whose records have names
        """Return the name that a record gives itself; empty for none."""
        return ""

    @override
    def _parse(self) -> Iterator[Parsed]:
        for number, file in enumerate(self._files):
            with open_lines(file, self.encoding) as lines:
                read = self._open_parser(lines, number)
                while True:
                    lines.begin_record()
                    try:
                        found = read()
                        if found is None:
                            continue
                        lines.check_characters()
                    except StopIteration:
                        break
                    except MalformedError as error:
                        yield self._parse_problem(lines, file, number, error)
                    else:
                        yield Parsed(number, lines.first, self._name_record(lines.taken), found)

    def _parse_problem(self, lines: Lines, file: InputFile, number: int, error: MalformedError) -> Parsed:
        try:
            lines.check_characters()
        except MalformedError as wrong_characters:
            error = wrong_characters  # characters that could not be decoded may be the cause of any other problem
        name = self._name_record(lines.taken)
        found = {
            "kind": error.kind,
            "reason": error.reason,
            "text": shorten("".join(lines.taken)),
            "lines": len(lines.taken),
            "name": name,
        }
        return Parsed(number, lines.first, name, self._build_problem(file, lines.first, found))
