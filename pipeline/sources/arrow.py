"""Arrow files, memory-mapped.

Source: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
"""

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final, cast, final, overload

from typing_extensions import override

from pipeline.data.rows import X_co
from pipeline.extras import import_extra
from pipeline.sources.fields import fields_of
from pipeline.sources.problems import Malformed
from pipeline.sources.tables import Rows, TableSource

_CHUNK: Final = 4_096


@final
class Arrow(TableSource[X_co]):
    """Rows of an Arrow file, in the file format or the stream format, memory-mapped.

    Needs pyarrow: `pip install 'ragged-pipeline[arrow]'`. What the file compresses is unpacked into memory, the asked columns
    alone.

    Args:
        file: the path.
        text: the column of the input, if that is text: `text`, unless something else is said.
        words: the column of the input, if that is lists of words.
        target: the column of the target: classes, by name or number, lists of them, or null; None for none.
        on_bad_record: what becomes of rows whose input is null, or no UTF-8, or a field of another type: `raise`, `skip`, or
            a function of a `Problem` that gives an example in its place, or None.
        cache: a folder in which is kept which rows are left out; None keeps nothing.

    Raises:
        MissingExtraError: if pyarrow is not installed.
        RecordError: if the file is no Arrow file, or has no such column.
        SourceError: if it cannot be read.
    """

    format = "an Arrow file"

    @overload
    def __init__(
        self: "Arrow[str]",
        file: str | PathLike[str],
        *,
        text: str = "text",
        target: str | None = None,
        on_bad_record: Malformed[str] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Arrow[Sequence[str]]",
        file: str | PathLike[str],
        *,
        words: str,
        target: str | None = None,
        on_bad_record: Malformed[Sequence[str]] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None: ...
    def __init__(
        self,
        file: str | PathLike[str],
        *,
        text: str | None = None,
        words: str | None = None,
        target: str | None = None,
        on_bad_record: Malformed[Any] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        self._table: Rows | None = None
        fields = fields_of("text" if text is None and words is None else text, words, target)
        super().__init__(file, fields, on_bad_record, cache)

    @override
    def _names(self) -> list[str]:
        try:
            return list(_reader(self.file, None).schema.names)
        except (ValueError, OSError) as error:
            raise self.not_of_format(error) from error

    @override
    def _count(self) -> int:
        return self._rows().num_rows

    @override
    def _batches(self) -> Iterator[Rows]:
        return cast("Iterator[Rows]", cast("Any", self._rows()).to_batches(max_chunksize=_CHUNK))

    @override
    def _rows_with(self, row: int) -> tuple[Rows, int]:
        return self._rows(), row

    def _rows(self) -> Rows:
        self._opened.refuse_change()
        if self._table is None:
            self._table = arrow_table(self.file, self._columns)
        return self._table

    @override
    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_table": None}  # mapped again by each worker


def arrow_table(file: Path, columns: Sequence[str]) -> Rows:
    """Some columns of an Arrow file, memory-mapped."""
    return cast("Rows", _reader(file, columns).read_all())


def _reader(file: Path, columns: Sequence[str] | None) -> Any:  # noqa: ANN401 - pyarrow has it
    """What reads an Arrow file: the file format if it is that, else the stream format."""
    arrow = import_extra("pyarrow", extra="arrow", why="an Arrow file")
    ipc = import_extra("pyarrow.ipc", extra="arrow", why="an Arrow file")
    mapped = arrow.memory_map(str(file))
    is_stream = mapped.read(6) != b"ARROW1"
    open_ = ipc.open_stream if is_stream else ipc.open_file
    mapped.seek(0)
    if columns is None:
        return open_(mapped)
    names = list(open_(mapped).schema.names)
    mapped.seek(0)
    return open_(mapped, options=ipc.IpcReadOptions(included_fields=[names.index(column) for column in columns]))
