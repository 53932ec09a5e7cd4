"""Test that plugins, their template, external packages and the documentation import only public modules."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest

from pipeline.cli.plugin_kinds import PLUGIN_KINDS

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "pipeline",
    "pipeline.batching",
    "pipeline.errors",
    "pipeline.extend",
    "pipeline.forecast",
    "pipeline.loading",
    "pipeline.native",
    "pipeline.serving",
    "pipeline.sources",
    "pipeline.testing",
    "pipeline.training.adapters",
    "pipeline.training.lightning",
    "pipeline.training.scikit_learn",
    "pipeline.training",
}
"""Modules that users and plugin authors may import."""

FOLDERS = ("docs", "plugins", "tests/outside", "pipeline/cli/template")

# The bench compares internals, the court judges by them, and the site's configuration reads them.
EXCLUDED = re.compile(r"docs/(bench|court|_build|news|reference|conf\.py|drawings\.py)|/dist/|/\.")

FILES = sorted(
    path
    for path in (ROOT / "README.md", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*")))
    if path.suffix in {".py", ".md", ".in"} and not EXCLUDED.search(path.relative_to(ROOT).as_posix())
)


def read_programs(path: Path) -> Iterator[str]:
    """Yield the Python of a file: a module, a template, or the blocks of a page."""
    text = path.read_text(encoding="utf-8")
    names = {"module": "module", "part": "Part_", "name": "name", "package": "package", "kind": "kind"}
    if path.name.endswith(".py.in"):
        yield Template(text).substitute(names)
    elif path.name == "README.md.in":
        yield from (Template(kind.usage).substitute(names) for kind in PLUGIN_KINDS.values())
    elif path.suffix == ".py":
        yield text
    elif ".md" in path.suffixes:
        blocks = re.findall(r"^ *```\{?(?:py|python)\b[^\n]*\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
        yield from blocks


def find_imports(program: str) -> Iterator[str]:
    """Yield what a program imports from the library, as `module` or `module:name`."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "pipeline")
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "pipeline":
            yield from (f"{node.module}:{name.name}" for name in node.names)


def is_public(found: str) -> bool:
    """Return whether an import is allowed: a public module, or a name from one, but never all names."""
    module, _, name = found.partition(":")
    return module in PUBLIC and name != "*" and not name.startswith("_")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_public(path: Path) -> None:
    """Modules deeper than the public ones may change without notice."""
    assert [found for program in read_programs(path) for found in find_imports(program) if not is_public(found)] == []


def test_files_are_found() -> None:
    """Every kind of file is among the tested ones, and has imports."""
    found = {str(path.relative_to(ROOT)) for path in FILES}
    wanted = {
        "README.md",
        "docs/plugins.md",
        "pipeline/cli/template/encoder/module.py.in",
        "pipeline/cli/template/encoder/test.py.in",
        "plugins/pipeline_recurrent/__init__.py",
        "tests/outside/pipeline-mingru/pipeline_mingru/__init__.py",
    }
    assert found >= wanted
    for name in wanted:
        assert [*(each for program in read_programs(ROOT / name) for each in find_imports(program))], name


@pytest.mark.parametrize(
    ("program", "public"),
    [
        ("import pipeline", True),
        ("from pipeline.extend import Encoder", True),
        ("from pipeline import errors", True),
        ("import pipeline.core.stage", False),
        ("from pipeline.core.stage import Stage", False),
        ("from pipeline import *", False),
        ("def f():\n    from pipeline.data import rows", False),
        ("import pipeline_recurrent.engines.native", None),
    ],
)
def test_deeper_imports_are_detected(program: str, *, public: bool | None) -> None:
    """Imports inside functions count too; other packages do not."""
    assert [is_public(found) for found in find_imports(program)] == ([] if public is None else [public])
