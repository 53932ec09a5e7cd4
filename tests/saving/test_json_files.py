"""JSON files are strict in both directions."""

import enum
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import FolderError, LoadError, SaveError
from pipeline.saving.json_files import Json, format_json, parse_json, read_json, write_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9)


class Color(enum.StrEnum):
    """An enumeration whose values are texts."""

    RED = "red"


@given(VALUES)
def test_values_are_read_as_written(value: Json) -> None:
    """To the last bit of every float, in every script."""
    assert parse_json(format_json(value).encode(), "a.json") == value


def test_a_file_is_read_as_written(tmp_path: Path) -> None:
    """Tuples and mappings become lists and dictionaries."""
    write_json(tmp_path / "a.json", {"a": (1, "é"), "b": MappingProxyType({"c": None})})
    assert read_json(tmp_path / "a.json") == {"a": [1, "é"], "b": {"c": None}}


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"a": [1.0, float("nan")]}, r"value\['a'\]\[1\] must be a finite number, got nan"),
        (float("-inf"), "value must be a finite number"),
        ({1: "a"}, "value must have texts as keys, got 1"),
        ({"a": {1}}, r"value\['a'\] must be a value that JSON has, got set"),
        (b"a", "must be a value that JSON has, got bytes"),
        (Color.RED, "must be a value that JSON has, got Color"),
    ],
)
def test_other_values_are_not_written(value: object, match: str) -> None:
    """They would come back as something else."""
    with pytest.raises(SaveError, match=match):
        format_json(value)


def test_deep_values_are_not_written() -> None:
    """Nor those that contain themselves."""
    value: list[object] = []
    value.append(value)
    with pytest.raises(SaveError, match="is nested deeper than 100 levels"):
        format_json(value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' occurs twice"),
        (b'{"\\u001b": 1, "\\u001b": 2}', r"key '\\x1b' occurs twice"),
        (b"[NaN]", "NaN is not a number in JSON"),
        (b"[-Infinity]", "-Infinity is not a number in JSON"),
        (b"[1e999]", "a number is too large"),
        (b"[" * 10_000 + b"]" * 10_000, "nested 10,000 levels deep, and 100 are allowed"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested 10,000 levels deep"),
        (b'["a\x01b"]', "JSONDecodeError at line 1"),
        (b'["\xff"]', "UnicodeDecodeError"),
        (b"\xef\xbb\xbf[]", "JSONDecodeError"),
        (b"", "JSONDecodeError"),
        (b"[1] [2]", "JSONDecodeError"),
        (b"[" + b"9" * 5_000 + b"]", "ValueError"),
        (b'["' + b"[" * 200, "nested 201 levels"),
    ],
)
def test_ambiguous_and_hostile_texts_are_rejected(text: bytes, match: str) -> None:
    """With the rule, and without the text, which may be of any file."""
    with pytest.raises(LoadError, match=match) as caught:
        parse_json(text, "a.json")
    assert str(caught.value).startswith("'a.json' is not a valid JSON file")


def test_brackets_in_texts_are_no_nesting() -> None:
    r"""Nor after an escaped quote."""
    assert parse_json(b'["' + b"[" * 200 + b'\\"' + b"[" * 200 + b'"]', "a.json") == ["[" * 200 + '"' + "[" * 200]


def test_large_files_are_rejected(tmp_path: Path) -> None:
    """Before they are read."""
    (tmp_path / "a.json").write_bytes(b"[1, 2, 3]")
    with pytest.raises(LoadError, match="must have at most 8 bytes, got 9"):
        read_json(tmp_path / "a.json", limit=8)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """Named with its path."""
    with pytest.raises(FolderError, match=r"a\.json' cannot be read: No such file"):
        read_json(tmp_path / "a.json")
