"""Both type checkers accept the right lines, and reject exactly the wrong ones."""

import ast
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHECKERS = ["mypy", "pyright"]
PACKAGES = ["pipeline", "pipeline_attention", "pipeline_recurrent"]
CODES = {
    "order": "a stage behind one that does not give what it takes",
    "kind": "ids where vectors are needed, or vectors where ids are",
    "layout": "a padded batch where a packed one is needed, or the reverse",
    "row": "one row where many are needed, or many where one is",
    "stream": "one thing where a stream of things is needed, or a stream where one thing is",
    "future": "a next token from states that may have seen it",
    "keeps": "a stage that keeps its type, where that type does not fit",
    "hook": "a plugin's module without the hook that it should have",
    "part": "something that is no stage, or no part of the kind that is needed",
    "call": "an option that does not exist, or of a wrong type",
    "answer": "an answer of another type than the model gives",
    "value": "a row, a batch or states made or handed over wrongly",
}
"""What the code of a mark means. A line is marked `# E code: reason`."""

VAGUE = {"no-any-return", "no-untyped-call", "var-annotated", "reportUnknownVariableType", "reportUnknownArgumentType"}
"""Errors that say only that a checker does not know a type. A line with no other is not rejected."""


def needs(checker: str) -> None:
    """Skip a test whose checker is not installed, but not in the session made for it."""
    if importlib.util.find_spec(checker) is None:
        if os.environ.get("PIPELINE_TYPES_INSTALLED"):
            pytest.fail(f"{checker} is missing from the session made for it")
        pytest.skip(f"{checker} is not installed; the types session has it")


def checked(*command: str, **env: str) -> str:
    """What a checker prints."""
    # pyright takes the first python on the path for the one whose packages count.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return run.stdout


def mypy(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """The lines of a file in which mypy finds errors, and the kind of each."""
    for line in checked(
        "mypy", "--output=json", "--no-error-summary", str(folder / name), MYPYPATH=str(folder)
    ).splitlines():
        error = json.loads(line)
        if error["severity"] == "error" and Path(error["file"]).name == name:
            yield error["line"], error["code"]


def pyright(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """The lines of a file in which pyright finds errors, and the kind of each."""
    project = {
        "extends": str(ROOT / "pyproject.toml"),
        "include": [name],
        "exclude": [],
        "extraPaths": [str(ROOT / folder) for folder in (".", "plugins", "tests")],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(project))
    report = checked("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(folder))
    for error in json.loads(report)["generalDiagnostics"]:
        if error["severity"] == "error" and Path(error["file"]).name == name:
            yield error["range"]["start"]["line"] + 1, error.get("rule", "syntax")


def reported(checker: str, file: Path, folder: Path) -> dict[int, set[str]]:
    """The lines of a file in which a checker, set up as for the project, finds errors, and their kinds.

    A copy of it in `folder` is checked, with the modules that it imports beside it: the project's own run
    leaves the wrong lines out, by name.
    """
    needs(checker)
    shutil.copy(file, folder)
    shutil.copytree(HERE / "wrong_hooks", folder / "wrong_hooks")
    found: dict[int, set[str]] = {}
    for line, kind in {"mypy": mypy, "pyright": pyright}[checker](folder, file.name):
        found.setdefault(line, set()).add(kind)
    return found


def marked(file: Path) -> dict[int, str]:
    """The lines of a file that end in a mark and a reason, and the code of each."""
    lines = enumerate(file.read_text().splitlines(), start=1)
    marks = ((number, re.search(r"  # E (\w+): \w", line)) for number, line in lines)
    return {number: mark[1] for number, mark in marks if mark}


def stages(expression: ast.expr) -> int:
    """How many stages an expression joins, those within parentheses included."""
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.RShift):
        return stages(expression.left) + stages(expression.right)
    return 1


@pytest.mark.parametrize("checker", CHECKERS)
def test_wrong_lines_are_rejected(checker: str, tmp_path: Path) -> None:
    """Every marked line is an error, and not for want of knowledge; no other line is."""
    file = HERE / "wrong.py"
    found = reported(checker, file, tmp_path)
    assert sorted(found) == sorted(marked(file))
    assert not [line for line, kinds in found.items() if kinds <= VAGUE]


@pytest.mark.parametrize("checker", CHECKERS)
def test_right_lines_are_accepted(checker: str, tmp_path: Path) -> None:
    """Chains that fit have the types that they should have."""
    assert reported(checker, HERE / "right.py", tmp_path) == {}


def test_right_lines_compose() -> None:
    """What type-checks is not refused when it is run."""
    runpy.run_path(str(HERE / "right.py"))


def test_wrong_lines_are_many() -> None:
    """Each mark has a code that is explained, and each code two lines or more."""
    file = HERE / "wrong.py"
    counts = Counter(marked(file).values())
    assert set(counts) == set(CODES)
    assert min(counts.values()) >= 2
    assert counts.total() == file.read_text().count("# E ")
    assert counts.total() >= 250


def test_right_lines_are_many() -> None:
    """The file of right lines says the type of many, and of long chains."""
    tree = ast.parse((HERE / "right.py").read_text())
    names = [call.func.id for call in ast.walk(tree) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)]
    assert names.count("assert_type") >= 80
    chains = [stages(node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    assert len([length for length in chains if length >= 10]) >= 3


def test_wrong_lines_have_no_way_out() -> None:
    """No line is silenced, and every wrong hook is tried."""
    for file in [HERE / "right.py", HERE / "wrong.py", *(HERE / "wrong_hooks").glob("*.py")]:
        assert not re.search(r"#\s*(type|pyright|mypy)\s*:", file.read_text()), file
    wrong = (HERE / "wrong.py").read_text()
    assert not [file.stem for file in (HERE / "wrong_hooks").glob("*.py") if f"= {file.stem}  # E hook" not in wrong]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_types_are_complete(package: str) -> None:
    """Every public name has a type that needs no inference, so that all checkers see the same one."""
    needs("pyright")
    report = json.loads(checked("pyright", "--verifytypes", package, "--ignoreexternal", "--outputjson"))
    counted = report["typeCompleteness"]["exportedSymbolCounts"]
    assert counted["withKnownType"] > 0
    assert (counted["withAmbiguousType"], counted["withUnknownType"]) == (0, 0), report["typeCompleteness"]["symbols"]
