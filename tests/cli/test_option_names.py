"""Test that commands name options as on the command line."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import pipeline
from pipeline.cli import option_names
from pipeline.cli.option_names import PHRASES


@cache
def list_messages() -> list[str]:
    """Return all texts in the source of the library, with `{}` for each value that is formatted into them."""
    files = [file for file in Path(pipeline.__file__).parent.rglob("*.py") if file != Path(option_names.__file__)]
    return [text for file in files for text in list_texts(ast.parse(file.read_text(encoding="utf-8")))]


def list_texts(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of a module; literals side by side are one text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("phrase", [phrase for _, phrase, _ in PHRASES])
def test_each_phrase_is_in_a_message(phrase: str) -> None:
    """Otherwise a message was changed, and commands would print its options as in Python."""
    assert any(phrase in message for message in list_messages())
