"""The files of an export: none of another program is replaced, and after an error none is left."""

import json
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from pipeline.errors import ExportError
from pipeline.saving.files import explain_os_errors

STEP: Final = ".step"
"""Follows the name of an exported decoder in the name of the graph of one step."""


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
    search: Any = (_read_description(path.with_suffix(".json")) or {}).get("search")
    if step.exists() and (search is None or search["file"] != step.name):
        raise _make_error(step)


def _make_error(file: Path) -> ExportError:
    msg = f"export writes {str(file)!r} beside the model, but this file is not of an export; "
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


def _is_script(file: Path) -> bool:
    # The first sentence only, since another version may have written the script.
    begin = b'"""Predict with an exported model.'
    return file.is_file() and file.read_bytes()[: len(begin)] == begin


@contextmanager
def write_beside(path: Path) -> Generator[Path]:
    """Yield a temporary folder, and move its files beside `path`, that of this name last; none after an error."""
    with explain_os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield folder
        with explain_os_errors(path, "write"):
            for file in sorted(folder.iterdir(), key=lambda each: each.name == path.name):
                file.replace(path.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
