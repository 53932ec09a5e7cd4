"""Losses with class weights, smoothing and options, of one head and several; their mean over batches."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from pipeline import Classify, Example, Joint, Labels, MultiLabelScores, Scores, Values
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.errors import CompositionError, OptionError
from pipeline.training.losses import Loss, MeanLoss, find_class_weights
from support.untyped import as_any

CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0])
VALUES = torch.tensor([[1.0, 0.0, 2.0], [0.5, 0.5, 0.0], [0.0, 3.0, 1.0]])
TARGETS = torch.tensor([0, IGNORED, 2])


def make_scores(targets: Tensor = TARGETS) -> Scores[int]:
    """Make scores of three rows."""
    return Scores(VALUES, range(3), metadata=BatchMetadata(torch.arange(3), targets=targets))


def make_joint() -> Joint[Any, Any]:
    """Make the predictions of two heads."""
    numbers = torch.tensor([0.5, float("nan"), 2.0])
    metadata = BatchMetadata(torch.arange(3), named_targets={"kind": TARGETS, "size": numbers})
    parts: dict[str, Any] = {
        "kind": Scores(VALUES, range(3), metadata=metadata.select_targets("kind")),
        "size": Values[float](torch.tensor([1.0, 2.0, 4.0]), metadata=metadata.select_targets("size")),
    }
    return Joint(parts, as_any(tuple), {"kind": 1.0, "size": 0.5}, metadata=metadata)


def test_a_plain_loss_is_that_of_the_head() -> None:
    """To the last bit."""
    assert torch.equal(Loss().compute(make_scores())[0], make_scores().loss())
    assert torch.equal(Loss(heads=["kind", "size"]).compute(make_joint())[0], make_joint().loss())


def test_class_weights_and_smoothing_are_those_of_torch() -> None:
    """Averaged over the weights of the rows with a target; validation leaves both out."""
    loss = Loss(CLASS_WEIGHTS, label_smoothing=0.1)
    known = TARGETS != IGNORED
    wanted = functional.cross_entropy(VALUES[known], TARGETS[known], CLASS_WEIGHTS, label_smoothing=0.1)
    assert_close(loss.compute(make_scores())[0], wanted)
    assert torch.equal(loss.compute(make_scores(), plain=True)[0], make_scores().loss())


def test_micro_batches_add_up_to_the_loss_of_their_batch() -> None:
    """With class weights, whose sum is the divisor."""
    loss = Loss(CLASS_WEIGHTS)
    first, second = make_scores(), make_scores(torch.tensor([1, 1, IGNORED]))
    weights = [loss.weigh(each.metadata) for each in (first, second)]
    over = loss.to_over({"": torch.stack([each[""] for each in weights]).sum()})
    found = loss.compute(first, over)[0] + loss.compute(second, over)[0]
    targets = torch.cat([TARGETS, torch.tensor([1, 1, IGNORED])])
    assert_close(found, functional.cross_entropy(VALUES.repeat(2, 1), targets, CLASS_WEIGHTS))


def test_options_and_class_weights_of_several_heads_are_by_head() -> None:
    """A head without them has its default loss."""
    loss = Loss({"kind": CLASS_WEIGHTS}, options={"size": {"kind": "l1"}}, heads=["kind", "size"])
    joint = make_joint()
    total, losses = loss.compute(joint)
    wanted = {
        "kind": as_any(joint.parts["kind"]).loss(weight=CLASS_WEIGHTS),
        "size": as_any(joint.parts["size"]).loss("l1"),
    }
    assert losses == wanted
    assert_close(total, wanted["kind"] + 0.5 * wanted["size"])
    assert {name: float(weight) for name, weight in loss.weigh(joint.metadata).items()} == {
        "kind": pytest.approx(3.2),
        "size": 2,
    }


def test_smoothing_applies_to_classes_only() -> None:
    """A loss of numbers has no such option."""
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scores = MultiLabelScores(
        torch.tensor([[2.0, -1.0], [0.5, 0.0]]),
        range(2),
        torch.tensor([0.5, 0.5]),
        metadata=BatchMetadata(torch.arange(2), targets=targets),
    )
    assert_close(Loss(label_smoothing=0.2).compute(scores)[0], scores.loss(label_smoothing=0.2))
    numbers = Values[float](torch.ones(2), metadata=BatchMetadata(torch.arange(2), targets=torch.ones(2)))
    assert Loss(label_smoothing=0.2).compute(numbers)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": CLASS_WEIGHTS}, "class_weights must be by the names of the heads, kind, size, got float32"),
        ({"options": {"other": {}}}, "loss must be by the names of the heads, kind, size, got other"),
    ],
)
def test_what_is_not_by_head_is_rejected(arguments: dict[str, Any], message: str) -> None:
    """With the names of the heads."""
    with pytest.raises(OptionError, match=message):
        Loss(heads=["kind", "size"], **arguments)


def test_a_pipe_without_head_is_rejected() -> None:
    """The error says what to join."""
    with pytest.raises(CompositionError, match="must end with a head, but it returns float32"):
        Loss().compute(torch.ones(2))


def test_balanced_class_weights_are_those_of_the_labels() -> None:
    """For the targets of the training data; without labels, or with another word, there is an error."""
    labels, targets = Labels(["ham", "spam"]), ["ham", "spam", "ham", "ham"]
    head = Classify(labels, input_size=2)
    found = find_class_weights("balanced", head, [Example("text", target) for target in targets])
    assert torch.equal(found, labels.class_weights(targets))
    assert find_class_weights(CLASS_WEIGHTS, Classify(3), []) is CLASS_WEIGHTS
    with pytest.raises(OptionError, match="class_weights must be one of balanced, got 'equal'"):
        find_class_weights("equal", head, [])


def test_the_mean_over_batches_is_that_over_targets() -> None:
    """Not over batches; a batch without a target weighs nothing."""
    mean = MeanLoss({})
    for total, weight in ((6.0, 3.0), (0.0, 0.0), (2.0, 1.0)):
        mean.add({"": total}, {"": weight})
    assert mean.compute() == 2.0
    other = MeanLoss({})
    other.load_state_dict(mean.state_dict())
    assert other.compute() == 2.0
    assert MeanLoss({}).compute() != MeanLoss({}).compute()  # NaN
