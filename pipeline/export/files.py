"""The files of an export: none of another program is replaced, those of an earlier export are, and none after an error.

The description, `NAME.json`, lists the files beside it with their digests. So an export knows which files an earlier
one has written, and a reader that no later one has replaced a part of them.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

from pipeline.errors import ExportError
from pipeline.saving.files import explain_os_errors

STEP: Final = ".step"
"""Follows the name of an exported decoder in the name of the graph of one step."""


def compute_digest(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def reject_files_of_others(path: Path) -> None:
    """Reject a name whose description or script would replace a file that no export wrote, such as the user's script.

    Raises:
        ExportError: naming the file.
    """
    description = path.with_suffix(".json")
    if description.exists() and _read_description(description) is None:
        raise _make_error(description)
    script = path.with_suffix(".py")
    if path.suffix == ".onnx" and script.exists() and not _is_script(script):
        raise _make_error(script)


def reject_step_of_others(path: Path) -> None:
    """Reject a name whose graph of one step would replace a model that was exported by itself, under that name.

    Raises:
        ExportError: naming the file.
    """
    step = path.with_stem(f"{path.stem}{STEP}")
    if step.exists() and step not in _list_earlier(path):
        raise _make_error(step)


def _make_error(file: Path) -> ExportError:
    msg = f"export writes {str(file)!r} beside the model, but this file is not of an export, or was changed since; "
    msg += "choose another name for the model, or move the file."
    return ExportError(msg, file=str(file))


def _read_description(file: Path) -> dict[str, object] | None:
    """Return the description of an exported model; None if the file is of another program."""
    try:
        found: object = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_own = isinstance(found, dict) and {"format", "inputs", "outputs"} <= set(cast("dict[str, object]", found))
    return cast("dict[str, object]", found) if is_own else None


def _list_earlier(path: Path) -> list[Path]:
    """Return the files of an earlier export of this name: those that still have the digests of its description."""
    found = (_read_description(path.with_suffix(".json")) or {}).get("files")
    digests = cast("Mapping[str, object]", found if isinstance(found, dict) else {})
    files = {path.with_name(name): digest for name, digest in digests.items() if name and name == Path(name).name}
    earlier = [file for file, digest in files.items() if file.is_file() and compute_digest(file) == digest]
    script = path.with_suffix(".py")
    return [*earlier, script] if found is not None and _is_script(script) else earlier


def _is_script(file: Path) -> bool:
    # The first sentence only, since another version may have written the script.
    begin = b'"""Predict with an exported model.'
    return file.is_file() and file.read_bytes()[: len(begin)] == begin


@contextmanager
def write_beside(path: Path) -> Generator[Path]:
    """Yield a temporary folder, and move its files beside `path`, in place of those of an earlier export of this name.

    After an error the folder of `path` is as before.

    Raises:
        ExportError: if a file would be replaced that no export wrote, other than that of `path`; for the description
            and the script see `reject_files_of_others`.
        FolderError: if a file cannot be written.
    """
    with explain_os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        new, old = folder / "new", folder / "old"
        new.mkdir()
        old.mkdir()
        yield new
        with explain_os_errors(path, "write"):
            written, earlier = [path.with_name(each.name) for each in new.iterdir()], _list_earlier(path)
            checked = {path, path.with_suffix(".json"), path.with_suffix(".py")}
            if foreign := [file for file in written if file.is_file() and file not in checked.union(earlier)]:
                raise _make_error(foreign[0])
            _replace([*earlier, *written], written, new, old)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(outdated: Collection[Path], written: Collection[Path], new: Path, old: Path) -> None:
    """Move outdated files into the folder `old`, and those of the folder `new` to their places; undo it on an error."""
    moves = [(file, old / file.name) for file in dict.fromkeys(outdated) if file.is_file()]
    moves += [(new / file.name, file) for file in written]
    done: list[tuple[Path, Path]] = []
    try:
        for before, after in moves:
            before.replace(after)
            done.append((before, after))
    except BaseException:
        for before, after in reversed(done):
            after.replace(before)
        raise
