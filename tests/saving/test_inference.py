"""A saved pipe for inference is one again when it is loaded, with the same answers to the last bit."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import Bucket, Labels, Pad, StreamChain, Tokenize, classifier, load
from pipeline.errors import InferenceError, LoadError
from pipeline.saving.inference import prepare_again
from support.needs import KERNELS
from support.untyped import seed

TEXTS = ["a fine film", "dull", "", "far from dull, and fine"]


def make_pipe() -> StreamChain[Any, Any]:
    """Return a small classifier of texts."""
    seed(3)
    tokenize, labels = Tokenize.train(TEXTS), Labels(["bad", "good"])
    return tokenize >> Bucket(rows=2) >> Pad() >> classifier(tokenize.vocab_size, labels, hidden_size=4)


def score(pipe: StreamChain[Any, Any]) -> torch.Tensor:
    """Return the scores of all texts."""
    return torch.stack([prediction.scores for prediction in pipe.predict(TEXTS, scores=True)])


@pytest.mark.parametrize("deterministic", [False, pytest.param(True, marks=KERNELS)])
def test_a_loaded_pipe_answers_with_the_same_bits(tmp_path: Path, *, deterministic: bool) -> None:
    """It has the options, the report, fixed weights; saved once more, the files are the same."""
    fast = make_pipe().for_inference(deterministic=deterministic, examples=TEXTS)
    fast.save(tmp_path / "one")
    loaded = load(tmp_path / "one", takes=str, gives=str, device="cpu")
    assert torch.equal(score(loaded), score(fast))
    assert loaded.prepared is not None
    assert loaded.prepared.options.deterministic is deterministic
    assert loaded.inference_report == fast.inference_report
    with pytest.raises(InferenceError, match="the weights of a pipe for inference are fixed, but fit was called"):
        loaded.fit([])
    loaded.save(tmp_path / "two")
    for file in ("pipeline.json", "weights.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    card = (tmp_path / "one" / "README.md").read_text()
    assert "## Inference\n\nFor inference in float32" in card
    assert "0 of 4 predictions changed" in card


def test_the_folder_has_the_weights_of_the_original(tmp_path: Path) -> None:
    """So that it loads on any machine."""
    pipe = make_pipe()
    pipe.save(tmp_path / "plain")
    pipe.for_inference().save(tmp_path / "fast")
    plain, fast = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("plain", "fast"))
    assert sha256(plain).digest() == sha256(fast).digest()
    config = json.loads((tmp_path / "fast" / "pipeline.json").read_text())
    assert config["inference"] == {"precision": "float32", "deterministic": False, "report": None}
    assert "inference" not in json.loads((tmp_path / "plain" / "pipeline.json").read_text())


GOOD = {"rows": 1, "predictions": 1, "changed": 0, "probabilities": {"largest": 0.5, "mean": 0.1}, "numbers": None}


@pytest.mark.parametrize(
    "described",
    [
        "float32",
        {"precision": "float32"},
        {"precision": "float8", "deterministic": False, "report": None},
        {"precision": ["float32"], "deterministic": False, "report": None},
        {"precision": "float32", "deterministic": 1, "report": None},
        {"precision": "float32", "deterministic": False, "report": {**GOOD, "rows": -1}},
        {"precision": "float32", "deterministic": False, "report": {**GOOD, "more": 1}},
        {"precision": "float32", "deterministic": False, "report": {**GOOD, "probabilities": {"largest": 0.5}}},
        {"precision": "float32", "deterministic": False, "report": {**GOOD, "numbers": {"largest": "1", "mean": 1.0}}},
    ],
    ids=str,
)
def test_other_descriptions_are_rejected(described: Any) -> None:
    """The file may hold anything."""
    with pytest.raises(LoadError, match="the options for inference of the saved pipe are not valid"):
        prepare_again(make_pipe(), described)


def test_a_machine_that_cannot_compute_so_is_named() -> None:
    """For example without the compiled kernels."""
    pipe = make_pipe()
    described: Any = {"precision": "int8", "deterministic": False, "report": None}
    with pytest.raises(LoadError, match="the pipe was saved for inference, which is not possible on this machine: pre"):
        prepare_again(pipe.double(), described)
