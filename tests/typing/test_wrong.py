"""Both type checkers accept the right lines, and reject exactly the wrong ones."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy"],
    "pyright": [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
}


def reported(checker: str, file: Path, folder: Path) -> set[int]:
    """The lines of a file in which a checker, set up as for the project, finds an error.

    A copy of it in `folder` is checked: the project's own run leaves the wrong lines out, by name.
    """
    if importlib.util.find_spec(checker) is None:
        if os.environ.get("PIPELINE_TYPES_INSTALLED"):
            pytest.fail(f"{checker} is missing from the session made for it")
        pytest.skip(f"{checker} is not installed; the types session has it")
    copy = shutil.copy(file, folder)
    run = subprocess.run([*CHECKERS[checker], str(copy)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return {int(line) for line in re.findall(rf"{file.name}:(\d+):(?:\d+)? ?-? ?error", run.stdout)}


def marked(file: Path) -> set[int]:
    """The lines of a file that end in a mark and a reason."""
    lines = enumerate(file.read_text().splitlines(), start=1)
    return {number for number, line in lines if re.search(r"  # E \w", line)}


@pytest.mark.parametrize("checker", CHECKERS)
def test_wrong_lines_are_rejected(checker: str, tmp_path: Path) -> None:
    """Every marked line is an error, and no other line is."""
    file = HERE / "wrong.py"
    assert reported(checker, file, tmp_path) == marked(file)


@pytest.mark.parametrize("checker", CHECKERS)
def test_right_lines_are_accepted(checker: str, tmp_path: Path) -> None:
    """Chains that fit have the types that they should have."""
    assert reported(checker, HERE / "right.py", tmp_path) == set()


def test_wrong_lines_are_many() -> None:
    """The file of wrong lines holds what it promises: a mark with a reason on each of its expressions."""
    expressions = re.findall(r"^e\d\d = ", (HERE / "wrong.py").read_text(), flags=re.MULTILINE)
    assert len(marked(HERE / "wrong.py")) == len(expressions) >= 39
