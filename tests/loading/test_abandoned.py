"""Programs end without noise when iterators of loaders are abandoned, and with their own error when they fail."""

import subprocess
import sys

import pytest

from support.needs import mark_slow

LOADERS = {
    "Loader": "Loader(RowDataset([[1], [2], [3]], FromIds()), PlannedBatches([1] * 3, Rows(1)), Pad(){options})",
    "StreamLoader": "StreamLoader(StreamDataset([[1], [2], [3]], FromIds() >> Bucket(rows=1) >> Pad()){options})",
    "pipe": "(FromIds() >> Bucket(rows=1) >> Pad())([[1], [2], [3]])",
}

ENDINGS = {
    "at the end": "batches = iter(loader); next(batches)",
    "in a function": "def main():\n    batches = iter(loader)\n    next(batches)\nmain()",
    "in a loop": "for batch in loader:\n    break",
    "before the first": "batches = iter(loader)",
    "at exit": "import sys; batches = iter(loader); next(batches); sys.exit(0)",
    "in a cycle": "batches = iter(loader); next(batches); cycle = [batches]; cycle.append(cycle); del batches, cycle",
}


def run(loader: str, ending: str, options: str) -> tuple[int, str]:
    """Run a program; return its exit status, and what it wrote."""
    program = "\n".join(
        [
            "from pipeline import *",
            "from pipeline.batching import Rows",
            "from pipeline.loading import *",
            f"loader = {LOADERS[loader].format(options=options)}",
            ENDINGS.get(ending, ending),
        ]
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("ending", mark_slow(ENDINGS, quick={"at the end", "in a cycle"}))
def test_a_program_ends_without_noise(ending: str) -> None:
    """Whatever loader it has, without workers and with one."""
    program = "\n".join(
        f"loader = {loader.format(options=options)}\n{ENDINGS[ending]}\nkept_{number} = loader"
        for number, (loader, options) in enumerate(
            [(loader, options) for loader in LOADERS.values() for options in ("", ", num_workers=1")]
        )
        if ending != "at exit" or number == 3
    )
    assert run("pipe", program, "") == (0, "")


def test_an_error_is_all_that_a_failing_program_shows() -> None:
    """The abandoned iterator adds nothing to it."""
    for loader in ("Loader", "StreamLoader"):
        status, output = run(
            loader, "batches = iter(loader)\nnext(batches)\nraise SystemError('mine')", ", num_workers=1"
        )
        assert status == 1
        assert output.splitlines()[-1] == "SystemError: mine"
        assert output.count("Traceback") == 1
