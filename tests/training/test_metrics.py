"""Test the choice of metrics by the head, their names, what is monitored, and merging."""

import copy
import math
from typing import Any

import pytest
import torch
from typing_extensions import override

from pipeline import (
    Classify,
    ClassifyMultiLabel,
    Dropout,
    Embed,
    Encode,
    Heads,
    Joint,
    Labels,
    ModuleStage,
    MultiLabelScores,
    NextToken,
    Pool,
    Predictions,
    Regress,
    Scores,
    StepScores,
    Tag,
    Values,
)
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import OptionError, TargetError, UnknownNameError
from pipeline.extend import Metric
from pipeline.training.metrics import MetricGroup, Monitor, choose_metrics, gather_over_ranks
from support.untyped import as_any

SPANS = Labels(["O", "B-per", "I-per"])
WORDS = Labels(["NOUN", "VERB"])


def make_model(*stages: Any) -> Any:
    """Return a model that ends with some stages."""
    model: Any = Embed(9, 2) >> Encode("gru", hidden_size=2)
    for stage in stages:
        model = model >> stage
    return model


def make_scores(targets: list[int], best: list[int]) -> Scores[int]:
    """Return scores of three classes, of which the best are given."""
    return Scores(
        torch.eye(3)[best], range(3), metadata=BatchMetadata(torch.arange(len(targets)), torch.tensor(targets))
    )


def make_values(targets: list[float], found: list[float]) -> Values[float]:
    """Return predicted numbers."""
    return Values[float](torch.tensor(found), metadata=BatchMetadata(torch.arange(len(targets)), torch.tensor(targets)))


def make_joint(label: Scores[int], amount: Values[float]) -> Joint[object, object]:
    """Return the predictions of two heads."""
    parts: dict[str, Any] = {"label": label, "amount": amount}
    return Joint(parts, as_any(tuple), {"label": 1.0, "amount": 1.0}, metadata=label.metadata)


def make_heads() -> Any:
    """Return a model with two heads."""
    return make_model(Pool("max"), Heads(Classify(3), Regress(), names=["label", "amount"]))


class Scale(ModuleStage[StepScores[str], StepScores[str]]):
    """Divides scores, as a calibration after the head does."""

    def forward(self, value: StepScores[str]) -> StepScores[str]:
        """Return smaller scores."""
        return value.with_values(value.values / 2)


@pytest.mark.parametrize(
    ("stages", "names", "monitor"),
    [
        ((Pool("max"), Classify(3)), ["accuracy", "macro_f1"], Monitor("accuracy", higher_is_better=True)),
        ((Tag(SPANS),), ["span_f1", "accuracy"], Monitor("span_f1", higher_is_better=True)),
        ((Tag(WORDS),), ["accuracy", "macro_f1"], Monitor("accuracy", higher_is_better=True)),
        ((NextToken(9),), ["perplexity"], Monitor("perplexity", higher_is_better=False)),
        ((Pool("max"), ClassifyMultiLabel(3)), ["multi_label_f1"], Monitor("multi_label_f1", higher_is_better=True)),
        ((Pool("max"), Regress()), ["mae"], Monitor("mae", higher_is_better=False)),
        # A stage after the head, and a head inside of a chain.
        ((Tag(SPANS), Scale()), ["span_f1", "accuracy"], Monitor("span_f1", higher_is_better=True)),
        (
            (Pool("max"), Heads(Dropout(0.5) >> Classify(3), Regress(), names=["label", "amount"])),
            ["label.accuracy", "label.macro_f1", "amount.mae"],
            Monitor("loss", higher_is_better=False),
        ),
    ],
)
def test_the_head_decides(stages: tuple[Any, ...], names: list[str], monitor: Monitor) -> None:
    """The first metric is monitored; of several heads the loss."""
    group = choose_metrics(make_model(*stages))
    assert list(group.metrics) == names
    assert group.monitor == monitor


LENGTHS = torch.tensor([2])
HALVES = torch.full((2,), 0.5)


@pytest.mark.parametrize(
    ("predictions", "names"),
    [
        (make_scores([1], [1]), ["accuracy", "macro_f1"]),
        (make_values([1.0], [1.0]), ["mae"]),
        (
            make_joint(make_scores([1], [1]), make_values([1.0], [1.0])),
            ["label.accuracy", "label.macro_f1", "amount.mae"],
        ),
        (
            MultiLabelScores(
                torch.ones(1, 2), range(2), HALVES, metadata=BatchMetadata(torch.arange(1), torch.ones(1, 2))
            ),
            ["multi_label_f1"],
        ),
        (
            StepScores(
                torch.ones(2, 3), LENGTHS, SPANS, metadata=BatchMetadata(torch.arange(1), torch.ones(1, 2).long())
            ),
            ["span_f1", "accuracy"],
        ),
    ],
)
def test_predictions_decide_if_the_head_is_unknown(predictions: Predictions[object, object], names: list[str]) -> None:
    """A pipe may end with a head of a user's own; each epoch decides anew."""
    group = choose_metrics(make_model())
    assert list(group.metrics) == []
    for each in (group, group.empty()):
        each.update(predictions)
        assert list(each.metrics) == names
        assert set(each.compute()) == set(names)


def test_metrics_of_several_heads_get_their_own_predictions() -> None:
    """Each is named after its head."""
    group = choose_metrics(make_heads(), ["label.accuracy", "amount.mae"])
    group.update(make_joint(make_scores([1, 2], [1, 1]), make_values([1.0, 5.0], [2.0, 2.0])))
    assert group.compute() == {"label.accuracy": 0.5, "amount.mae": 2.0}


class Count(Metric):
    """The number of rows, and that of batches."""

    higher_is_better = None

    def __init__(self) -> None:
        self.rows = self.batches = 0

    @override
    def update(self, predictions: Predictions[object, object], /) -> None:
        self.rows += len(list(predictions.rows()))
        self.batches += 1

    @override
    def compute(self) -> float:
        return self.rows

    @override
    def merge(self, other: Metric, /) -> None:
        assert isinstance(other, Count)
        self.rows += other.rows
        self.batches += other.batches

    @override
    def results(self) -> dict[str, float]:
        return {"rows": self.rows, "batches": self.batches}


def test_results_are_named_after_their_metric() -> None:
    """A metric with several results has several names."""
    model = make_model(Pool("max"), Classify(3))
    for metrics, prefix in (([Count()], "count"), ({"seen": Count()}, "seen")):
        group = choose_metrics(model, metrics)
        group.update(make_scores([0, 1], [0, 1]))
        assert group.compute() == {f"{prefix}.rows": 2, f"{prefix}.batches": 1}


def test_empty_group_forgets_and_keeps_the_given_object() -> None:
    """Nothing of an epoch is left in the next one, nor in the object that a user passed."""
    given = Count()
    group = choose_metrics(make_model(Pool("max"), Classify(3)), [given])
    group.update(make_scores([0], [0]))
    after = group.empty()
    after.update(make_scores([0, 1], [0, 1]))
    assert (group.compute()["count.rows"], after.compute()["count.rows"], given.rows) == (1, 2, 0)


@pytest.mark.parametrize("is_known", [True, False])
def test_merged_groups_equal_the_whole(is_known: bool) -> None:
    """Also if one of them has not seen any batch."""
    pipe = make_model(Pool("max"), Classify(3)) if is_known else make_model()
    whole, first, second, merged = (choose_metrics(pipe) for _ in range(4))
    for part, batch in ((first, make_scores([0, 1], [0, 2])), (second, make_scores([2], [2]))):
        whole.update(batch)
        part.update(batch)
    merged.merge(first)
    merged.merge(copy.deepcopy(second))
    assert merged.compute() == whole.compute()
    assert merged.merge_over_ranks() is merged
    assert gather_over_ranks(3) == [3]


def test_what_is_monitored_can_be_chosen() -> None:
    """The loss, a metric, or one of several results."""
    group = choose_metrics(make_heads(), {"label.accuracy": "accuracy", "amount.count": Count()})
    assert group.choose_monitor("loss") == Monitor("loss", higher_is_better=False)
    assert group.choose_monitor("label.accuracy") == Monitor("label.accuracy", higher_is_better=True)
    assert MetricGroup({"all": choose_metrics(make_heads()).metrics["amount.mae"]}).choose_monitor("all.1") == Monitor(
        "all.1", higher_is_better=False
    )
    with pytest.raises(OptionError, match=r"monitor must be one of loss, .*, got 'label.acuracy'. Did you mean"):
        group.choose_monitor("label.acuracy")
    with pytest.raises(OptionError, match="'amount.count.rows' does not say whether higher is better"):
        group.choose_monitor("amount.count.rows")
    # A metric without a direction is not monitored by default.
    assert choose_metrics(make_model(Pool("max"), Classify(3)), [Count()]).monitor.name == "loss"


@pytest.mark.parametrize("higher", [True, False])
def test_any_number_is_better_than_none(higher: bool) -> None:
    """And NaN is never better."""
    monitor = Monitor("loss", higher_is_better=higher)
    assert monitor.is_better(1.0, than=None)
    assert monitor.is_better(1.0, than=math.nan)
    assert not monitor.is_better(math.nan, than=1.0)
    assert not monitor.is_better(math.nan, than=None)
    assert not monitor.is_better(1.0, than=1.0)
    assert monitor.is_better(2.0, than=1.0) is higher


def test_wrong_metrics_are_rejected() -> None:
    """One metric, two of one name, an unknown name, a class, and metrics of no head."""
    model = make_model(Pool("max"), Classify(3))
    wrong: list[tuple[object, str]] = [
        ("accuracy", r"metrics must be a list or a mapping, got a str; pass \['accuracy'\]"),
        (Count(), r"metrics must be a list or a mapping, got a Count; pass \["),
        ([Count(), Count()], "must have different names, got two 'count'; pass a mapping"),
        ({"a": Count}, "metric 'a' must be a registered name, a Metric, or a metric of torchmetrics, got a"),
        ({"a": 3}, "metric 'a' must be a registered name, a Metric, or a metric of torchmetrics, got an int"),
    ]
    for metrics, message in wrong:
        with pytest.raises(OptionError, match=message):
            choose_metrics(model, as_any(metrics))
    with pytest.raises(UnknownNameError, match="'acuracy' is not the name of an installed metric"):
        choose_metrics(model, ["acuracy"])
    with pytest.raises(
        OptionError, match="must be for one of the heads label, amount, got 'accuracy'; .* 'label.accuracy'"
    ):
        choose_metrics(make_heads(), ["accuracy"])
    joint = make_joint(make_scores([1], [1]), make_values([1.0], [1.0]))
    with pytest.raises(
        OptionError, match="metric 'accuracy' must begin with the name of a head, label, amount: 'label.a"
    ):
        choose_metrics(make_model(), ["accuracy"]).update(joint)


def test_errors_name_the_metric() -> None:
    """One that is not for such predictions, and one without targets."""
    group = choose_metrics(make_model(Pool("max"), Classify(3)), ["mae"])
    with pytest.raises(TargetError, match="metric 'mae': MeanAbsoluteError must get predicted numbers") as caught:
        group.update(make_scores([1], [1]))
    assert caught.value.details["metric"] == "mae"
    with pytest.raises(TargetError, match="metric 'mae': MeanAbsoluteError needs at least one target"):
        group.compute()
