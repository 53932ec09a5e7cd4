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
RIGHT, WRONG = sorted(HERE.glob("right*.py")), sorted(HERE.glob("wrong*.py"))
PACKAGES = [
    "pipeline",
    "pipeline_attention",
    "pipeline_convolutional",
    "pipeline_decoders",
    "pipeline_embeddings",
    "pipeline_heads",
    "pipeline_recurrent",
    "pipeline_transformer",
]
CODES = {
    "order": "a stage after one whose output it does not take",
    "kind": "ids where vectors are needed, or vectors where ids are",
    "layout": "a padded batch where a packed one is needed, or the reverse",
    "row": "one row where many are needed, or many where one is",
    "stream": "one thing where a stream of things is needed, or a stream where one thing is",
    "future": "a next token from states that may not be causal",
    "preserving": "a type-preserving stage, where that type does not fit",
    "hook": "a plugin's module without the hook that it should have",
    "part": "an object that is not a stage, or not a part of the needed kind",
    "call": "an option that does not exist, or of a wrong type",
    "prediction": "a prediction of another type than the model gives",
    "value": "a row, a batch or states made or passed wrongly",
    "field": "a field that is missing, misnamed or of another kind, or a class with other fields",
    "branch": "branches whose inputs or outputs differ, or cannot be joined",
}
"""The meaning of each code. A line is marked `# E code: reason`."""

VAGUE = {"no-any-return", "no-untyped-call", "var-annotated", "reportUnknownVariableType", "reportUnknownArgumentType"}
"""Errors that only say that a checker does not know a type. A line needs another error to count as rejected."""


def needs(checker: str) -> None:
    """Skip a test whose checker is not installed, but not in the session made for it."""
    if importlib.util.find_spec(checker) is None:
        if os.environ.get("PIPELINE_TYPES_INSTALLED"):
            pytest.fail(f"{checker} is missing from the session made for it")
        pytest.skip(f"{checker} is not installed; the types session has it")


def run_checker(*command: str, **env: str) -> str:
    """Return the output of a checker."""
    # pyright uses the packages of the first python on the path.
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
    """Yield the lines of a file in which mypy finds errors, with the kind of each."""
    for line in run_checker(
        "mypy", "--output=json", "--no-error-summary", str(folder / name), MYPYPATH=str(folder)
    ).splitlines():
        error = json.loads(line)
        if error["severity"] == "error" and Path(error["file"]).name == name:
            yield error["line"], error["code"]


def pyright(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file in which pyright finds errors, with the kind of each."""
    project = {
        "extends": str(ROOT / "pyproject.toml"),
        "include": [name],
        "exclude": [],
        "extraPaths": [str(ROOT / folder) for folder in (".", "plugins", "tests")],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(project))
    report = run_checker("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(folder))
    for error in json.loads(report)["generalDiagnostics"]:
        if error["severity"] == "error" and Path(error["file"]).name == name:
            yield error["range"]["start"]["line"] + 1, error.get("rule", "syntax")


def find_errors(checker: str, file: Path, folder: Path) -> dict[int, set[str]]:
    """Return the lines of a file in which a checker with the project's settings finds errors, and their kinds.

    A copy in `folder` is checked, next to the modules that it imports: the project's own settings exclude the file.
    """
    needs(checker)
    shutil.copy(file, folder)
    shutil.copytree(HERE / "wrong_hooks", folder / "wrong_hooks")
    found: dict[int, set[str]] = {}
    for line, kind in {"mypy": mypy, "pyright": pyright}[checker](folder, file.name):
        found.setdefault(line, set()).add(kind)
    return found


def find_marks(file: Path) -> dict[int, str]:
    """Return the lines of a file that end in a mark and a reason, with the code of each."""
    lines = enumerate(file.read_text().splitlines(), start=1)
    marks = ((number, re.search(r"  # E (\w+): \w", line)) for number, line in lines)
    return {number: mark[1] for number, mark in marks if mark}


def count_stages(expression: ast.expr) -> int:
    """Return the number of stages that an expression joins, parentheses included."""
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.RShift):
        return count_stages(expression.left) + count_stages(expression.right)
    return 1


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("file", WRONG, ids=lambda file: file.stem)
def test_wrong_lines_are_rejected(checker: str, file: Path, tmp_path: Path) -> None:
    """Every marked line is an error, and not only because a type is unknown; no other line is."""
    found = find_errors(checker, file, tmp_path)
    assert sorted(found) == sorted(find_marks(file))
    assert not [line for line, kinds in found.items() if kinds <= VAGUE]


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("file", RIGHT, ids=lambda file: file.stem)
def test_right_lines_are_accepted(checker: str, file: Path, tmp_path: Path) -> None:
    """Chains that fit have the types that they should have."""
    assert find_errors(checker, file, tmp_path) == {}


@pytest.mark.parametrize("file", RIGHT, ids=lambda file: file.stem)
def test_right_lines_compose(file: Path) -> None:
    """Lines that type-check can be run."""
    runpy.run_path(str(file))


def test_wrong_lines_are_many() -> None:
    """Each mark has a known code, and each code two lines or more."""
    counts = Counter(code for file in WRONG for code in find_marks(file).values())
    assert set(counts) == set(CODES)
    assert min(counts.values()) >= 2
    assert counts.total() == sum(file.read_text().count("# E ") for file in WRONG)
    assert counts.total() >= 320


def test_right_lines_are_many() -> None:
    """The file asserts many types, some of long chains."""
    tree = ast.parse("\n".join(file.read_text() for file in RIGHT))
    names = [call.func.id for call in ast.walk(tree) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)]
    assert names.count("assert_type") >= 80
    chains = [count_stages(node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    assert len([length for length in chains if length >= 10]) >= 3


def test_no_line_is_silenced() -> None:
    """There are no ignore comments, and every wrong hook is used."""
    for file in [*RIGHT, *WRONG, *(HERE / "wrong_hooks").glob("*.py")]:
        assert not re.search(r"#\s*(type|pyright|mypy)\s*:", file.read_text()), file
    wrong = (HERE / "wrong.py").read_text()
    assert not [file.stem for file in (HERE / "wrong_hooks").glob("*.py") if f"= {file.stem}  # E hook" not in wrong]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_types_are_complete(package: str) -> None:
    """Every public name has a type that needs no inference, so that all checkers agree on it."""
    needs("pyright")
    report = json.loads(run_checker("pyright", "--verifytypes", package, "--ignoreexternal", "--outputjson"))
    counted = report["typeCompleteness"]["exportedSymbolCounts"]
    assert counted["withKnownType"] > 0
    assert (counted["withAmbiguousType"], counted["withUnknownType"]) == (0, 0), report["typeCompleteness"]["symbols"]
