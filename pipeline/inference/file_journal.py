"""The progress of a run that predicts a file: the unfinished output, and how far it is, so that it can be continued."""

import json
import os
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Final, cast

import attrs
import torch

from pipeline.core.stage import StageBase
from pipeline.core.stream_chain import StreamChain
from pipeline.errors import OptionError, SourceError
from pipeline.labels import Labels
from pipeline.parts.tokenizer import Tokenizer

_FORMAT: Final = 1
_MAX_DEPTH: Final = 6


@attrs.frozen
class Journal:
    """How far an unfinished output is.

    Attributes:
        made_by: digests of what must not change: the model and the options.
        chunks: the number of chunks written.
        size: the number of bytes written.
        digest: a digest of the records of these chunks.
        rows: the number of predicted records.
        skipped: the number of skipped records by kind of problem.
        columns: the columns of the output, for formats that fix them.
        replaces: the state of an older output that this run may replace; None for none.
    """

    made_by: Mapping[str, str]
    chunks: int = 0
    size: int = 0
    digest: str = ""
    rows: int = 0
    skipped: Mapping[str, int] = attrs.field(factory=dict[str, int])
    columns: Sequence[str] | None = None
    replaces: Sequence[int] | None = None

    def save(self, path: Path) -> None:
        """Write the journal, atomically."""
        temporary = path.with_name(f"{path.name}.new")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"format": _FORMAT, **attrs.asdict(self)}, file)
            sync(file)
        temporary.replace(path)


def read_journal(path: Path) -> Journal | None:
    """Read a journal; None if it is missing, or of another version of the format."""
    with suppress(OSError, ValueError, TypeError):
        fields = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        if fields.pop("format") == _FORMAT:
            return Journal(**fields)
    return None


def get_state(path: Path) -> Sequence[int] | None:
    """Return size and time of the last change of a file; None if it is missing."""
    if not path.exists():
        return None
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def check_same(journal: Journal, made_by: Mapping[str, str], partial: Path) -> None:
    """Reject an unfinished output of another model or with other options.

    Raises:
        OptionError: naming what differs.
    """
    differing = [name for name, value in made_by.items() if journal.made_by.get(name) != value]
    if differing:
        msg = (
            f"{str(partial)!r} is an unfinished output with another {' and '.join(differing)}; pass the same to "
            "continue it, or resume=False to begin again."
        )
        raise OptionError(msg, differing=differing)


@contextmanager
def open_locked(path: Path) -> Generator[IO[bytes]]:
    """Open the unfinished output to be continued, and lock it.

    Raises:
        SourceError: if it cannot be written, or another process writes it.
    """
    try:
        file = path.open("r+b" if path.exists() else "w+b")
    except OSError as error:
        msg = f"{str(path)!r} cannot be written: {error.strerror}; choose another folder for the output."
        raise SourceError(msg, file=str(path)) from error
    with file:
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415 - Windows has no such module

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                msg = f"{str(path)!r} is being written by another process; wait for it, or choose another output."
                raise SourceError(msg, file=str(path)) from error
        if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
            # Another process finished the output, and moved it away, after it was opened here and before it was locked.
            msg = f"{str(path)!r} was just finished by another process; run again to write the output once more."
            raise SourceError(msg, file=str(path))
        yield file


def sync(file: IO[Any]) -> None:
    """Write all that is buffered to the disk."""
    file.flush()
    os.fsync(file.fileno())


def compute_model_digest(pipe: StreamChain[Any, Any]) -> str:
    """Return a digest of the weights, the tokenizer, and the plain options of all stages."""
    digest = blake2b(digest_size=16)
    if pipe.prepared is not None:
        # Packed weights may not be a part of the state.
        digest.update(repr(pipe.prepared.options).encode())
        pipe = cast("StreamChain[Any, Any]", pipe.prepared.original)
    for name, stage in pipe.stages.items():
        digest.update(f"{name}: {_describe(stage)};".encode("utf-8", "surrogatepass"))
    for name, value in cast("Mapping[str, object]", pipe.state_dict()).items():
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
            # As bytes, because NumPy does not have all of torch's types.
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _describe(value: object, depth: int = 0) -> str:
    """Return an object with its public attributes as text, the same in every process."""
    if value is None or isinstance(value, str | int | float | bool | Labels):
        return repr(value)
    if isinstance(value, Tokenizer):
        return f"{type(value).__name__}({value.cache_key()}, {sorted(value.vocabulary.items())})"
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return f"{{{', '.join(f'{key}: {_describe(each, depth + 1)}' for key, each in items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_describe(each, depth + 1) for each in cast('Sequence[object]', value))}]"
    if isinstance(value, type) or (callable(value) and not isinstance(value, StageBase)):
        return str(getattr(value, "__qualname__", type(value).__name__))
    attributes = {name: each for name, each in _list_attributes(value) if not name.startswith("_")}
    # The mode and the weights of a module are no options.
    attributes.pop("training", None)
    # Parts refer to parts, but not deeply; deeper ones could refer back.
    return type(value).__name__ + (_describe(attributes, depth + 1) if depth < _MAX_DEPTH else "")


def _list_attributes(value: object) -> Iterator[tuple[str, object]]:
    names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
    return ((name, getattr(value, name, None)) for name in dict.fromkeys(names))
