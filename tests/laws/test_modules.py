"""Test any module against the laws in three lines, and expected failures."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import OptionError, UnknownOptionError
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
        (name for name in BROKEN if name.startswith(("batchmates", "amount", "empty", "many", "training"))),
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
    assert f"{len(BROKEN)} failed, {len(RAGGED_LAWS) - len(BROKEN) - 1} passed, 1 skipped" in lines[-1]


def test_a_failure_may_be_expected(tmp_path: Path) -> None:
    """An expected failure that does not happen fails the test."""
    expected = (*BROKEN, "row_order_has_no_effect")
    status, lines = run_file(tmp_path, f", xfail=dict.fromkeys({expected!r}, 'why')")
    assert status == 1
    assert any("XPASS(strict)" in line for line in lines)
    passed = len(RAGGED_LAWS) - len(expected) - 1
    assert f"1 failed, {passed} passed, 1 skipped, {len(BROKEN)} xfailed" in lines[-1]


class WideInTraining(nn.Module):
    """A mean over the width in training only, and dropout before it."""

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return the means."""
        mask = torch.arange(values.shape[1]) < lengths.unsqueeze(1)
        filled = nn.functional.dropout(values.masked_fill(~mask.unsqueeze(-1), 0), 0.3, self.training)
        return filled.sum(1) / (max(1, values.shape[1]) if self.training else lengths.clamp(min=1).unsqueeze(1))


def test_the_width_has_no_effect_in_training_either() -> None:
    """Dropout, whose random numbers depend on the width, does not hide it."""
    with pytest.raises(LawBrokenError, match="in training, with 3 more columns of padding"):
        check_module(WideInTraining, laws=RAGGED_LAWS, input_size=3)


def test_laws_of_what_is_not_declared_are_skipped() -> None:
    """A passed test would say that something was tested."""

    def find_skipped(**options: Any) -> list[str]:
        test: Any = ragged(input_size=3, **options)(WideInTraining)
        return [case.id for case in test.pytestmark[0].args[1] if case.marks]

    assert find_skipped() == ["causal_steps_do_not_look_ahead"]
    assert find_skipped(causal=True) == []
    assert find_skipped(causal=True, empty_rows=False) == ["empty_rows_have_no_effect"]


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
        ({"input_size": 3, "xfail": {BROKEN[0]: ""}}, "xfail must have a reason for each law, got none for"),
        ({"input_size": 3, "xfail": [BROKEN[0]]}, "xfail must be a mapping from names of laws to reasons"),
        ({"input_size": 3, "each": "steps"}, "each must be 'step', 'row' or None, got 'steps'"),
        ({"input_size": 3, "causal": 1}, "causal must be True or False, got 1"),
    ],
)
def test_wrong_options_are_rejected(options: dict[str, Any], message: str) -> None:
    """When the test file is read."""
    with pytest.raises(OptionError, match=message):
        ragged(**options)


def test_unknown_options_are_rejected() -> None:
    """A misspelled one would have no effect."""
    wrong: Any = {"input_size": 3, "casual": True}
    with pytest.raises(UnknownOptionError, match=r"there is no option 'casual'; .* Did you mean 'causal'\?"):
        ragged(**wrong)
    with pytest.raises(UnknownOptionError, match="there is no option 'casual'"):
        check_module(Pooler, **wrong)


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
