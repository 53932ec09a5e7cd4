"""The examples run, learn, and stay short."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.needs import SLOW

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
PUBLIC = {
    "pipeline",
    "pipeline.errors",
    "pipeline.extend",
    "pipeline.sources",
    "pipeline.training",
    "pipeline_attention",
    "pipeline_convolutional",
    "pipeline_decoders",
    "pipeline_embeddings",
    "pipeline_heads",
    "pipeline_recurrent",
    "pipeline_transformer",
}


def run_example(name: str, *arguments: str) -> float:
    """Run a script in a process of its own, and return the accuracy that it prints last, in percent."""
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = re.fullmatch(r"accuracy on \d+ .*: (\d+\.\d)%", run.stdout.splitlines()[-1])
    assert found is not None, run.stdout
    return float(found[1])


@pytest.mark.parametrize(
    "script",
    [pytest.param(script, marks=() if script.stem == "classify_csv" else SLOW, id=script.stem) for script in SCRIPTS],
)
def test_an_example_learns(script: Path) -> None:
    """With the data that it makes itself, far better than by guessing."""
    assert run_example(script.name) > 90


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_an_example_is_short(script: Path) -> None:
    """At most 60 lines."""
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("*.py")), ids=lambda file: file.stem)
def test_examples_import_public_modules_only(file: Path) -> None:
    """As a user would."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {module for module in imported if module.startswith("pipeline")} <= PUBLIC


@SLOW
def test_the_classifier_reads_a_file_of_the_user(tmp_path: Path) -> None:
    """Every other text of this one is good."""
    file = tmp_path / "own.csv"
    rows = [f'"no, {word} at all",{label}' for word, label in [("good", "yes"), ("bad", "no")] * 50]
    file.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    assert run_example("classify_csv.py", str(file)) == 100


@SLOW
def test_the_sensor_example_reads_a_file_of_the_user(tmp_path: Path) -> None:
    """Rows of one feature, whose class is its value."""
    lengths = np.arange(100) % 7 + 1
    classes = np.arange(100) % 2
    file = tmp_path / "own.npz"
    np.savez(file, x=np.repeat(classes, lengths)[:, None].astype(np.float32), len=lengths, y=classes)
    assert run_example("sensor_rows.py", str(file)) == 100
