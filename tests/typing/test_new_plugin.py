"""Both type checkers, in strict mode, accept a package written by `new-plugin`."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.new_plugin import write_plugin
from pipeline.cli.plugin_kinds import PLUGIN_KINDS

CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict", "."],
    "pyright": [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
}


def run_checker(checker: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a checker with the settings of the package's own pyproject.toml."""
    if importlib.util.find_spec(checker) is None:
        if os.environ.get("PIPELINE_TYPES_INSTALLED"):
            pytest.fail(f"{checker} is missing from the session made for it")
        pytest.skip(f"{checker} is not installed; the types session has it")
    return subprocess.run(CHECKERS[checker], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_package_of_every_kind_type_checks(checker: str, tmp_path: Path) -> None:
    """All in one run of the checker, which takes most of its time for torch."""
    packages = [write_plugin(f"mine-{kind}", tmp_path, kind=kind) for kind in PLUGIN_KINDS]
    shutil.copy(packages[0] / "pyproject.toml", tmp_path)
    for package in packages:
        for part in package.glob("pipeline_*"):
            part.rename(tmp_path / part.name)
        for test in package.glob("tests/*.py"):
            test.rename(tmp_path / test.name)
        shutil.rmtree(package)
    result = run_checker(checker, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_written_package_type_checks(checker: str, tmp_path: Path) -> None:
    """A test in it assigns the module to the hook's protocol, so a mistake in the module is found."""
    folder = write_plugin("leaky-mean", tmp_path)
    result = run_checker(checker, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    module = folder / "pipeline_leaky_mean" / "__init__.py"
    right = module.read_text(encoding="utf-8")
    wrong = right.replace("-> Mapping[str, EncoderFactory]:", "-> Mapping[str, int]:")
    assert wrong != right
    module.write_text(wrong, encoding="utf-8")
    result = run_checker(checker, folder)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "test_leaky_mean.py" in result.stdout
