"""Test the report of a fault: the smallest batch, and a script that runs without this library."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OptionError
from pipeline.testing import report_fault

MODULES = """
class Mean(torch.nn.Module):
    def forward(self, values, lengths):
        return values.mean(1)

class Multiplied(torch.nn.Module):
    def forward(self, values, mask):
        return {"pooled": (values * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)}

class Sorted(torch.nn.Module):
    def forward(self, values, lengths):
        order = lengths.argsort(descending=True)
        mask = torch.arange(values.shape[1]) < lengths.unsqueeze(1)
        return values.masked_fill(~mask.unsqueeze(-1), 0)[order].cumsum(1)

class Shifted(torch.nn.Module):
    def forward(self, values, lengths):
        return torch.cat([values[:, 1:], values[:, :1]], dim=1)

class Bag(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 4)
    def forward(self, input_ids, attention_mask):
        return (self.embedding(input_ids).mean(1),)
"""


@pytest.mark.parametrize(
    ("make", "options", "title", "lengths"),
    [
        ("Mean()", {"input_size": 2}, "A row's result depends on a longer row in the same batch", (1, 2)),
        ("Multiplied()", {"input_size": 2, "call": "mask", "result": "pooled"}, "NaN in the padding reaches", (1, 2)),
        ("Sorted()", {"input_size": 2}, "A row's result depends on a longer row in the same batch", (1, 2)),
        ("Shifted()", {"input_size": 2}, "A row's result depends on a longer row in the same batch", (1, 2)),
        ("Bag()", {"vocab_size": 9, "call": "attention_mask"}, "A row's result depends on a longer row", (1, 2)),
        (
            "torch.nn.LSTM(2, 3, bidirectional=True)",
            {"input_size": 2, "call": "values", "batch_first": False, "each": "step"},
            "A row's result depends on a longer row in the same batch",
            (1, 2),
        ),
    ],
)
def test_a_fault_is_reported_with_its_smallest_batch(
    make: str, options: Any, title: str, lengths: tuple[int, ...]
) -> None:
    """And with a script that does not need this library."""
    report = report_fault(make, setup=MODULES, **options)
    assert report is not None
    assert report.title.startswith(title)
    assert report.lengths == lengths
    assert not report.difference <= 1e-4
    assert "pipeline" not in report.script
    assert report.script in str(report)
    assert report.cause in str(report)
    assert ("one result is NaN" in str(report)) == math.isnan(report.difference)


def test_the_script_prints_the_difference_without_this_library(tmp_path: Path) -> None:
    """In a process of its own, as a maintainer runs it."""
    report = report_fault("Mean()", setup=MODULES, input_size=2)
    assert report is not None
    script = tmp_path / "script.py"
    script.write_text(report.script, encoding="utf-8")
    run = subprocess.run([sys.executable, "-I", str(script)], capture_output=True, text=True, check=True)
    assert float(run.stdout) == report.difference


@pytest.mark.parametrize(
    ("make", "options"),
    [
        ("torch.nn.LSTM(2, 3)", {"input_size": 2, "call": "packed"}),
        ("torch.nn.GRU(2, 3)", {"input_size": 2, "call": "values", "batch_first": False}),
        ("torch.nn.Linear(2, 3)", {"input_size": 2, "call": "nested"}),
    ],
)
def test_a_module_without_a_fault_has_no_report(make: str, options: Any) -> None:
    """Packed sequences, and what reads each step by itself or from the left."""
    assert report_fault(make, **options) is None


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        ("3", {"input_size": 2}, "make must be an expression that creates an nn.Module, got '3'"),
        ("Mean()", {"input_size": 2, "call": print}, "call and result must not be functions"),
        ("Mean()", {}, "either input_size, for vectors"),
    ],
)
def test_wrong_options_are_rejected(make: str, options: Any, message: str) -> None:
    """Each has a rule."""
    with pytest.raises(OptionError, match=message):
        report_fault(make, setup=MODULES, **options)
