"""The manifest of a saved folder: its format, the versions that wrote it, and the size and digest of each file."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final, cast

import attrs

from pipeline.errors import LoadError
from pipeline.saving.json_files import Json, format_json, parse_json
from pipeline.text import to_one_line

if TYPE_CHECKING:
    from cattrs import Converter

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
"""The format that is written. Each format that was ever written has a reader below."""

MAX_MANIFEST: Final = 1 << 20
"""Limit of the manifest's bytes."""

_ZEROS: Final = "0" * 64
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}(\.[A-Za-z0-9_-]{1,20}){0,3}")
_DISTRIBUTION: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,100}[A-Za-z0-9])?")
_VERSION: Final = re.compile(r"[A-Za-z0-9.!+_-]{1,60}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_TYPE: Final = re.compile(r"[A-Za-z0-9_, .\[\]]{1,300}")
_PART: Final = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


@attrs.frozen
class SavedFile:
    """Size and SHA-256 of a file."""

    size: int
    sha256: str


@attrs.frozen
class SavedPlugin:
    """A plugin that the pipe needs, with the parts of it that occur in the pipe."""

    distribution: str
    version: str
    parts: list[str]


@attrs.frozen
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        versions: the versions of this library, of torch and of Python that wrote the folder.
        takes: the types of inputs that the pipe accepts, any of them.
        gives: the type of a prediction.
        plugins: the plugins that offer its parts.
        files: the files of the folder by name. Others in the folder are never opened.
    """

    versions: dict[str, str]
    takes: list[str]
    gives: str
    plugins: list[SavedPlugin]
    files: dict[str, SavedFile]


def format_manifest(manifest: Manifest) -> str:
    """Return the text of a manifest, with a digest of the text itself, so that no byte of it can change unnoticed."""
    value = {"format": FORMAT, "sha256": _ZEROS, **attrs.asdict(manifest)}
    text = format_json(value)
    return text.replace(_ZEROS, sha256(text.encode()).hexdigest(), 1)


def parse_manifest(data: bytes | memoryview, name: str) -> Manifest:
    """Return the manifest of a saved folder.

    Raises:
        LoadError: if it is damaged, of an unknown format, or has a value that is not allowed.
    """
    value = parse_json(data, name)
    if not isinstance(value, dict):
        raise _make_error(name, "it is not a JSON object")
    number = value.pop("format", None)
    reader = _READERS.get(number) if type(number) is int else None
    if reader is None:
        known = ", ".join(map(str, _READERS))
        newer = type(number) is int and number > FORMAT
        fix = "update ragged-pipeline" if newer else "check that it is a folder that pipe.save wrote"
        msg = f"{name!r} has format {number!r:.20}, but this version reads format {known}; {fix}."
        raise LoadError(msg, file=name, format=number)
    digest = value.pop("sha256", None)
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise _make_error(name, "its digest is missing")
    # The first occurrence is that of the digest itself, which stands before all else but the format.
    plain = bytes(data).replace(digest.encode(), _ZEROS.encode(), 1)
    if sha256(plain).hexdigest() != digest:
        raise _make_error(name, "it was changed after it was written, since its digest differs")
    return reader(value, name)


def _read_format_1(value: dict[str, Json], name: str) -> Manifest:
    plugins = value.get("plugins")
    parts = [plugin.get("parts") for plugin in plugins if isinstance(plugin, dict)] if isinstance(plugins, list) else []
    # cattrs takes any iterable for a list: of a text, its letters.
    if not all(isinstance(each, list) for each in [value.get("takes"), plugins, *parts]):
        raise _make_error(name, "takes, plugins and parts must be lists")
    try:
        found = _make_converter().structure(value, Manifest)
    except Exception as error:
        raise _make_error(name, to_one_line(_explain(error), 200)) from error
    rules: list[tuple[re.Pattern[str], list[str]]] = [
        (_FILE_NAME, list(found.files)),
        (_DIGEST, [file.sha256 for file in found.files.values()]),
        (_DISTRIBUTION, [plugin.distribution for plugin in found.plugins]),
        (_VERSION, [*(plugin.version for plugin in found.plugins), *found.versions, *found.versions.values()]),
        (_TYPE, [*found.takes, found.gives]),
        (_PART, [part for plugin in found.plugins for part in plugin.parts]),
    ]
    for pattern, texts in rules:
        for text in texts:
            # Paths, control characters and signs of a shell occur in none of them.
            if not pattern.fullmatch(text):
                raise _make_error(name, f"{text!r:.80} is not allowed in it")
    if MANIFEST in found.files or any(file.size < 0 for file in found.files.values()):
        raise _make_error(name, "it lists itself, or a size below 0")
    return found


_READERS: Final[Mapping[int, Callable[[dict[str, Json], str], Manifest]]] = {1: _read_format_1}


@cache
def _make_converter() -> "Converter":
    """Return a converter that accepts exactly the attributes of a class, each of exactly its type."""
    from cattrs import Converter  # noqa: PLC0415 - `import pipeline` must not wait for it

    converter = Converter(forbid_extra_keys=True)
    for cls in (str, int):
        converter.register_structure_hook(cls, _check_type)
    return converter


def _check_type(value: object, cls: type) -> object:
    # By default a converter would call int("3") and str(3).
    if type(value) is not cls:
        msg = f"a value must be of type {cls.__name__}, got {value!r:.60}"
        raise TypeError(msg)
    return value


def _explain(error: BaseException) -> str:
    """Return the first error within groups of errors, as cattrs raises them."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return f"{type(error).__name__}: {error}"


def _make_error(name: str, reason: str) -> LoadError:
    msg = f"{name!r} is not a valid manifest: {reason}; save the pipe again, or get the folder again."
    return LoadError(msg, file=name, reason=reason)
