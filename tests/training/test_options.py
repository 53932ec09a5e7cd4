"""The options of `fit`: what is rejected, and their fingerprint."""

from typing import Any, cast

import attrs
import numpy as np
import pytest
import torch

from pipeline.errors import OptionError, UnknownOptionError
from pipeline.training.options import FitOptions, Settings


def test_options_and_settings_have_the_same_names() -> None:
    """One is for type checkers, the other has the defaults."""
    names = {field.name for field in attrs.fields(Settings)} - {"epochs"}
    assert names == FitOptions.__optional_keys__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be a finite number above 0, got 0; leave it out for the default"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": True}, "learning_rate must be a finite number above 0"),
        ({"weight_decay": -1}, "weight_decay must be a finite number of 0 or more, got -1"),
        ({"ema": 1.0}, "ema must be a probability, 0 <= ema < 1, got 1.0"),
        ({"ema": 0.0}, "ema must be a finite number above 0, got 0.0; leave it out for the default"),
        ({"label_smoothing": 1}, "label_smoothing must be a probability, 0 <= label_smoothing < 1, got 1"),
        (
            {"max_grad_norm": "1"},
            "max_grad_norm must be a finite number above 0, got '1'; leave it out for the default",
        ),
        ({"optimizer": "rmsprop"}, "optimizer must be one of adamw, adam, sgd, got 'rmsprop'"),
        ({"optimizer": "AdamW"}, "got 'AdamW'. Did you mean 'adamw'?"),
        ({"schedule": "step"}, "schedule must be one of constant, linear, cosine, got 'step'"),
        ({"precision": "float16"}, "of float32, bfloat16, got 'float16'; float16 is not offered, but bfloat16 is."),
        ({"precision": "16-mixed"}, "got '16-mixed'; float16 is not offered, but bfloat16 is."),
        ({"precision": torch.float16}, r"got torch\.float16; float16 is not offered, but bfloat16 is."),
        ({"precision": torch.bfloat16}, r"got torch\.bfloat16; pass the name 'bfloat16'"),
        ({"precision": "bf16"}, r"got 'bf16'\. Did you mean 'bfloat16'"),
        ({"precision": "float64"}, "got 'float64'; float64 is not offered, but float32 is."),
        ({"accumulate": 0}, "accumulate must be an integer of at least 1"),
        ({"patience": 0}, "patience must be an integer of at least 1"),
        ({"keep": 0}, "keep must be an integer of at least 1"),
        ({"schedule": max, "warmup": 3}, "warmup is for schedules by name"),
        ({"optimizer": max, "learning_rate": 0.1}, "learning_rate is for optimizers by name"),
        ({"checkpoint_every": 3}, "checkpoint_every needs a folder of checkpoints"),
        ({"loss": "huber"}, "loss must be a mapping of options, got 'huber'"),
        ({"progress": "no"}, "progress must be True, False or None, got 'no'"),
        ({"checkpoints": 3}, "checkpoints must be a path, got an int"),
        ({"log_csv": 3}, "log_csv must be a path, got an int"),
        ({"class_weights": [1.0, "2"]}, "class_weights must be a tensor or a list with a number for each class, got a"),
        ({"class_weights": {"bad": -1.0, "good": 1.0}}, "a mapping to a float; .* A mapping is by head, not by class"),
        ({"class_weights": [-1.0, 1.0]}, "class_weights must be finite, at least 0"),
        ({"class_weights": torch.tensor([-1.0, 1.0])}, "class_weights must be finite, at least 0"),
        ({"class_weights": torch.zeros(2)}, "class_weights must be finite, at least 0, and not all 0"),
    ],
)
def test_values_out_of_range_are_rejected(options: dict[str, Any], message: str) -> None:
    """With the rule and the value."""
    with pytest.raises(OptionError, match=message):
        Settings.of(1, options)


@pytest.mark.parametrize(
    ("name", "meant"), [("lr", "learning_rate"), ("gradient_clip_val", "max_grad_norm"), ("num_worker", "num_workers")]
)
def test_names_of_other_libraries_are_translated(name: str, meant: str) -> None:
    """In the error."""
    with pytest.raises(UnknownOptionError, match=f"fit has no option '{name}'.*Did you mean '{meant}'"):
        Settings.of(1, {name: 1})


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("num_train_epochs", "Did you mean 'epochs'"),
        ("batch_size", "that of Bucket, such as"),
        ("eval_dataset", "'valid'"),
    ],
)
def test_what_is_set_elsewhere_is_found(name: str, advice: str) -> None:
    """Arguments of `fit` besides its options, and the size of batches."""
    with pytest.raises(
        UnknownOptionError, match=f"fit has no option '{name}'; .* valid, epochs, learning_rate.*{advice}"
    ):
        Settings.of(1, {name: 1}, others=("valid", "epochs"))


def test_numbers_of_other_types_become_plain_ones() -> None:
    """So that an option has one fingerprint."""
    given = {
        "learning_rate": np.float32(0.5),
        "accumulate": np.int64(2),
        "ema": torch.tensor(0.5),
        "warmup": np.float64(0.1),
    }
    plain = Settings.of(3, {"learning_rate": 0.5, "accumulate": 2, "ema": 0.5, "warmup": 0.1})
    found = Settings.of(cast("int", np.int64(3)), given)
    assert found.fingerprint() == plain.fingerprint()
    assert found.fingerprint() != Settings.of(3, {**given, "accumulate": np.int64(4)}).fingerprint()
    assert (type(found.epochs), type(found.learning_rate)) == (int, float)


WEIGHT = torch.tensor([0.5, 1.0])


@pytest.mark.parametrize(
    ("given", "wanted"), [([0.5, 1], WEIGHT), ((0.5, 1.0), WEIGHT), ({"topic": [0.5, 1]}, {"topic": WEIGHT})]
)
def test_class_weights_may_be_numbers(given: object, wanted: object) -> None:
    """With the fingerprint of a tensor."""
    found = Settings.of(3, {"class_weights": given}).fingerprint()
    assert found == Settings.of(3, {"class_weights": wanted}).fingerprint()


def make_odd(groups: object) -> Any:
    """Make nothing."""
    return groups


def test_the_fingerprint_has_what_changes_the_weights_and_nothing_else() -> None:
    """It is equal in another process: functions by their names, tensors by their numbers."""
    plain = Settings.of(3, {}).fingerprint()
    assert plain == Settings.of(3, {"progress": False, "num_workers": 4, "keep": 7, "log_csv": "a"}).fingerprint()
    assert plain == Settings.of(9, {}).fingerprint()
    assert plain["learning_rate"] == "0.001"
    assert Settings.of(3, {"schedule": "cosine"}).fingerprint() != Settings.of(9, {"schedule": "cosine"}).fingerprint()
    found = Settings.of(3, {"optimizer": make_odd, "class_weights": torch.tensor([0.5, 1.0])}).fingerprint()
    assert found["optimizer"] == "make_odd"
    assert found["class_weights"] == "tensor([0.5, 1.0])"
