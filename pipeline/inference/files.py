"""Predict the records of a file, and write them to another file with their predictions."""

import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final, TypedDict, TypeVar, cast

import attrs

from pipeline.array_file import explain_failed_write
from pipeline.checks.options import check_bool, check_int, check_path
from pipeline.core.stream_chain import StreamChain
from pipeline.data.rows import Example
from pipeline.data.scores import Predictions
from pipeline.errors import OptionError, PipelineError, SourceError
from pipeline.inference.conllu_writer import ConlluWriter
from pipeline.inference.file_journal import (
    Journal,
    check_same,
    compute_model_digest,
    get_state,
    open_locked,
    read_journal,
    sync,
)
from pipeline.inference.file_records import Chunk, read_chunks
from pipeline.inference.file_writers import CONLLU, ChunkWriter, ParquetWriter, make_writer
from pipeline.inference.plain import Plain, find_heads, list_columns, to_columns
from pipeline.sources.conll import Conllu
from pipeline.sources.malformed import MAX_PROBLEMS, Problem, Skipped
from pipeline.sources.parsed import ParsedSource
from pipeline.sources.records import Records
from pipeline.sources.source import Source
from pipeline.text import escape_control_characters

A = TypeVar("A")
R = TypeVar("R")
D = TypeVar("D")

_CHUNK: Final = 4_096
"""Records that are predicted and written together: enough for batches of rows of similar length."""


@attrs.frozen
class WrittenFile:
    """Result of `predict_file`.

    Attributes:
        path: the file that was written.
        rows: the number of records in it.
        skipped: the malformed records that are not in it.
        resumed_from: the number of records that an interrupted run had predicted before.
    """

    path: Path
    rows: int
    skipped: Skipped
    resumed_from: int = 0

    def __str__(self) -> str:
        """Return the result as a sentence."""
        before = f", {self.resumed_from:,} of them by an interrupted run" if self.resumed_from else ""
        skipped = f"; {self.skipped}" if self.skipped.total else ""
        return f"wrote {self.rows:,} predictions to {self.path}{before}{skipped}"


class FileOutputOptions(TypedDict, total=False):
    """Options of `predict_file`.

    Attributes:
        column: the name of the column of predictions; that of the probabilities has `_probability` at its end. For
            CoNLL-U, the column to write: the target column of the source by default.
        resume: continue an interrupted run, True by default; False begins again, and replaces an older output.
        chunk_size: the number of records that are predicted together, 4,096 by default.
        progress: show the progress on standard error; by default on a terminal.
    """

    column: str | None
    resume: bool
    chunk_size: int
    progress: bool | None


def predict_file(
    pipe: StreamChain[A, Predictions[R, D]],
    source: Iterable[A],
    output: str | PathLike[str],
    *,
    column: str | None = None,
    resume: bool = True,
    chunk_size: int = _CHUNK,
    progress: bool | None = None,
) -> WrittenFile:
    """Predict all records of a source, and write them to a file; see `StreamChain.predict_file`."""
    records = cast("Source[Any]", source) if isinstance(source, Source) else Records(source)
    check_path("output", output)
    check_int("chunk_size", chunk_size, minimum=1)
    check_bool("resume", resume)
    if column is not None and (not isinstance(cast("object", column), str) or not column):
        msg = f"column must be the name of a column, or None, got {column!r:.200}."
        raise OptionError(msg, column=column)
    path = Path(output)
    _check_output(path, records)
    made_by = {
        "model": compute_model_digest(pipe),
        "source": type(records).__name__,
        "column": str(column),
        "chunk_size": str(chunk_size),
    }
    run = _Run(pipe, records, path, column, made_by)
    run.make_writer(None)  # to reject wrong options before any file is made
    with show_progress(f"predicting {path.name}", progress) as advance:
        return run.write(chunk_size, advance, resume=resume)


@attrs.frozen
class _Run:
    """One call of `predict_file`."""

    pipe: StreamChain[Any, Any]
    source: Source[Any]
    output: Path
    column: str | None
    made_by: Mapping[str, str]

    @property
    def partial(self) -> Path:
        """The unfinished output."""
        return self.output.with_name(f"{self.output.name}.partial")

    @property
    def journal(self) -> Path:
        """How far it is."""
        return self.output.with_name(f"{self.output.name}.partial.json")

    def write(self, chunk_size: int, advance: Callable[[int], None], *, resume: bool) -> WrittenFile:
        """Write all chunks that are not written yet, and move the output to its place."""
        with open_locked(self.partial) as file, self._clean_up(file):
            older = get_state(self.output)
            if resume:
                self._check_own(file.seek(0, 2), older)
            found = self._find_journal(file.seek(0, 2)) if resume else None
            before = done = found or Journal(self.made_by, replaces=older)
            with explain_failed_write(self.output):
                # Before the first byte: it shows that the unfinished output is no file of the user.
                before.save(self.journal)
            # A chunk that was cut off is written again.
            file.truncate(before.size)
            file.seek(before.size)
            writer = self.make_writer(before.columns)
            if isinstance(writer, ParquetWriter):
                writer.read_schema(self.partial)
            digest, problems, number = blake2b(digest_size=16), list[Problem](), 0
            for number, chunk in enumerate(read_chunks(self.source, chunk_size), start=1):
                digest.update(chunk.digest)
                problems += chunk.problems[: MAX_PROBLEMS - len(problems)]
                if number == before.chunks:
                    self._check_input(same=digest.hexdigest() == before.digest)
                elif number > before.chunks:
                    done = self._write_chunk(file, writer, chunk, done, digest.hexdigest())
                advance(len(chunk.examples))
            self._check_input(same=number >= before.chunks)
            if get_state(self.output) != older:
                msg = (
                    f"{str(self.output)!r} was written by somebody else meanwhile; move it, and run again: the "
                    f"finished predictions are in {str(self.partial)!r}."
                )
                raise SourceError(msg, file=str(self.output))
            writer.finish(self.partial, self.output)
        self.journal.unlink(missing_ok=True)
        return WrittenFile(self.output, done.rows, Skipped(done.skipped, tuple(problems)), before.rows)

    @contextmanager
    def _clean_up(self, file: IO[bytes]) -> Generator[None]:
        """Remove the unfinished output after an error if nothing of it is worth to be continued."""
        try:
            yield
        except BaseException:
            if file.seek(0, 2) == 0:
                self.partial.unlink(missing_ok=True)
                journal = read_journal(self.journal)
                if journal is not None and not journal.chunks:
                    self.journal.unlink()
            raise

    def make_writer(self, columns: Sequence[str] | None) -> ChunkWriter:
        """Return the writer for the output; `columns` are those of an unfinished one."""
        if self.output.suffix.lower() not in CONLLU:
            return make_writer(self.output, columns)
        target = self.source.target_column if isinstance(self.source, Conllu) else None
        names = self.source.columns if isinstance(self.source, Conllu) and self.source.has_lines else None
        return ConlluWriter(columns, names, self.column or target)

    def _check_own(self, size: int, older: Sequence[int] | None) -> None:
        """Reject an output, or an unfinished one, that may be a file of the user."""
        journal = read_journal(self.journal)
        if older is not None and (journal is None or journal.replaces != older):
            msg = (
                f"output must be a new file, but {str(self.output)!r} exists; choose another path, or replace it with "
                "resume=False (--restart on the command line)."
            )
            raise OptionError(msg, output=str(self.output))
        if size and not self.journal.exists():
            msg = (
                f"{str(self.partial)!r} must be free for the unfinished output, but is a file without the journal of a "
                "run; move it, or replace it with resume=False (--restart on the command line)."
            )
            raise OptionError(msg, output=str(self.output))

    def _find_journal(self, size: int) -> Journal | None:
        """Return the journal of the unfinished output; None if it is missing, or the output is shorter than it says."""
        journal = read_journal(self.journal)
        if journal is None or journal.size > size or not journal.chunks:
            return None
        check_same(journal, self.made_by, self.partial)
        return journal

    def _check_input(self, *, same: bool) -> None:
        if not same:
            msg = (
                f"the input has changed since {str(self.partial)!r} was begun; pass the same input to continue, or "
                "resume=False to begin again."
            )
            raise SourceError(msg, file=str(self.partial))

    def _write_chunk(
        self, file: IO[bytes], writer: ChunkWriter, chunk: Chunk[Any], done: Journal, digest: str
    ) -> Journal:
        """Predict a chunk, append it to the output, and then record that it is there."""
        predicted = self._predict(chunk)
        added = list(dict.fromkeys(name for row in predicted for name in row))
        added = added or [self._rename(name) for name in list_columns(self.pipe)]
        with explain_failed_write(self.output):
            file.write(writer.format_chunk(chunk, predicted, added))
            sync(file)
            kinds = Counter(done.skipped) + Counter(problem.kind for problem in chunk.problems)
            done = attrs.evolve(
                done,
                chunks=done.chunks + 1,
                size=file.tell(),
                digest=digest,
                rows=done.rows + len(chunk.examples),
                skipped=dict(kinds),
                columns=writer.columns,
            )
            done.save(self.journal)
        return done

    def _predict(self, chunk: Chunk[Any]) -> list[dict[str, Plain]]:
        heads, found = find_heads(self.pipe), list[dict[str, Plain]]()
        for prediction in _predict_chunk(self.pipe, _Located(chunk)):
            try:
                columns = to_columns(prediction, heads)
            except PipelineError as error:
                msg = f"{chunk.places(len(found))}: {error}"
                raise type(error)(msg, **error.details) from error
            found.append({self._rename(name): value for name, value in columns.items()})
        return found

    def _rename(self, name: str) -> str:
        """Return the name of a column with the name that the user chose for predictions."""
        if self.column is None or self.output.suffix.lower() in CONLLU:
            return name
        kind, _, head = name.partition("_")
        return self.column + ("_probability" if kind == "probability" else "") + (f"_{head}" if head else "")


def _predict_chunk(pipe: StreamChain[Any, Any], inputs: "_Located") -> Iterator[object]:
    return pipe.predict(inputs, scores=True)


@attrs.frozen(eq=False)
class _Located:
    """The inputs of a chunk; errors about a row get its location from `where`."""

    chunk: Chunk[Any]

    def __iter__(self) -> Iterator[Example[Any]]:
        return iter(self.chunk.examples)

    def where(self, index: int) -> str:
        """Return the location of a record."""
        return self.chunk.places(index)


@contextmanager
def show_progress(title: str, wanted: bool | None) -> Generator[Callable[[int], None]]:
    """Show a line with the number of records done and the speed, on standard error.

    Args:
        title: the text before it.
        wanted: whether it is shown; None shows it on a terminal.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield _ignore
        return
    from rich.console import Console  # noqa: PLC0415 - not needed without progress
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = TextColumn("{task.completed:,} records, {task.speed:,.0f} per second")
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), columns, TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task(escape_control_characters(title), total=None)
        yield lambda count: bar.advance(task, count)


def _ignore(_: int) -> None:
    """Show nothing."""


def _check_output(output: Path, source: Source[Any]) -> None:
    if output.is_dir() or not output.parent.is_dir():
        rule = "is a folder" if output.is_dir() else f"is in {str(output.parent)!r}, which is no folder"
        msg = f"output must be a file in an existing folder, but {str(output)!r} {rule}; choose another path."
        raise OptionError(msg, output=str(output))
    paths: Sequence[Path] = source.paths if isinstance(source, ParsedSource) else []
    if any(output.exists() and path.exists() and output.samefile(path) for path in paths):
        msg = f"output must not be the input, got {str(output)!r} for both; choose another path."
        raise OptionError(msg, output=str(output))
