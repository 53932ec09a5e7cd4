"""The manifest is read as it was written, and no byte of it can change unnoticed."""

import json
from hashlib import sha256
from typing import Any

import pytest

from pipeline.errors import LoadError
from pipeline.saving.manifest import Manifest, SavedFile, SavedPlugin, format_manifest, parse_manifest
from support.hostile import ZEROS

WHOLE = Manifest(
    {"torch": "2.13.0+cpu"},
    ["list[int]", "Tensor"],
    "tuple[str, float]",
    [SavedPlugin("pipeline-mingru", "1.0", ["encoder 'mingru'"])],
    {"pipeline.json": SavedFile(3, "a" * 64)},
)


WRONG: list[tuple[str, Any, str]] = [
    ("takes", "str", "must be lists"),
    ("gives", 3, "must be of type str, got 3"),
    ("gives", "a\x1b", r"'a\\x1b' is not allowed"),
    ("versions", {"torch": 2}, "must be of type str, got 2"),
    ("versions", {"torch": "2; rm"}, "'2; rm' is not allowed"),
    ("plugins", [{"distribution": "a", "version": "1"}], "must be lists"),
    ("plugins", [{"distribution": "a", "version": "1", "parts": [], "more": 1}], "more"),
    ("plugins", [{"distribution": "-a", "version": "1", "parts": []}], "'-a' is not allowed"),
    ("files", {"a/b": {"size": 1, "sha256": "a" * 64}}, "'a/b' is not allowed"),
    ("files", {".hidden": {"size": 1, "sha256": "a" * 64}}, "is not allowed"),
    ("files", {"a": {"size": -1, "sha256": "a" * 64}}, "a size below 0"),
    ("files", {"a": {"size": True, "sha256": "a" * 64}}, "must be of type int, got True"),
    ("files", {"a": {"size": 1.0, "sha256": "a" * 64}}, "must be of type int, got 1.0"),
    ("files", {"a": {"size": 1, "sha256": "A" * 64}}, "is not allowed"),
    ("files", [], "valid manifest"),
    ("more", 1, "more"),
]


def sign(value: dict[str, Any]) -> bytes:
    """Return the text of a manifest with its digest."""
    text = json.dumps({"format": value.pop("format", 1), "sha256": ZEROS, **value})
    digest = sha256(text.encode()).hexdigest()
    return text.replace(ZEROS, digest, 1).encode()


def read() -> dict[str, Any]:
    """Return the content of the manifest without its digest."""
    value: dict[str, Any] = json.loads(format_manifest(WHOLE))
    del value["sha256"]
    return value


def test_a_manifest_is_read_as_written() -> None:
    """With all values."""
    assert parse_manifest(format_manifest(WHOLE).encode(), "m") == WHOLE
    assert parse_manifest(sign(read()), "m") == WHOLE


def test_every_changed_byte_is_found() -> None:
    """White space too."""
    text = format_manifest(WHOLE).encode()
    for place in range(len(text)):
        changed = text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]
        with pytest.raises(LoadError):
            parse_manifest(changed, "m")
        with pytest.raises(LoadError):
            parse_manifest(text[:place] + b" " + text[place:], "m")


def test_a_newer_format_says_so() -> None:
    """And names the remedy."""
    with pytest.raises(LoadError, match="'m' has format 2, but this version reads format 1; update ragged-pipeline"):
        parse_manifest(sign({**read(), "format": 2}), "m")
    with pytest.raises(LoadError, match="has format None, .*; check that it is a folder that pipe.save wrote"):
        parse_manifest(b"{}", "m")
    with pytest.raises(LoadError, match="has format True"):
        parse_manifest(sign({**read(), "format": True}), "m")


@pytest.mark.parametrize(("key", "value", "match"), WRONG)
def test_other_values_are_rejected(key: str, value: object, match: str) -> None:
    """Each value has exactly its type and form, although the digest is valid."""
    with pytest.raises(LoadError, match=match):
        parse_manifest(sign({**read(), key: value}), "m")


def test_other_texts_are_rejected() -> None:
    """A list, and nothing."""
    for text in (b"[]", b"", b"null"):
        with pytest.raises(LoadError, match="is not a valid"):
            parse_manifest(text, "m")
