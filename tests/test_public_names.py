"""Tests of the names that `pipeline` exports."""

import ast
from pathlib import Path

import pipeline


def test_every_public_name_is_defined_and_imported_by_name() -> None:
    """`__all__` has exactly the names of the module, sorted as the linter sorts them."""
    tree = ast.parse(Path(pipeline.__file__).read_text(encoding="utf-8"))
    imported = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert not [alias.name for alias in imported if alias.asname is not None or alias.name == "*"]
    assert set(pipeline.__all__) == {alias.name for alias in imported if alias.name != "version"} | {"__version__"}
    assert len(set(pipeline.__all__)) == len(pipeline.__all__)
    assert all(hasattr(pipeline, name) for name in pipeline.__all__)
