"""Parquet files, streamed; read by number, from a row group at a time, or from an Arrow file that is kept beside.

Source: https://parquet.apache.org/docs/file-format/
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import Any, Final, cast, final, overload

from typing_extensions import override

from pipeline.data.rows import X_co
from pipeline.sources.arrow import arrow_table
from pipeline.extras import import_extra
from pipeline.sources.fields import fields_of
from pipeline.sources.kept import Store, digest
from pipeline.sources.problems import Malformed
from pipeline.sources.tables import Rows, TableSource

_CHUNK: Final = 4_096


@final
class Parquet(TableSource[X_co]):
    """Rows of a Parquet file.

    Needs pyarrow: `pip install 'ragged-pipeline[arrow]'`. Read in order, the file is streamed. A row can be read by its number
    only with all others of its row group; the last one is held. Shuffled reading is therefore slow without a `cache`:
    with one, the asked columns are written there once, to an Arrow file, which is memory-mapped.

    Args:
        file: the path.
        text: the column of the input, if that is text: `text`, unless something else is said.
        words: the column of the input, if that is lists of words.
        target: the column of the target: classes, by name or number, lists of them, or null; None for none.
        on_bad_record: what becomes of rows whose input is null, or no UTF-8, or a field of another type: `raise`, `skip`, or
            a function of a `Problem` that gives an example in its place, or None.
        cache: a folder for the Arrow file, and for which rows are left out; None keeps nothing.

    Raises:
        MissingExtraError: if pyarrow is not installed.
        RecordError: if the file is no Parquet file, or has no such column.
        SourceError: if it cannot be read.
    """

    format = "a Parquet file"

    @overload
    def __init__(
        self: "Parquet[str]",
        file: str | PathLike[str],
        *,
        text: str = "text",
        target: str | None = None,
        on_bad_record: Malformed[str] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Parquet[Sequence[str]]",
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
        self._file: Any = None
        self._unpacked: Rows | None = None
        self._group: tuple[int, Rows] | None = None
        self._ends: Sequence[int] = ()
        fields = fields_of("text" if text is None and words is None else text, words, target)
        super().__init__(file, fields, on_bad_record, cache)

    @override
    def _names(self) -> list[str]:
        try:
            return list(self._read_by().schema_arrow.names)
        except (ValueError, OSError) as error:
            raise self.not_of_format(error) from error

    @override
    def _count(self) -> int:
        return int(self._read_by().metadata.num_rows)

    @override
    def _batches(self) -> Iterator[Rows]:
        return cast("Iterator[Rows]", self._read_by().iter_batches(batch_size=_CHUNK, columns=self._columns))

    @override
    def _rows_with(self, row: int) -> tuple[Rows, int]:
        if self.cache is not None:
            self._opened.refuse_change()
            if self._unpacked is None:
                self._unpacked = self._kept(Store(self.cache))
            return self._unpacked, row
        file = self._read_by()
        if not self._ends:
            sizes = (file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups))
            self._ends = list(accumulate(sizes))
        number = bisect_right(self._ends, row)
        if self._group is None or self._group[0] != number:
            self._group = (number, file.read_row_group(number, columns=self._columns))
        return self._group[1], row - (self._ends[number - 1] if number else 0)

    def _kept(self, store: Store) -> Rows:
        """The asked columns, in an Arrow file that is written once."""
        name = f"table-{digest(repr(self._columns), self._opened.fingerprint())}"
        if store.load(name) is None:
            ipc = import_extra("pyarrow.ipc", extra="arrow", why=self.format)
            with store.writing(name) as writing:
                schema = self._read_by().read_row_group(0, columns=self._columns).schema
                with ipc.new_file(str(writing.path("table.arrow")), schema) as file:
                    for batch in self._batches():
                        file.write(batch)
                writing.finish({"file": str(self.file)})
        return arrow_table(Path(store.folder) / name / "table.arrow", self._columns)

    def _read_by(self) -> Any:  # noqa: ANN401 - pyarrow has it
        self._opened.refuse_change()
        if self._file is None:
            parquet = import_extra("pyarrow.parquet", extra="arrow", why=self.format)
            self._file = parquet.ParquetFile(str(self.file), memory_map=True)
        return self._file

    @override
    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_file": None, "_unpacked": None, "_group": None}  # opened by each worker
