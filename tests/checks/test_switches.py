"""The switches: as a context manager, for good, and by the environment."""

import os
import subprocess
import sys

import pytest
import torch

from pipeline import Padded, Pooled, Scores, Vectors, set_checks
from pipeline.errors import OptionError, ShapeError

FLAT = torch.zeros(2)


def test_checks_can_be_switched_off_and_on() -> None:
    """Contexts nest, and restore the setting before."""
    with set_checks(False):
        Padded(Vectors, torch.zeros(2, 2, 3), torch.tensor([9, 9]))
        Pooled(FLAT)
        Scores(torch.zeros(2, 3), range(1))
        with set_checks(True), pytest.raises(ShapeError):
            Pooled(FLAT)
    with pytest.raises(ShapeError):
        Pooled(FLAT)


def test_a_switch_is_restored_after_an_error() -> None:
    """As after any context manager."""
    with pytest.raises(OptionError), set_checks(False):
        raise OptionError("inside")
    with pytest.raises(ShapeError):
        Pooled(FLAT)


@pytest.mark.parametrize(("value", "status"), [("0", 0), ("1", 1), ("", 1), ("perhaps", 1)])
def test_the_environment_sets_the_checks(value: str, status: int) -> None:
    """`PIPELINE_CHECKS=0` switches them off from the start; other values than 0 and 1 raise."""
    code = "import torch; from pipeline import Pooled; print(Pooled(torch.zeros(2)).values.shape)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PIPELINE_CHECKS": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == status, run.stderr
    if value == "perhaps":
        assert "PIPELINE_CHECKS must be 0 or 1, got 'perhaps'" in run.stderr


def test_the_environment_sets_the_padding_check() -> None:
    """`PIPELINE_PADDING_CHECK=1` switches it on from the start."""
    code = "from pipeline.checks.switches import SWITCHES; print(SWITCHES.padding)"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PIPELINE_PADDING_CHECK": "1"}, capture_output=True, check=True
    )
    assert run.stdout.split() == [b"True"]
