"""Both type checkers, strict, accept a package as `new-plugin` writes it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.new_plugin import write_plugin

CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict", "."],
    "pyright": [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
}


def checked(checker: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What a checker, set up by the package's own pyproject.toml, says of it."""
    if importlib.util.find_spec(checker) is None:
        if os.environ.get("PIPELINE_TYPES_INSTALLED"):
            pytest.fail(f"{checker} is missing from the session made for it")
        pytest.skip(f"{checker} is not installed; the types session has it")
    return subprocess.run(CHECKERS[checker], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_written_type_checks(checker: str, tmp_path: Path) -> None:
    """Its module and its tests, of which one assigns the module to the hook's protocol; a fault in it is found."""
    folder = write_plugin("leaky-mean", tmp_path)
    told = checked(checker, folder)
    assert told.returncode == 0, told.stdout + told.stderr
    module = folder / "pipeline_leaky_mean" / "__init__.py"
    right = module.read_text(encoding="utf-8")
    wrong = right.replace("-> Mapping[str, EncoderFactory]:", "-> Mapping[str, int]:")
    assert wrong != right
    module.write_text(wrong, encoding="utf-8")
    told = checked(checker, folder)
    assert told.returncode == 1, told.stdout + told.stderr
    assert "test_leaky_mean.py" in told.stdout
