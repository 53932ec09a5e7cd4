"""The one-step form: token and state in, scores and state out, equal to the whole pass."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import AttendEarlier, Embed, Encode, Ids, NextToken, Pack, Padded, Tag
from pipeline.errors import ExportError
from pipeline.export.program import run_onnx
from pipeline.export.step import StepModule
from pipeline_recurrent import GRU, LSTM
from support.exported import make_model
from support.needs import needs
from support.untyped import as_any, seed

# Each takes seconds; attention of another kind differs in one stage.
STEPPED = ["language model"]
if os.environ.get("PIPELINE_TESTS_LONG") == "1":
    STEPPED.append("additive language model")
NEEDS_ONNX = needs("onnx", "onnxruntime", "onnxscript")


@NEEDS_ONNX
@pytest.mark.parametrize("name", STEPPED)
def test_a_language_model_runs_step_by_step(name: str, tmp_path: Path) -> None:
    """Attention over earlier steps keeps a memory that grows by one step."""
    model = make_model(name)
    exported = model.export(tmp_path / "step.onnx", form="step", batches=20)
    assert exported.difference <= 1e-5
    memory = exported.inputs[-1]
    assert (memory.name, memory.axes) == ("attend_earlier_memory", ("batch", "attend_earlier_past"))
    assert not (tmp_path / "step.py").exists(), "the script is for whole rows"


@NEEDS_ONNX
def test_a_user_steps_with_the_states_of_the_description(tmp_path: Path) -> None:
    """They begin as zeros of the shapes that are written there, and the outputs are the next ones."""
    seed(0)
    model = Pack() >> Embed(9, 4) >> Encode(GRU(4, 3, num_layers=2)) >> Tag(3)
    model.export(tmp_path / "step.onnx", form="step", batches=5)
    described: Any = json.loads((tmp_path / "step.json").read_text())
    shapes = [each["shape"] for each in described["inputs"][1:]]
    assert shapes == [[2, "batch", 3]]
    run, state = run_onnx(tmp_path / "step.onnx"), torch.zeros(2, 1, 3)
    ids = torch.tensor([[5, 7, 0]])
    found: list[Tensor] = []
    for step in range(3):
        scores, state = run([ids[:, step], state])
        found.append(scores)
    wanted = as_any(model)(Padded(Ids, ids, torch.tensor([3]))).values
    torch.testing.assert_close(torch.cat(found), wanted)


@pytest.mark.parametrize("window", [1, 3, None])
def test_a_window_is_kept(window: int | None, tmp_path: Path) -> None:
    """A step attends to this number of earlier steps."""
    seed(0)
    model = Pack() >> Embed(9, 4) >> Encode(LSTM(4, 3)) >> AttendEarlier("general", window=window) >> NextToken(9)
    assert model.export(tmp_path / "step.pt2", form="step", batches=12).difference <= 1e-5


@pytest.mark.parametrize("name", ["tagger", "classifier"])
def test_a_model_that_needs_later_steps_is_an_error(name: str, tmp_path: Path) -> None:
    """Naming the stage and the reason."""
    with pytest.raises(ExportError, match="cannot run step by step, because its encoder is not causal"):
        make_model(name).export(tmp_path / "step.pt2", form="step")


def test_rows_with_fields_are_an_error(tmp_path: Path) -> None:
    """They are not offered step by step."""
    with pytest.raises(ExportError, match="form='step' is for rows of Ids or Vectors, got Event"):
        make_model("fields").export(tmp_path / "step.pt2", form="step")
    assert StepModule.__doc__
