"""Predictions of numbers, of several classes, and of several heads: rows, losses, copies, moves and views as trees."""

import copy
import pickle
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline import (
    Classify,
    ClassifyMultiLabel,
    Embed,
    Encode,
    Heads,
    Ids,
    Joint,
    Labels,
    MultiLabels,
    MultiLabelScores,
    Numbers,
    Pack,
    Pad,
    Padded,
    Pool,
    Pooled,
    Regress,
    Row,
    Scores,
    Tag,
    Values,
    Vectors,
)
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import CompositionError, OptionError, ShapeError, TargetError
from pipeline.targets import NamedTargets
from pipeline_recurrent import GRU
from support.records import make_ids
from support.untyped import as_any, seed, to_list

LABELS = Labels(["ham", "spam"])
NAN = torch.nan
METADATA = BatchMetadata(torch.tensor([7, -1, 4]))


@attrs.frozen
class Verdict:
    """What is said of a text."""

    label: str
    amount: float


KINDS: NamedTargets = {"label": LABELS, "amount": Numbers()}
ROWS = [
    Row(Ids(torch.tensor([1, 2, 3])), {"label": "spam", "amount": 2.5}, 0),
    Row(Ids(torch.tensor([4])), {"amount": 1.0}, 1),
    Row(Ids(torch.tensor([2, 2])), {"label": "ham"}, 2),
]


def make_joint(rows: list[Row[Ids]] = ROWS, **options: Any) -> Joint[Verdict, Any]:
    """Return the predictions of two heads for some rows, the same at every call."""
    seed(0)
    heads = Heads(Classify(LABELS), Regress(), into=Verdict, **options)
    model = Pack() >> Embed(9, 4) >> Encode(GRU(4, 3)) >> Pool("mean") >> heads
    return model(Pad(targets=KINDS)(rows))


def test_rows_are_numbers_vectors_and_lists_of_classes() -> None:
    """With their row ids; fillers are left out."""
    numbers = Values(torch.tensor([0.5, 9, 2]), metadata=METADATA)
    assert list(numbers.rows()) == [(7, 0.5), (4, 2.0)]
    vectors: Values[list[float]] = Values(torch.tensor([[0.5, 1], [9, 9], [2, 3]]), metadata=METADATA)
    assert list(vectors.with_values(vectors.values * 2).rows()) == [(7, [1.0, 2.0]), (4, [4.0, 6.0])]
    values, thresholds = torch.tensor([[1.0, 1], [9, 9], [-9, 9]]), torch.tensor([0.5, 0.9])
    several = MultiLabelScores(values, LABELS, thresholds, metadata=METADATA)
    assert list(several.rows()) == [(7, ["ham"]), (4, ["spam"])]
    torch.testing.assert_close(several.probabilities, values.sigmoid())


def test_shapes_that_do_not_fit_raise() -> None:
    """One row id per row, one name and one threshold per class."""
    with pytest.raises(ShapeError, match="metadata must have one row id per row, got 3 row ids for 2 rows"):
        Values(torch.ones(2), metadata=METADATA)
    with pytest.raises(ShapeError, match="names must have one entry per class, got 2 for 3 classes"):
        MultiLabelScores(torch.ones(2, 3), LABELS, torch.ones(3))
    with pytest.raises(ShapeError, match="thresholds"):
        MultiLabelScores(torch.ones(2, 2), LABELS, torch.ones(3))


def test_thresholds_may_be_one_number_or_one_by_name() -> None:
    """They follow the module to other types, and are no weights."""
    head = ClassifyMultiLabel(LABELS, {"spam": 0.9}, input_size=2)
    torch.testing.assert_close(head.thresholds, torch.tensor([0.5, 0.9]))
    assert list(head.state_dict()) == ["linear.weight", "linear.bias"]
    assert to_list(ClassifyMultiLabel(3, 0.25, input_size=2).thresholds) == [0.25] * 3
    with pytest.raises(OptionError, match="threshold names 'spma', which is not a class; .*'spam'"):
        ClassifyMultiLabel(LABELS, {"spma": 0.9})
    for wrong in (-0.1, 1.5, NAN):
        with pytest.raises(OptionError, match="threshold must be a probability between 0 and 1, got"):
            ClassifyMultiLabel(LABELS, wrong)


def test_each_head_has_the_predictions_and_the_loss_that_it_has_alone() -> None:
    """A row without a target for one of them has no weight in its loss."""
    joint = make_joint(weights={"amount": 0.1})
    label, amount = joint.parts["label"], joint.parts["amount"]
    assert isinstance(label, Scores)
    assert isinstance(amount, Values)
    expected = {
        "label": -(label.values.log_softmax(1)[0, 1] + label.values.log_softmax(1)[2, 0]) / 2,
        "amount": ((amount.values[0] - 2.5) ** 2 + (amount.values[1] - 1) ** 2) / 2,
    }
    losses = joint.losses()
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(joint.loss(), expected["label"] + 0.1 * expected["amount"])
    torch.testing.assert_close(joint.loss(reduction="none").sum(), 2 * expected["label"] + 0.2 * expected["amount"])
    verdicts = [
        Verdict(LABELS[int(best)], value)
        for best, value in zip(label.values.argmax(1), to_list(amount.values), strict=True)
    ]
    assert list(joint.rows()) == list(enumerate(verdicts))


def test_losses_of_micro_batches_of_several_heads_add_up() -> None:
    """Each head has a divisor of its own, because targets may be missing in other rows."""
    whole, first, second = (make_joint(rows, weights={"amount": 3}) for rows in (ROWS, ROWS[:1], ROWS[1:]))
    over = {name: weight + second.metadata.weights[name] for name, weight in first.metadata.weights.items()}
    assert {name: int(weight) for name, weight in over.items()} == {"label": 2, "amount": 2}
    torch.testing.assert_close(first.loss(over=over) + second.loss(over=over), whole.loss())
    with pytest.raises(OptionError, match="over must have one number for each head, label, amount, got label"):
        whole.loss(over={"label": 2})


def test_heads_of_rows_and_of_steps_share_a_body() -> None:
    """A class per text and per word; their losses cannot be added row by row."""
    seed(0)
    heads = Heads(Tag(LABELS), Pool("mean") >> Classify(LABELS), names=["tags", "label"])
    model = Pack() >> Embed(9, 4) >> Encode(GRU(4, 3)) >> heads
    rows = [
        Row(Ids(torch.tensor([1, 2])), {"tags": ["ham", None], "label": "spam"}),
        Row(Ids(torch.tensor([3])), {"label": "ham"}, 1),
    ]
    joint = model(Pad(targets={"tags": LABELS, "label": LABELS})(rows))
    assert {name: int(weight) for name, weight in joint.metadata.weights.items()} == {"tags": 1, "label": 2}
    assert [(row, len(tags), label in LABELS) for row, (tags, label) in joint.rows()] == [(0, 2, True), (1, 1, True)]
    torch.testing.assert_close(joint.loss(), joint.losses()["tags"] + joint.losses()["label"])
    with pytest.raises(OptionError, match=r"losses of rows and of steps cannot be added, got shapes .*; use `losses`"):
        joint.loss(reduction="none")
    with pytest.raises(OptionError, match="losses of rows and of steps cannot be added"):  # with two rows and two steps
        model(Pad(targets={"tags": LABELS, "label": LABELS})([rows[0], Row(make_ids([]), {})])).loss(reduction="none")


def test_a_head_without_its_targets_raises() -> None:
    """With the name of the target, and what the batch has."""
    model = Pack() >> Embed(9, 4) >> Encode(GRU(4, 3)) >> Pool("mean")
    heads = Heads(Classify(LABELS), Regress(), names=["label", "price"])
    with pytest.raises(TargetError, match="the batch must have a target 'price', got label, amount; pass Pad"):
        _ = (model >> heads)(Pad(targets=KINDS)(ROWS))
    with pytest.raises(TargetError, match="needs one target per row, but the batch has several by name, label, amount"):
        (model >> Classify(2))(Pad(targets=KINDS)(ROWS)).loss()
    unlabeled = [Row(row.sequence) for row in ROWS]
    assert len(list((model >> heads)(Pad()(unlabeled)).rows())) == 3
    with pytest.raises(TargetError, match="needs one target per row, but the batch has no targets"):
        (model >> heads)(Pad()(unlabeled)).loss()


def test_an_error_of_a_heads_loss_names_the_head() -> None:
    """Also if `over` is a number, as it is for a single head."""
    model = Pack() >> Embed(9, 4) >> Encode(GRU(4, 3)) >> Pool("mean")
    heads = Heads(Classify(LABELS), Regress(3), names=["label", "amount"])
    joint = (model >> heads)(Pad(targets=KINDS)(ROWS))
    with pytest.raises(TargetError, match="head 'amount': the loss needs 3 numbers per row"):
        joint.loss()
    with pytest.raises(OptionError, match="one number for each head, label, amount, got a float; pass metadata"):
        joint.loss(over=as_any(2.0))
    with pytest.raises(
        OptionError, match=r"no kind of loss, got 'huber'; .* as joint.parts\['amount'\].loss\('huber'\)"
    ):
        as_any(joint).loss("huber")
    with pytest.raises(OptionError, match="the loss has the options over, reduction, got 'weight'"):
        as_any(joint).loss(weight=torch.ones(2))


def test_heads_that_do_not_fit_raise() -> None:
    """When they are made."""
    with pytest.raises(OptionError, match="Heads must get two heads or more, got 1"):
        as_any(Heads)(Classify(2))
    with pytest.raises(OptionError, match=r"one name per head, got \['a'\] for 2 heads; pass names"):
        Heads(Classify(2), Regress(), names=["a"])
    with pytest.raises(OptionError, match=r"one name per head, got \['a', 'a'\] for 2 heads"):
        Heads(Classify(2), Regress(), names=["a", "a"])
    with pytest.raises(OptionError, match="weights must be for the heads classify, regress, got one for 'amount'"):
        Heads(Classify(2), Regress(), weights={"amount": 2})
    for weight in (float("nan"), float("inf"), "2", True, None):
        with pytest.raises(OptionError, match=r"weights\['regress'\] must be a finite number, got"):
            Heads(Classify(2), Regress(), weights={"regress": as_any(weight)})
    with pytest.raises(CompositionError, match="in head 'label': the input has size 3"):
        _ = Encode(GRU(4, 3)) >> Pool("mean") >> Heads(Classify(2, input_size=4), Regress(), names=["label", "amount"])


def make_predictions() -> list[Any]:
    """Return predictions of each type, with targets."""
    metadata = BatchMetadata(torch.arange(2), torch.ones(2, 3))
    return [
        Values(torch.zeros(2, 3), metadata=metadata),
        MultiLabelScores(torch.zeros(2, 3), range(3), torch.ones(3), metadata=metadata),
        make_joint(),
    ]


def get_loss(predictions: Any) -> Tensor:
    """Return the loss without its type."""
    loss: Tensor = predictions.loss()
    return loss


@pytest.mark.parametrize("index", range(3))
def test_predictions_are_copied_moved_and_seen_as_trees(index: int) -> None:
    """All tensors, also those of several heads; the loss of a copy is the same."""
    made = make_predictions()[index]
    with torch.no_grad():
        copies = [
            pickle.loads(pickle.dumps(pytree.tree_map(torch.Tensor.detach, made))),
            pytree.tree_map(torch.clone, made),
        ]
    for copied in (*copies, copy.deepcopy(pytree.tree_map(torch.Tensor.detach, made))):
        torch.testing.assert_close(get_loss(copied), get_loss(made))
        assert list(copied.rows()) == list(made.rows())
    moved = made.to("meta")
    assert {leaf.device.type for leaf in pytree.tree_leaves(moved) if isinstance(leaf, Tensor)} == {"meta"}
    assert get_loss(moved).device.type == "meta"
    assert moved.row_ids.device.type == "cpu"


def test_pads_with_types_of_targets_can_be_pickled() -> None:
    """Workers get them by pickling."""
    pad = pickle.loads(pickle.dumps(Pad(targets={**KINDS, "topics": MultiLabels(LABELS)})))
    batch: Padded[Ids] = pad(ROWS)
    assert batch.named_targets is not None
    assert batch.named_targets.keys() == {"label", "amount", "topics"}


def test_bfloat16_heads_train() -> None:
    """Under autocast, gradients are finite and predictions plain numbers."""
    seed(0)
    heads = Heads(Classify(LABELS), Regress(), into=Verdict)
    model = Pack() >> Embed(9, 4) >> Encode(GRU(4, 3)) >> Pool("mean") >> heads
    with torch.autocast("cpu", torch.bfloat16):
        joint = model(Pad(targets=KINDS)(ROWS))
        loss = joint.loss()
    assert loss.dtype is torch.float32
    torch.autograd.backward(loss)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
    assert all(type(verdict.amount) is float for _, verdict in joint.rows())


@attrs.frozen
class Swapped:
    """A verdict with its fields in another order."""

    amount: float
    label: str


def test_fields_in_another_order_than_the_heads_raise() -> None:
    """Fields are named, also if annotations are texts; a class per step is no single class."""
    one = Pooled(torch.ones(1, 3))
    heads = as_any(Heads)(Classify(LABELS, input_size=3), Regress(input_size=3), into=Swapped)
    with pytest.raises(OptionError, match=r"field 'amount' of Swapped is float, but the head .* predicts a str, "):
        list(heads(one).rows())

    def make(first: "list[str]", second: "float") -> tuple[list[str], float]:
        return first, second

    heads = as_any(Heads)(Classify(LABELS, input_size=3), Regress(input_size=3), into=make)
    with pytest.raises(OptionError, match=r"field 'first' of make is list\[str\], but .* a str, "):
        list(heads(one).scored_rows())


def test_fields_of_other_annotations_are_not_checked() -> None:
    """Converters take what heads predict; a union, or a function without annotations, says too little."""

    @attrs.frozen
    class Rounded:
        label: "str | None"
        amount: int = attrs.field(converter=round)
        more: float = 0

    for into in (as_any(Rounded), as_any(attrs.make_class("Bare", ["a", "b"]))):
        heads = as_any(Heads)(Classify(LABELS, input_size=3), Regress(input_size=3), into=into, names=["a", "b"])
        assert len(list(heads(Pooled(torch.ones(2, 3))).rows())) == 2


@pytest.mark.parametrize("threshold", [[0.4, 0.5], None, {"ham": "high"}, {"ham": float("nan")}, {"ham": None}])
def test_thresholds_that_are_no_numbers_raise(threshold: object) -> None:
    """A list would not say which class is meant."""
    with pytest.raises(OptionError, match="threshold must be a (number, or a mapping from class names|probability)"):
        as_any(ClassifyMultiLabel)(LABELS, threshold)


def test_heads_in_a_list_raise() -> None:
    """They are passed one by one."""
    with pytest.raises(OptionError, match=r"one by one, got a list of them; pass Heads\(\*heads\)"):
        as_any(Heads)([Classify(LABELS), Regress()])


def test_heads_without_targets_by_name_say_how_to_name_them() -> None:
    """A single type of targets cannot suit both heads."""
    rows = [Row(make_ids([1]), "ham")]
    heads = Heads(Classify(LABELS, input_size=3), Regress(input_size=3), into=Verdict)
    joint = heads(Pooled(torch.ones(1, 3), metadata=Pad(labels=LABELS)(rows).metadata))
    message = r"head 'amount': .* one class id per row; .* Pad\(targets=\{'label': \.\.\., 'amount': \.\.\.\}\)"
    with pytest.raises(TargetError, match=message):
        joint.loss()


def test_sets_of_classes_are_not_taken_for_numbers() -> None:
    """Both are floats of one shape: a regression would be trained on zeros and ones, without an error."""
    rows = [Row(Vectors(torch.ones(1, 3)), {"label": "ham", "amount": {"spam"}}, 0)]
    pooled = Pooled(
        torch.ones(1, 3), metadata=Pad(Vectors, targets={"label": LABELS, "amount": MultiLabels(LABELS)})(rows).metadata
    )
    heads = Heads(Classify(LABELS, input_size=3), Regress(2, input_size=3), names=["label", "amount"])
    message = "head 'amount': the loss needs numbers, but the targets are sets of classes; end the model with Classify"
    with pytest.raises(TargetError, match=message):
        heads(pooled).loss()
    single = Pad(Vectors, targets=MultiLabels(LABELS))([Row(Vectors(torch.ones(1, 3)), {"spam"})]).metadata
    with pytest.raises(TargetError, match="the loss needs numbers, but the targets are sets of classes"):
        Regress(2, input_size=3)(Pooled(torch.ones(1, 3), metadata=single)).loss()
    assert ClassifyMultiLabel(LABELS, input_size=3)(Pooled(torch.ones(1, 3), metadata=single)).loss().isfinite()
