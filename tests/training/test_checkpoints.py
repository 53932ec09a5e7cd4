"""Checkpoints: resuming in a new process, what is rejected, which ones are kept, and damage."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch

from pipeline import Bucket, Example, FromIds, Pad, StreamChain, classifier
from pipeline.core.contexts import seeded
from pipeline.errors import FolderError, LoadError, OptionError, SaveError
from pipeline.training.checkpoints import Checkpoints, Fingerprint, digest_examples, read_checkpoint
from pipeline.training.distributed import Ranks
from pipeline.training.loop import Training
from support.killed import make_examples
from support.rank_fits import Stop, StopError
from support.trainable import TRAINABLE, copy_weights
from support.untyped import as_any, to_list

EXAMPLES, VALID = make_examples(30, seed=1), make_examples(10, seed=2)


def make_pipe() -> Any:
    """Make a classifier with dropout."""
    with seeded(3):
        model = classifier(21, 3, embedding_dim=3, hidden_size=3, dropout=0.3)
        return FromIds() >> Bucket(rows=4) >> Pad() >> model


def make_momentum(groups: Any) -> torch.optim.Optimizer:
    """Make an optimizer with a state."""
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def make_multi_step(optimizer: Any, total: int) -> Any:
    """Make a scheduler whose state has a Counter."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [total // 3, total // 2])


def make_plateau(optimizer: Any, total: int) -> Any:
    """Make a scheduler that moves with the monitored value."""
    del total
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "averages": {"ema": 0.9, "schedule": "cosine", "warmup": 3, "accumulate": 2},
    "own": {"optimizer": make_momentum, "schedule": make_multi_step},
    "plateau": {"optimizer": "sgd", "schedule": make_plateau},
}


def fit_and_stop(
    monkeypatch: pytest.MonkeyPatch, optimizer_steps: int, pipe: Any, examples: Any, options: dict[str, Any]
) -> None:
    """Train, and stop after a number of optimizer steps, as if the process died."""
    run = Training.run

    def run_and_stop(training: Training, watchers: Any = ()) -> Any:
        return run(training, [*watchers, Stop(optimizer_steps)])

    with monkeypatch.context() as context:
        context.setattr(Training, "run", run_and_stop)
        with pytest.raises(StopError):
            pipe.fit(examples, **options)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("stop", [3, 9])
def test_a_resumed_training_is_bitwise_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stop: int
) -> None:
    """Whatever the optimizer and the schedule; also the losses of the history."""
    options: dict[str, Any] = {"valid": VALID, "epochs": 3, "progress": False, **OPTIONS[name]}
    whole, stopped, resumed = make_pipe(), make_pipe(), make_pipe()
    wanted = whole.fit(EXAMPLES, **options)
    options |= {"checkpoints": tmp_path, "checkpoint_every": 1, "resume": True}
    fit_and_stop(monkeypatch, stop, stopped, EXAMPLES, options)
    torch.rand(3)
    found = resumed.fit(EXAMPLES, **options)
    assert found["train_loss"] == wanted["train_loss"]
    assert found["valid_loss"] == wanted["valid_loss"]
    assert found["learning_rate"] == wanted["learning_rate"]
    assert found.resumed in {stop - 1, stop}
    for key, weight in copy_weights(whole).items():
        assert torch.equal(copy_weights(resumed)[key], weight)


def test_windows_continue_with_their_carried_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an epoch, in which rows continue from batch to batch."""
    make, examples = TRAINABLE["language model"].make, TRAINABLE["language model"].examples
    whole, stopped, resumed = make(), make(), make()
    options: dict[str, Any] = {"epochs": 2, "progress": False}
    whole.fit(examples, **options)
    options |= {"checkpoints": tmp_path, "checkpoint_every": 1, "resume": True}
    fit_and_stop(monkeypatch, 4, stopped, examples, options)
    resumed.fit(examples, **options)
    assert all(torch.equal(copy_weights(resumed)[name], weight) for name, weight in copy_weights(whole).items())


class Shuffled(list[Any]):
    """Examples in another order in each epoch."""

    def __iter__(self) -> Iterator[Any]:
        """Draw the order from torch's generator."""
        return (self[index] for index in to_list(torch.randperm(len(self))))


def test_a_source_that_draws_gives_the_same_training_with_checkpoints(tmp_path: Path) -> None:
    """The digest of the data reads the source once more."""
    found: list[dict[str, torch.Tensor]] = []
    for options in ({}, {"checkpoints": tmp_path}):
        pipe = make_pipe()
        pipe.fit(Shuffled(EXAMPLES), epochs=2, seed=1, progress=False, **options)
        found.append(copy_weights(pipe))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_a_file_is_no_folder_of_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is rejected before the first epoch, and stays as it is."""
    file = tmp_path / "file"
    file.write_text("mine")
    monkeypatch.setattr(Training, "run", None)
    with pytest.raises(FolderError, match="checkpoints must be a folder, got the file"):
        make_pipe().fit(EXAMPLES, epochs=1, progress=False, checkpoints=file)
    assert file.read_text() == "mine"


def test_another_bucket_is_named(tmp_path: Path) -> None:
    """Before any weight changes."""
    options: dict[str, Any] = {"epochs": 1, "progress": False, "checkpoints": tmp_path, "resume": True}
    make_pipe().fit(EXAMPLES, **options)
    other = as_any(FromIds() >> Bucket(rows=5) >> Pad() >> classifier(21, 3, embedding_dim=3, hidden_size=3))
    before = copy_weights(other)
    with pytest.raises(OptionError, match=r"Bucket was .*'rows': 4.* with seed=0, is .*'rows': 5.* with seed=0"):
        other.fit(EXAMPLES, **options)
    assert all(torch.equal(copy_weights(other)[name], weight) for name, weight in before.items())


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    """Resuming it gives the weights of its best epoch, and more epochs continue it."""
    first, second, third, whole = (make_pipe() for _ in range(4))
    options: dict[str, Any] = {"valid": VALID, "checkpoints": tmp_path, "resume": True, "progress": False}
    first.fit(EXAMPLES, epochs=2, **options)
    history = second.fit(EXAMPLES, epochs=2, **options)
    assert len(history) == 2
    assert second.history == history
    assert all(torch.equal(copy_weights(second)[name], weight) for name, weight in copy_weights(first).items())
    third.fit(EXAMPLES, epochs=4, **options)
    whole.fit(EXAMPLES, valid=VALID, epochs=4, progress=False)
    assert all(torch.equal(copy_weights(third)[name], weight) for name, weight in copy_weights(whole).items())


def test_a_resumed_training_says_where_it_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that begins says nothing about it."""
    options: dict[str, Any] = {"checkpoints": tmp_path, "resume": True}
    history = make_pipe().fit(EXAMPLES, epochs=1, **options)
    assert "continues" not in capsys.readouterr().err
    make_pipe().fit(EXAMPLES, epochs=2, **options)
    steps = history.epochs[-1].optimizer_steps
    assert f"continues after {steps} optimizer steps (1 of 2 epochs).\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"learning_rate": 0.5}, "learning_rate was 0.001, is 0.5"),
        ({"accumulate": 2}, "accumulate was 1, is 2"),
        ({"schedule": "linear"}, "schedule was 'constant', is 'linear'; resume with"),
        ({"valid": VALID[:5]}, "valid has other rows"),
        ({"train": [*EXAMPLES[:-1], Example([3], 1)]}, "train has other rows"),
    ],
)
def test_other_options_and_data_are_rejected(tmp_path: Path, changes: dict[str, Any], difference: str) -> None:
    """With the difference."""
    options: dict[str, Any] = {"train": EXAMPLES, "valid": VALID, "checkpoints": tmp_path, "progress": False}
    make_pipe().fit(**options, epochs=1)
    with pytest.raises(OptionError, match=f"belongs to another training: .*{difference}"):
        make_pipe().fit(**{**options, "resume": True, "epochs": 2, **changes})


def test_another_model_is_rejected(tmp_path: Path) -> None:
    """By the shapes of its weights."""
    make_pipe().fit(EXAMPLES, epochs=1, checkpoints=tmp_path, progress=False)
    pipe = FromIds() >> Bucket(rows=4) >> Pad() >> classifier(22, 3, embedding_dim=3, hidden_size=3)
    with pytest.raises(OptionError, match=r"embed.weight was torch.float32 \(21, 3\), is torch.float32 \(22, 3\)"):
        as_any(pipe).fit(EXAMPLES, epochs=2, checkpoints=tmp_path, resume=True, progress=False)


def test_checkpoints_of_an_earlier_training_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    """A new training needs a folder of its own."""
    make_pipe().fit(EXAMPLES, epochs=1, checkpoints=tmp_path, progress=False)
    with pytest.raises(OptionError, match="has checkpoints of an earlier training; pass resume=True"):
        make_pipe().fit(EXAMPLES, epochs=1, checkpoints=tmp_path, progress=False)


def test_the_newest_checkpoints_and_the_best_one_are_kept(tmp_path: Path) -> None:
    """Of five epochs, with the second as the best one."""
    pipe = make_pipe()
    checkpoints = Checkpoints(tmp_path, Fingerprint({}, {}, {}), keep=2, every=None)
    pipe.fit(EXAMPLES, valid=VALID, epochs=1, progress=False)
    first = pipe.history.epochs[0]
    epochs = [
        attrs.evolve(first, number=number, optimizer_steps=number, metrics={"accuracy": 1 if number == 2 else 0})
        for number in range(1, 6)
    ]

    class Fake:
        """A training at its end of an epoch."""

        def __init__(self, count: int) -> None:
            self.history = attrs.evolve(pipe.history, epochs=epochs[:count])
            self.optimizer_steps = count
            self.ranks = Ranks()

        def get_state(self) -> dict[str, int]:
            """Return its number."""
            return {"number": self.optimizer_steps}

    for count in range(1, 6):
        checkpoints.write(as_any(Fake(count)))
    assert [int(path.name.split("-")[1]) for path in checkpoints.list_all()] == [2, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in checkpoints.list_all()]


def test_a_chosen_checkpoint_is_resumed(tmp_path: Path) -> None:
    """By its folder."""
    make_pipe().fit(EXAMPLES, epochs=3, checkpoints=tmp_path, keep=3, progress=False)
    first = min(tmp_path.iterdir())
    history = make_pipe().fit(EXAMPLES, epochs=3, checkpoints=tmp_path, resume=first, progress=False)
    assert history.resumed == int(first.name.split("-")[1])
    with pytest.raises(FolderError):
        make_pipe().fit(EXAMPLES, epochs=3, checkpoints=tmp_path, resume=tmp_path / "none", progress=False)


def test_damage_is_found(tmp_path: Path) -> None:
    """In the tensors, in the JSON, and of the format."""
    make_pipe().fit(EXAMPLES, epochs=1, checkpoints=tmp_path, progress=False)
    folder = next(tmp_path.iterdir())
    tensors, state = folder / "tensors.safetensors", folder / "state.json"
    content, text = tensors.read_bytes(), state.read_text(encoding="utf-8")
    tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(LoadError, match="is damaged: its digest is not that in state.json"):
        read_checkpoint(folder)
    tensors.write_bytes(content)
    state.write_text(json.dumps({**json.loads(text), "format": 7}), encoding="utf-8")
    with pytest.raises(LoadError, match="has the format 7, but this version reads 1"):
        read_checkpoint(folder)
    state.write_text(text[:-9], encoding="utf-8")
    with pytest.raises(LoadError):
        read_checkpoint(folder)


class Odd:
    """An object that only pickle could store."""


def test_a_state_that_needs_pickle_is_rejected(tmp_path: Path) -> None:
    """With its place in the state."""

    def make_schedule(optimizer: Any, total: int) -> Any:
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, total)
        as_any(schedule).odd = Odd()
        return schedule

    with pytest.raises(SaveError, match=r"training.schedule.odd is an Odd, which a checkpoint cannot store"):
        make_pipe().fit(EXAMPLES, epochs=1, schedule=make_schedule, checkpoints=tmp_path, progress=False)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_examples_of_any_kind_have_a_digest() -> None:
    """Equal in every process, and different if one number is."""

    @attrs.frozen
    class Event:
        code: int
        words: frozenset[str]

    def make(last: float) -> list[Example[Any]]:
        return [
            Example({"a": torch.tensor([1.0, last])}, {"b", "c"}),
            Example(("to be", b"x"), [None, 2]),
            Example(Event(3, frozenset({"x", "y"})), 0.5),
        ]

    assert digest_examples(make(2)) == digest_examples(make(2)) != digest_examples(make(3))


def check_type(pipe: StreamChain[Any, Any]) -> None:
    """Without a training, a pipe has no history."""
    assert pipe.history is None


def test_a_new_pipe_has_no_history() -> None:
    """`history` is None before the first training."""
    check_type(make_pipe())


def test_digests_differ_if_objects_of_a_class_of_ones_own_do() -> None:
    """By their attributes, and without their addresses."""
    one, same, other = ([SimpleNamespace(text="to be", number=number)] for number in (1, 1, 2))
    assert digest_examples(one) == digest_examples(same) != digest_examples(other)
