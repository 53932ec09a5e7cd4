"""Test any module against the laws in three lines, and expected failures."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import OptionError
from pipeline.laws.law import FaultError, allow_rounding, check_equal, get_name
from pipeline.testing import RAGGED_LAWS, LawBrokenError, ModuleOptions, check_module, ragged

FILE = """
import torch
from pipeline.testing import ragged


class Wrong(torch.nn.Module):
    def forward(self, values, lengths):
        return values.mean(1)


@ragged(input_size=3{options})
def test_wrong():
    return Wrong()
"""
BROKEN = (
    "padding_values_have_no_effect",
    "no_gradient_reaches_padding",
    "batchmates_have_no_effect",
    "amount_of_padding_has_no_effect",
    "empty_rows_have_no_effect",
    "training_obeys_laws_of_rows",
    "many_and_long_rows_are_independent",
)


class Pooler(nn.Module):
    """The mean of embedded ids, with a mask of 0 and 1, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Return the means."""
        embedded = self.embedding(input_ids).masked_fill((attention_mask == 0).unsqueeze(-1), 0)
        return {"pooled": embedded.sum(1) / attention_mask.sum(1, keepdim=True).clamp(min=1)}


@ragged(vocab_size=9, call="attention_mask", names=["input_ids", "attention_mask"], result="pooled")
def test_ids_with_a_mask() -> nn.Module:
    """A module of ids obeys, empty rows included."""
    return Pooler()


@ragged(
    input_size=4,
    call="padding_mask",
    names=["src", "src_key_padding_mask"],
    each="step",
    empty_rows=False,
    nan_in_padding=False,
)
def test_transformer_of_torch() -> nn.Module:
    """Torch's own encoder obeys if padding is finite, called as its documentation says."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


@ragged(input_size=3, call="packed", empty_rows=False, causal=True)
def test_lstm_of_torch() -> nn.Module:
    """On packed sequences; it is causal."""
    return nn.LSTM(3, 4)


@ragged(
    input_size=3,
    call="values",
    batch_first=False,
    xfail=dict.fromkeys(
        (name for name in BROKEN if name.startswith(("batchmates", "amount", "empty", "many"))),
        "the backward direction starts in the padding",
    ),
)
def test_lstm_of_torch_without_lengths() -> nn.Module:
    """A bidirectional LSTM on padded values breaks the laws of batchmates and of padding."""
    return nn.LSTM(3, 4, bidirectional=True)


def run_file(tmp_path: Path, options: str) -> tuple[int, list[str]]:
    """Run a test file in a process of its own; return the status and the lines of its summary."""
    file = tmp_path / "test_file.py"
    file.write_text(FILE.format(options=options), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout.splitlines()


def test_each_broken_law_is_a_failed_test(tmp_path: Path) -> None:
    """With its name; others pass."""
    status, lines = run_file(tmp_path, "")
    failed = [line.partition("[")[2].partition("]")[0] for line in lines if line.startswith("FAILED")]
    assert status == 1
    assert failed == [name for name in map(get_name, RAGGED_LAWS) if name in BROKEN]
    assert f"{len(BROKEN)} failed, {len(RAGGED_LAWS) - len(BROKEN)} passed" in lines[-1]


def test_a_failure_may_be_expected(tmp_path: Path) -> None:
    """An expected failure that does not happen fails the test."""
    expected = (*BROKEN, "row_order_has_no_effect")
    status, lines = run_file(tmp_path, f", xfail=dict.fromkeys({expected!r}, 'why')")
    assert status == 1
    assert any("XPASS(strict)" in line for line in lines)
    assert f"1 failed, {len(RAGGED_LAWS) - len(expected)} passed, {len(BROKEN)} xfailed" in lines[-1]


def test_check_module_takes_the_same_options() -> None:
    """And a choice of laws."""
    options: ModuleOptions = {"vocab_size": 9, "call": "attention_mask", "result": "pooled"}
    check_module(Pooler, laws=RAGGED_LAWS, **options)
    options["result"] = "states"
    with pytest.raises(LawBrokenError, match="the output must have 'states'"):
        check_module(Pooler, laws=RAGGED_LAWS, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either input_size, for vectors, or vocab_size, for ids, must be given, got neither"),
        ({"input_size": 3, "vocab_size": 9}, "must be given, got both"),
        ({"input_size": 3, "xfail": {"padding": "why"}}, "xfail must have names of laws, .*, got 'padding'"),
    ],
)
def test_wrong_options_are_rejected(options: dict[str, Any], message: str) -> None:
    """When the test file is read."""
    with pytest.raises(OptionError, match=message):
        ragged(**options)


def test_a_module_instead_of_a_function_is_rejected() -> None:
    """Each law needs a new one."""
    wrong: Any = nn.Linear(1, 1)
    with pytest.raises(OptionError, match=r"ragged takes a function that creates parts, got a Linear"):
        ragged(input_size=1)(wrong)


def test_results_of_torch_are_not_changed() -> None:
    """The adapter draws no random numbers."""
    before = torch.get_rng_state()
    check_module(Pooler, laws=RAGGED_LAWS[:2], vocab_size=9, call="attention_mask")
    assert torch.equal(torch.get_rng_state(), before)


def test_more_rounding_is_allowed_inside_a_block_except_where_bits_must_be_equal() -> None:
    """For modules in a lower precision; a larger difference is still found."""
    one, near, far = (torch.tensor([value], dtype=torch.float64) for value in (1.0, 1.05, 1.2))
    with allow_rounding(0.1):
        check_equal([near], [one], "near")
        for found, rounding in ((far, 1e-10), (near, 0.0)):
            with pytest.raises(FaultError):
                check_equal([found], [one], "inside", rounding=rounding)
    with pytest.raises(FaultError):
        check_equal([near], [one], "outside")
