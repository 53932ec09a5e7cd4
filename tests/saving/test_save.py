"""A loaded pipe is the saved one: the same stages, weights and answers."""

from pathlib import Path

import pytest

from pipeline import load
from pipeline.saving.weights import list_tensors
from support.saved import PIPES, Event, Verdict, compute_answers, read_bytes


@pytest.mark.parametrize("name", PIPES)
def test_a_loaded_pipe_answers_as_the_saved_one(tmp_path: Path, name: str) -> None:
    """To the last bit, in evaluation mode, with its classes or without."""
    make, inputs = PIPES[name]
    pipe = make()
    pipe.save(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe", records=[Event, Verdict])
    assert not loaded.training
    assert compute_answers(loaded, inputs) == compute_answers(pipe, inputs)
    without = load(tmp_path / "pipe")
    assert compute_answers(without, inputs)[:-1] == compute_answers(pipe, inputs)[:-1]


@pytest.mark.parametrize("name", PIPES)
def test_a_loaded_pipe_is_saved_as_the_same_bytes(tmp_path: Path, name: str) -> None:
    """So that nothing is lost when it is saved again."""
    make, _ = PIPES[name]
    make().save(tmp_path / "pipe")
    before = read_bytes(tmp_path / "pipe")
    load(tmp_path / "pipe", records=[Event, Verdict]).save(tmp_path / "pipe")
    assert read_bytes(tmp_path / "pipe") == before


@pytest.mark.parametrize("name", PIPES)
def test_shared_and_frozen_weights_stay_so(tmp_path: Path, name: str) -> None:
    """Tensors with several names, and those without gradients."""
    make, _ = PIPES[name]
    pipe = make()
    pipe.save(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe")
    tensors, found = list_tensors(pipe), list_tensors(loaded)
    assert list(found) == list(tensors)
    groups = [{other for other in each if each[other] is each[one]} for each in (tensors, found) for one in tensors]
    assert groups[: len(tensors)] == groups[len(tensors) :]
    assert [each.requires_grad for each in found.values()] == [each.requires_grad for each in tensors.values()]
