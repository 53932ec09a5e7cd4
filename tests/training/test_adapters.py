"""The model of a pipe with its loss, in the loops of others, gives the weights of `fit`."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from pipeline import Bucket, Example, FromIds, Pad, classifier
from pipeline.errors import CompositionError, OptionError
from pipeline.training.adapters import ModelWithLoss, make_loader
from support.trainable import LABELS, TRAINABLE, copy_weights
from support.untyped import as_any, train_step


def make_sgd(groups: Any) -> torch.optim.Optimizer:
    """Make an optimizer whose steps are easily followed."""
    return torch.optim.SGD(groups, lr=0.3)


def fit(kind: str, epochs: int = 2, **options: Any) -> tuple[Any, Any]:
    """Train with `fit`; return the pipe and the history."""
    pipe = TRAINABLE[kind].make()
    options = {"optimizer": make_sgd, "weight_decay": 0.0, "max_grad_norm": None, **options}
    history = pipe.fit(TRAINABLE[kind].examples, epochs=epochs, progress=False, **options)
    return pipe, history


@pytest.mark.parametrize("kind", TRAINABLE)
def test_a_plain_loop_gives_the_weights_of_fit(kind: str) -> None:
    """To the last bit: also with windows, whose states are carried, and with several heads."""
    pipe = TRAINABLE[kind].make()
    model, loader = ModelWithLoss(pipe), make_loader(pipe, TRAINABLE[kind].examples)
    optimizer = make_sgd(model.parameters())
    before = copy_weights(pipe)
    for _ in range(2):
        for batch in loader:
            train_step(model(batch)["loss"], optimizer)
    found, wanted = copy_weights(pipe), copy_weights(fit(kind)[0])
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not all(torch.equal(found[name], before[name]) for name in wanted)


def test_the_options_of_the_loss_are_those_of_fit() -> None:
    """In training; a model in evaluation mode gives the plain loss."""
    options: dict[str, Any] = {"class_weights": torch.tensor([0.2, 1.0, 3.0]), "label_smoothing": 0.1}
    pipe = TRAINABLE["classifier"].make()
    model, loader = ModelWithLoss(pipe, **options), make_loader(pipe, TRAINABLE["classifier"].examples)
    optimizer = make_sgd(model.parameters())
    for batch in loader:
        train_step(model(batch)["loss"], optimizer)
    wanted = copy_weights(fit("classifier", 1, **options)[0])
    assert all(torch.equal(copy_weights(pipe)[name], wanted[name]) for name in wanted)
    batch = next(iter(loader))
    model.eval()
    assert_close(model(batch)["loss"], model.predict(batch).loss())


def test_logits_are_the_scores_by_head() -> None:
    """As a mapping only if there are several heads."""
    one, several = (
        ModelWithLoss(TRAINABLE[kind].make())(next(iter(make_loader(TRAINABLE[kind].make(), TRAINABLE[kind].examples))))
        for kind in ("classifier", "heads")
    )
    assert one["logits"].shape[1:] == (3,)
    assert {name: each.ndim for name, each in several["logits"].items()} == {"topics": 2, "stars": 1}


def test_weights_are_registered_once_under_the_names_of_the_pipe() -> None:
    """A wrapper of the stages would save them twice."""
    pipe = TRAINABLE["classifier"].make()
    assert list(ModelWithLoss(pipe).state_dict()) == [f"pipe.{name}" for name in pipe.state_dict()]


def copy_by_pickle(model: Any) -> Any:
    """Return a pickled copy."""
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, copy_by_pickle])
def test_a_copy_has_weights_of_its_own(copied: Callable[[Any], Any]) -> None:
    """Its stages are those of its own pipe."""
    pipe = TRAINABLE["classifier"].make()
    model = ModelWithLoss(pipe)
    other = copied(model)
    batch = next(iter(make_loader(pipe, TRAINABLE["classifier"].examples)))
    wanted = model(batch)["loss"].detach()
    with torch.no_grad():
        for weight in other.pipe.parameters():
            weight.zero_()
    assert_close(model(batch)["loss"], wanted)
    assert not other(batch)["logits"].any()


def test_validation_within_an_epoch_leaves_the_carried_states_of_training() -> None:
    """Training continues its windows as if there had been no validation."""
    examples = TRAINABLE["language model"].examples

    def run(validates: bool) -> Iterator[Any]:
        pipe = TRAINABLE["language model"].make()
        model = ModelWithLoss(pipe)
        for batch in make_loader(pipe, examples):
            yield model.train()(batch)["logits"].detach()
            if validates:
                with torch.no_grad():
                    model.eval()(batch)

    for found, wanted in zip(run(True), run(False), strict=True):
        assert torch.equal(found, wanted)


def test_what_is_no_pipe_is_rejected() -> None:
    """Also a model without its data stages, and data stages without a model."""
    model = classifier(9, LABELS, hidden_size=3)
    with pytest.raises(OptionError, match="pipe must be a whole pipe, with the stages that make batches, got a Chain"):
        ModelWithLoss(as_any(model))
    with pytest.raises(OptionError, match="pipe must be a whole pipe"):
        make_loader(as_any(Bucket(rows=2)), [Example([1])])
    with pytest.raises(CompositionError, match="need a pipe with a model"):
        ModelWithLoss(as_any(FromIds() >> Bucket(rows=2) >> Pad()))
