"""JSON files without ambiguity: no doubled keys, no NaN, limited size and nesting."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn, TypeAlias, cast

from pipeline.errors import LoadError, SaveError
from pipeline.saving.files import explain_os_errors, read_regular_file
from pipeline.text import escape_control_characters

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A value of a JSON file."""

MAX_BYTES: Final = 64 << 20
"""Default limit of a file's size: a vocabulary of a million tokens takes 20 MB."""

MAX_DEPTH: Final = 100
"""Limit of nesting. Deeper texts could exhaust the parser's stack; the files written here have about 20 levels."""

# A text without escapes is matched in one step, so that the time is linear in the size.
_TEXT: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[\]{}]")


def write_json(file: Path, value: object) -> None:
    """Write a value to a JSON file, so that `read_json` returns an equal one (tuples become lists).

    Raises:
        SaveError: if the value has NaN or an infinity, a key that is not text, or an object that JSON does not have.
        FolderError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> write_json(file, {"sizes": (3, 1)})
        >>> read_json(file)
        {'sizes': [3, 1]}
    """
    text = format_json(value)
    with explain_os_errors(file, "write"):
        file.write_text(text, encoding="utf-8", newline="\n")


def format_json(value: object) -> str:
    """Return a value as JSON text, indented for readers.

    Raises:
        SaveError: as in `write_json`.
    """
    return json.dumps(_convert(value, "value", 0), indent=1, allow_nan=False) + "\n"


def read_json(file: Path, *, limit: int = MAX_BYTES) -> Json:
    """Read a JSON file.

    Raises:
        LoadError: if it is not valid JSON in UTF-8, has a key twice, NaN or an infinite number, is nested deeper than
            100 levels, is larger than `limit` bytes, or is not a regular file.
        FolderError: if it cannot be read.
    """
    return parse_json(read_regular_file(file, limit=limit).data, str(file))


def parse_json(data: bytes | memoryview, name: str) -> Json:
    """Return the value of a JSON text in UTF-8.

    Args:
        data: the text.
        name: the file's name, for errors.

    Raises:
        LoadError: as in `read_json`.

    Example:
        >>> parse_json(b'{"a": 1, "a": 2}', "a.json")
        Traceback (most recent call last):
        pipeline.errors.LoadError: 'a.json' is not a valid JSON file: key 'a' occurs twice; save it again.
    """
    text = bytes(data)
    depth = _measure_depth(text)
    if depth > MAX_DEPTH:
        raise _make_error(name, f"it is nested {depth:,} levels deep, and {MAX_DEPTH} are allowed")
    try:
        return cast(
            "Json",
            json.loads(
                text.decode("utf-8"),
                object_pairs_hook=_make_object,
                parse_constant=_reject_constant,
                parse_float=_parse_float,
            ),
        )
    except (ValueError, RecursionError) as error:
        # Content may be of any file, and is not repeated, except for what this module rejects itself.
        reason = str(error) if type(error) is _JsonError else f"{type(error).__name__}{_locate(error)}"
        raise _make_error(name, reason) from error


class _JsonError(ValueError):
    """A rule of this module that a text breaks."""


def _locate(error: Exception) -> str:
    return f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""


def _make_error(name: str, reason: str) -> LoadError:
    msg = f"{name!r} is not a valid JSON file: {reason}; save it again."
    return LoadError(msg, file=name, reason=reason)


def _measure_depth(data: bytes) -> int:
    deepest = depth = 0
    for bracket in _BRACKET.findall(_TEXT.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _make_object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                msg = f"key '{escape_control_characters(key[:40])}' occurs twice"
                raise _JsonError(msg)
            seen.add(key)
    return found


def _reject_constant(constant: str) -> NoReturn:
    msg = f"{constant} is not a number in JSON"
    raise _JsonError(msg)


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        msg = "a number is too large"
        raise _JsonError(msg)
    return value


def _convert(value: object, where: str, depth: int) -> Json:
    """Return a value in the types of JSON; reject what `read_json` would not read as an equal value."""
    if depth > MAX_DEPTH:
        msg = f"{where[:60]}... is nested deeper than {MAX_DEPTH} levels; make it flatter."
        raise SaveError(msg)
    # By exact type: an enumeration or a subclass of str would come back as something else.
    if value is None or type(value) in {bool, int, str}:
        return cast("Json", value)
    if type(value) is float:
        if not math.isfinite(value):
            msg = f"{where} must be a finite number, got {value}; JSON has no such number."
            raise SaveError(msg)
        return value
    if isinstance(value, Mapping):
        found: dict[str, Json] = {}
        for key, each in cast("Mapping[object, object]", value).items():
            if type(key) is not str:
                msg = f"{where} must have texts as keys, got {key!r}; convert the keys."
                raise SaveError(msg)
            found[key] = _convert(each, f"{where}[{key!r}]", depth + 1)
        return found
    if type(value) in {list, tuple}:
        items = enumerate(cast("Sequence[object]", value))
        return [_convert(each, f"{where}[{index}]", depth + 1) for index, each in items]
    msg = f"{where} must be a value that JSON has, got {type(value).__name__}; convert it to numbers and texts."
    raise SaveError(msg)
