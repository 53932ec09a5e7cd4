"""`fit` trains as the plain loop does, and everything random in it follows from the seed."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline import (
    Bucket,
    ClassifyMultiLabel,
    Embed,
    Encode,
    Example,
    FromFeatures,
    FromIds,
    MultiLabels,
    Numbers,
    Pad,
    Pool,
    Regress,
    States,
    TextPair,
    Tokenize,
    TokenizePair,
    Vectors,
    classifier,
    matcher,
)
from pipeline.core.contexts import seeded
from pipeline.core.join import join
from pipeline.errors import CompositionError, OptionError, TrainingError, UnknownOptionError
from pipeline.sources import Records
from pipeline.training.state import get_random_state
from support.trainable import LABELS, TRAINABLE, Trainable, copy_weights
from support.untyped import as_any, train_step


def _make_matcher() -> Any:
    with seeded(4):
        tokenize = Tokenize.train(["a b c d e"])
        data = TokenizePair(tokenize) >> Bucket(TextPair, max_padded_steps=40) >> Pad(TextPair)
        return data >> matcher(tokenize.vocab_size, 2, embedding_dim=3, hidden_size=4)


def _make_regression() -> Any:
    with seeded(4):
        data = FromFeatures() >> Bucket(Vectors, rows=5) >> Pad(Vectors, targets=Numbers(2))
        return data >> Encode("gru", input_size=2, hidden_size=4) >> Pool("mean") >> Regress(2)


def _make_multi_label() -> Any:
    with seeded(4):
        data = FromIds() >> Bucket(rows=5) >> Pad(targets=MultiLabels(LABELS))
        return data >> Embed(9, 3) >> Encode("gru", hidden_size=4) >> Pool("max") >> ClassifyMultiLabel(LABELS)


_DRAW = random.Random(2)
_WORDS = [" ".join(_DRAW.choices("abcde", k=_DRAW.randint(0, 6))) for _ in range(40)]
_VECTORS = [[[_DRAW.random(), _DRAW.random()] for _ in range(_DRAW.randint(1, 5))] for _ in range(23)]
_ID_ROWS = [[_DRAW.randrange(9) for _ in range(_DRAW.randint(0, 6))] for _ in range(23)]

KINDS: dict[str, Trainable] = {
    **TRAINABLE,
    "matcher": Trainable(
        _make_matcher,
        [Example((one, other), len(one) % 2) for one, other in zip(_WORDS[::2], _WORDS[1::2], strict=True)],
    ),
    "regression": Trainable(_make_regression, [Example(row, [sum(row[0]), float(len(row))]) for row in _VECTORS]),
    "multi-label": Trainable(
        _make_multi_label, [Example(row, {LABELS[each % 3] for each in row[:2]}) for row in _ID_ROWS]
    ),
}

PLAIN: dict[str, Any] = {"max_grad_norm": None, "weight_decay": 0.0, "progress": False}


def make_sgd(groups: Any) -> torch.optim.Optimizer:
    """Make an optimizer whose steps are easily followed."""
    return torch.optim.SGD(groups, lr=0.3)


def split(pipe: Any) -> tuple[Any, Any]:
    """Return the stages up to `Pad`, and those after it."""
    stages = list(pipe.stages.values())
    last = next(number for number, stage in enumerate(stages) if isinstance(stage, Pad))
    model = stages[last + 1 :]
    return join(*stages[: last + 1]), join(*model) if len(model) > 1 else model[0]


def make_hook(states: list[States[Any]]) -> Callable[..., None]:
    """Return a forward hook that keeps the outputs of a module."""

    def keep(_: object, __: object, output: States[Any]) -> None:
        states.append(output)

    return keep


def find_encoders(model: nn.Module) -> list[nn.Module]:
    """Return the encoding stages of a model."""
    return [stage for stage in model.children() if type(stage) is Encode]


def train_by_hand(pipe: Any, examples: Any, epochs: int) -> None:
    """Train with a plain loop; carry states if batches are windows."""
    data, model = split(pipe)
    optimizer = make_sgd(model.parameters())
    for _ in range(epochs):
        states: list[States[Any]] = []
        hooks = [as_any(stage).register_forward_hook(make_hook(states)) for stage in find_encoders(model)]
        for batch in data(examples):
            if "BPTTWindows" in repr(pipe):
                batch = batch.with_carry(states[-1] if states else None)  # noqa: PLW2901
            train_step(model(batch).loss(), optimizer)
        for hook in hooks:
            hook.remove()


def are_equal(one: nn.Module, other: nn.Module) -> bool:
    """Compare all weights bit by bit."""
    found, wanted = copy_weights(one), copy_weights(other)
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_fit_has_the_weights_of_the_plain_loop(kind: str) -> None:
    """To the last bit, with the batches of `data(examples)`."""
    ours, by_hand, untrained = (KINDS[kind].make() for _ in range(3))
    ours.fit(KINDS[kind].examples, epochs=2, optimizer=make_sgd, **PLAIN)
    train_by_hand(by_hand, KINDS[kind].examples, 2)
    assert are_equal(ours, by_hand)
    assert not are_equal(ours, untrained)


def test_accumulation_clipping_and_schedule_are_those_of_the_plain_loop() -> None:
    """The gradient is that of the mean over the targets of all batches of an optimizer step, whose last has fewer."""
    examples = KINDS["classifier"].examples
    ours, by_hand = KINDS["classifier"].make().double(), KINDS["classifier"].make().double()
    options = as_any({**PLAIN, "accumulate": 3, "max_grad_norm": 0.1})
    ours.fit(examples, epochs=2, optimizer=make_sgd, schedule="linear", **options)
    data, model = split(by_hand)
    optimizer = make_sgd([{"params": list(model.parameters())}])
    epochs = [list(data(examples)) for _ in range(2)]
    steps = [batches[first : first + 3] for batches in epochs for first in range(0, len(batches), 3)]
    assert len(steps[-1]) < 3
    for done, batches in enumerate(steps):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - done / len(steps))
        weight = sum(int(batch.metadata.weight) for batch in batches)
        loss = torch.stack([model(batch).loss(reduction="sum") for batch in batches]).sum() / weight
        optimizer.zero_grad()
        torch.autograd.backward([loss])
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        as_any(optimizer).step()
    found, wanted = copy_weights(ours), copy_weights(by_hand)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-9)


def make_pipe(dropout: float = 0.5) -> Any:
    """Make a classifier with dropout."""
    with seeded(3):
        return FromIds() >> Bucket(rows=4) >> Pad() >> classifier(9, 3, embedding_dim=3, hidden_size=3, dropout=dropout)


EXAMPLES = [Example(row, sum(row) % 3) for row in _ID_ROWS]
# What training learns makes these worse: the best epoch is an early one, on any machine.
CONTRARY = [Example(row, (sum(row) + 1) % 3) for row in _ID_ROWS[:9]]


def test_two_runs_are_bitwise_equal_whatever_the_global_generators() -> None:
    """Dropout follows from the seed."""
    one, other, third = make_pipe(), make_pipe(), make_pipe()
    one.fit(EXAMPLES, epochs=2, progress=False)
    torch.rand(5)
    other.fit(EXAMPLES, epochs=2, progress=False)
    third.fit(EXAMPLES, epochs=2, progress=False, seed=8)
    assert are_equal(one, other)
    assert not are_equal(one, third)


def test_the_seed_fixes_the_order_too() -> None:
    """Without dropout, another seed means other batches; a bucket that does not shuffle stays so."""
    pipes = [make_pipe(dropout=0) for _ in range(3)]
    for pipe, seed in zip(pipes, (0, 0, 8), strict=True):
        pipe.fit(EXAMPLES, epochs=1, progress=False, seed=seed)
    assert are_equal(pipes[0], pipes[1])
    assert not are_equal(pipes[0], pipes[2])


def test_global_generators_and_modes_are_restored() -> None:
    """Those of Python, NumPy and torch, and the mode of each stage."""
    pipe = make_pipe().eval()
    before = get_random_state()
    pipe.fit(EXAMPLES, valid=EXAMPLES, epochs=1, progress=False)
    after = get_random_state()
    assert (after["python"], after["numpy"]) == (before["python"], before["numpy"])
    assert torch.equal(after["torch"], before["torch"])
    assert not any(module.training for module in pipe.modules())


def test_workers_change_nothing() -> None:
    """Batches and dropout are the same with two processes."""
    alone, helped = make_pipe(), make_pipe()
    alone.fit(EXAMPLES, epochs=2, progress=False)
    helped.fit(EXAMPLES, epochs=2, progress=False, num_workers=2)
    assert are_equal(alone, helped)


def test_the_best_epoch_is_kept() -> None:
    """Its loss and metrics are those of the pipe afterwards."""
    pipe = make_pipe(dropout=0)
    history = pipe.fit(EXAMPLES, valid=CONTRARY, epochs=12, learning_rate=0.1, monitor="loss", progress=False)
    losses = history["valid_loss"]
    assert history.best.number == 1 + losses.index(min(losses)) < 12
    scores = list(pipe.eval().predict_batches(CONTRARY))
    weights = [int(each.metadata.weight) for each in scores]  # empty rows have none
    mean = sum(each.loss().item() * weight for each, weight in zip(scores, weights, strict=True)) / sum(weights)
    assert mean == pytest.approx(min(losses), rel=1e-5)
    assert pipe.history is history


def test_patience_stops_after_epochs_without_a_better_one() -> None:
    """The history says so."""
    pipe = make_pipe(dropout=0)
    options: dict[str, Any] = {"learning_rate": 0.1, "monitor": "loss", "progress": False}
    history = pipe.fit(EXAMPLES, valid=CONTRARY, epochs=50, patience=2, **options)
    assert history.stopped_early
    assert len(history) == history.best.number + 2 < 50


def test_without_validation_the_last_weights_are_kept() -> None:
    """And there are neither metrics nor a validation loss."""
    history = make_pipe().fit(EXAMPLES, epochs=2, progress=False)
    assert [epoch.valid_loss for epoch in history] == [None, None]
    assert history.best.number == 2
    assert history.epochs[0].metrics == {}


def test_a_loss_of_nan_names_batch_and_rows_and_keeps_the_weights() -> None:
    """The error comes before the weights change."""
    with seeded(3):
        data = FromFeatures() >> Bucket(Vectors, rows=2, seed=None) >> Pad(Vectors, targets=Numbers())
        pipe = data >> Encode("gru", input_size=1, hidden_size=2) >> Pool("mean") >> Regress()
    examples = [Example([1.0, 2.0], 0.5), Example([1.0], 1e30), Example([2.0], 0.1)]
    before = copy_weights(pipe)
    with pytest.raises(
        TrainingError, match=r"loss of batch 0 in epoch 1 must be finite, got inf.*record 1 \(list"
    ) as raised:
        pipe.fit(Records(examples), epochs=1, progress=False, optimizer="sgd", learning_rate=1e-30)
    assert raised.value.details["rows"] == [0, 1]
    assert all(torch.allclose(copy_weights(pipe)[name], before[name]) for name in before)


@pytest.mark.parametrize("example", [Example([2, 3]), Example([], 1)], ids=["no target", "no steps"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_without_any_target_is_an_error(example: Example[list[int]], accumulate: int) -> None:
    """Before an epoch is reported: its loss would be NaN."""
    with seeded(3):
        pipe = as_any(FromIds() >> Bucket(rows=2) >> Pad(missing="ignore") >> classifier(9, 3, hidden_size=2))
    with pytest.raises(TrainingError, match="train must have at least one target in a row with steps, got none in 3"):
        pipe.fit([example] * 3, epochs=2, progress=False, accumulate=accumulate)
    assert pipe.history is None


def test_a_weight_without_gradient_is_reported() -> None:
    """By its name, after the first batch."""
    pipe = make_pipe()
    pipe.classify.register_parameter("idle", nn.Parameter(torch.ones(2)))
    with pytest.warns(UserWarning, match=r"classify.idle got no gradient from the first batch"):
        pipe.fit(EXAMPLES, epochs=2, progress=False)


def test_few_batches_are_reported_with_a_better_budget() -> None:
    """But not if each row is alone already, or the budget was chosen."""
    examples = EXAMPLES * 8
    pipe = FromIds() >> Bucket(max_padded_steps=130) >> Pad() >> classifier(9, 3, hidden_size=2)
    notes = as_any(pipe).fit(examples, epochs=1, progress=False).notes
    assert any("has only 6 batches" in note and "Bucket(max_padded_steps=" in note for note in notes)
    chosen = FromIds() >> Bucket() >> Pad() >> classifier(9, 3, hidden_size=2)
    notes = as_any(chosen).fit(examples, epochs=1, progress=False).notes
    assert [note for note in notes if "batches" in note] == [note for note in notes if "Bucket() takes" in note] != []


def test_the_advised_budget_holds_the_longest_row() -> None:
    """Else following the advice would be an error: then it is Bucket(), in which long rows are alone."""
    examples = [Example([2] * length, 1) for length in (*range(1, 9), 40)]
    pipe = FromIds() >> Bucket(max_padded_steps=60) >> Pad() >> classifier(9, 3, hidden_size=2)
    notes = [note for note in as_any(pipe).fit(examples, epochs=1, progress=False).notes if "batches" in note]
    assert len(notes) == 1
    assert "use Bucket(), for about 9." in notes[0]
    pipe = FromIds() >> Bucket() >> Pad() >> classifier(9, 3, hidden_size=2)
    assert as_any(pipe).fit(examples, epochs=1, progress=False).epochs[0].batches == 9


def test_precision_bfloat16_keeps_weights_in_float32() -> None:
    """And differs from float32."""
    # Not an LSTM, for which torch needs instructions that many processors do not have.
    full, half = KINDS["multi-label"].make(), KINDS["multi-label"].make()
    examples = KINDS["multi-label"].examples
    one = full.fit(examples, epochs=2, progress=False)
    other = half.fit(examples, epochs=2, progress=False, precision="bfloat16")
    assert {weight.dtype for weight in half.parameters()} == {torch.float32}
    assert other.epochs[-1].train_loss == pytest.approx(one.epochs[-1].train_loss, rel=0.05)
    assert not are_equal(full, half)


def read_once() -> Iterator[Example[list[int]]]:
    """Yield an example once."""
    yield EXAMPLES[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lr": 0.1}, UnknownOptionError, "fit has no option 'lr'.*Did you mean 'learning_rate'"),
        ({"epochs": 0}, OptionError, "epochs must be an integer of at least 1, got 0"),
        ({"train": read_once()}, OptionError, "train must be data that can be read in each epoch, got an iterator"),
        ({"train": []}, OptionError, "train must have at least one row, got none"),
        ({"resume": True}, OptionError, "resume needs a folder of checkpoints"),
        (
            {"monitor": "f1", "valid": EXAMPLES},
            OptionError,
            "monitor must be one of loss, accuracy, macro_f1, got 'f1'",
        ),
        ({"monitor": "accuracy"}, OptionError, "monitor='accuracy' needs validation, got no valid.*pass valid="),
        ({"monitor": "acc"}, OptionError, "monitor must be one of loss, accuracy, macro_f1, got 'acc'"),
        ({"patience": 2}, OptionError, "patience needs validation, got patience=2 without valid; pass valid=examples"),
        ({"device": "gpu"}, OptionError, "device must be one of torch's on this machine, got 'gpu'; pass one of cpu"),
        ({"device": "cuda:99"}, OptionError, "device must be one of torch's on this machine, got 'cuda:99'"),
        ({"device": 3.5}, OptionError, "device must be one of torch's on this machine, got 3.5"),
        ({"train": "train.csv"}, OptionError, "train must be examples, got 'train.csv'; read a file with a source"),
        ({"valid": Path("a.csv")}, OptionError, "valid must be examples, got 'a.csv'; read a file with a source"),
        ({"class_weights": "balanced"}, OptionError, "needs a head with labels"),
        ({"class_weights": torch.ones(1)}, OptionError, "one weight for each of 3 classes, got 1 weights; pass 3 wei"),
        ({"class_weights": [1.0] * 4}, OptionError, "class_weights must have one weight for each of 3 classes, got 4"),
        (
            {"class_weights": {"a": [1.0] * 3}},
            OptionError,
            "this pipe has one head, got the names a; pass a weight per",
        ),
    ],
)
def test_wrong_arguments_are_rejected(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """With the rule and what was given."""
    with pytest.raises(error, match=message):
        make_pipe().fit(**{"train": EXAMPLES, "epochs": 1, "progress": False, **arguments})


@pytest.mark.parametrize(
    "options", [{"label_smoothing": 0.1}, {"class_weights": "balanced"}, {"class_weights": torch.ones(2)}]
)
def test_options_for_classes_are_rejected_with_regression(options: dict[str, Any]) -> None:
    """They would be ignored in silence."""
    with pytest.raises(OptionError, match=f"{next(iter(options))} is for heads with classes, got the head Regress, "):
        KINDS["regression"].make().fit(KINDS["regression"].examples, epochs=1, progress=False, **options)


def test_a_pipe_without_a_model_is_rejected() -> None:
    """The error says what to join."""
    with pytest.raises(CompositionError, match="fit and evaluate need a pipe with a model"):
        as_any(FromIds() >> Bucket(rows=2) >> Pad()).fit(EXAMPLES, progress=False)


def test_a_model_without_batches_says_that_fit_is_for_pipes() -> None:
    """A chain of stages that take one batch has no stream to make batches with."""
    with pytest.raises(
        CompositionError, match="fit trains a pipe, which makes batches of examples.*got `Pack >> Embed"
    ):
        as_any(classifier(9, 2)).fit(EXAMPLES)


@pytest.mark.parametrize("norm", [1e-4, 0.5, 1e4])
def test_gradients_are_clipped_as_by_torch(norm: float) -> None:
    """Below, around and above the norm of the gradients, the weights are those of a plain loop to the last bit."""
    trained, plain = make_pipe(dropout=0), make_pipe(dropout=0)
    trained.fit(EXAMPLES, epochs=2, optimizer=make_sgd, **{**PLAIN, "max_grad_norm": norm})
    data, model = split(plain)
    optimizer = make_sgd(model.parameters())
    for batch in [*data(EXAMPLES), *data(EXAMPLES)]:
        optimizer.zero_grad()
        torch.autograd.backward(model(batch).loss())
        nn.utils.clip_grad_norm_(model.parameters(), norm)
        optimizer.step()
    assert are_equal(trained, plain)
