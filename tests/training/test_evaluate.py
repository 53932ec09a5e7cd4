"""An evaluation equals a plain loop over rows, one at a time, in float64."""

import json
import math
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline import (
    Bucket,
    Dropout,
    Embed,
    Encode,
    Example,
    FromIds,
    Labels,
    NextToken,
    Pad,
    Pool,
    Shift,
    Tag,
    classifier,
)
from pipeline.core.contexts import seeded
from pipeline.data.metadata import IGNORED
from pipeline.errors import CompositionError, OptionError, TargetError
from pipeline.sources import Records
from support.needs import needs
from support.rank_evaluation import evaluate_on_rank
from support.ranked import run_on_ranks
from support.trainable import LABELS, TRAINABLE
from support.untyped import as_any, to_list


def predict_alone(pipe: Any, examples: Sequence[Example[Any]]) -> Iterator[Any]:
    """Yield the predictions of each row by itself, a whole row also where the pipe cuts windows."""
    stages = pipe.stages
    for example in examples:
        rows = list(stages["from_ids"].map([example]))
        value = stages["pad"]([stages["shift"](row) for row in rows] if "shift" in stages else rows)
        for stage in stages.values():
            if isinstance(stage, nn.Module):
                value = stage(value)
        yield value


def list_known(kind: str) -> tuple[Any, list[tuple[torch.Tensor, int]]]:
    """Return a pipe, and the scores and the target of each row or step that has a target."""
    pipe = TRAINABLE[kind].make().double()
    known: list[tuple[torch.Tensor, int]] = []
    with torch.no_grad():
        for scores in predict_alone(pipe, TRAINABLE[kind].examples):
            targets: list[int] = [] if scores.targets is None else to_list(scores.targets.flatten())
            found = zip(scores.values, targets, strict=False)
            known += [(values, target) for values, target in found if target != IGNORED]
    return pipe, known


def compute_loss(known: list[tuple[torch.Tensor, int]]) -> float:
    """Average the cross-entropy over targets."""
    losses = [float(functional.cross_entropy(values, torch.tensor(target))) for values, target in known]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kind", ["classifier", "tagger"])
def test_loss_metrics_and_confusion_equal_the_loop(kind: str) -> None:
    """Rows without a target, and empty ones, do not count."""
    pipe, known = list_known(kind)
    found = pipe.evaluate(TRAINABLE[kind].examples)
    assert found.loss == pytest.approx(compute_loss(known))
    right = [int(values.argmax()) == target for values, target in known]
    assert found["accuracy"] == pytest.approx(sum(right) / len(right))
    counts = [[0] * 3 for _ in range(3)]
    for values, target in known:
        counts[target][int(values.argmax())] += 1
    assert to_list(found.confusion.counts) == counts
    examples = TRAINABLE[kind].examples
    assert found.rows == len(examples)
    assert found.steps == sum(len(example.input) for example in examples)
    lacking = [example for example in examples if example.target in (None, []) or not example.input]
    assert found.without_target == len(lacking) > 0


def test_a_language_model_in_windows_equals_whole_rows() -> None:
    """States are carried from window to window; there is no confusion matrix of a vocabulary."""
    pipe, known = list_known("language model")
    found = pipe.evaluate(TRAINABLE["language model"].examples)
    assert found.loss == pytest.approx(compute_loss(known))
    assert found.metrics == {"perplexity": pytest.approx(math.exp(compute_loss(known)))}
    assert found.rows == len(TRAINABLE["language model"].examples)
    assert found.confusions == {}


def test_several_heads_have_losses_and_metrics_of_their_own() -> None:
    """Each over its own targets; the loss is their weighted sum."""
    trainable = TRAINABLE["heads"]
    pipe = trainable.make().double()
    sums = {"topics": [0.0, 0.0], "stars": [0.0, 0.0]}
    errors: list[float] = []
    with torch.no_grad():
        for joint in predict_alone(pipe, trainable.examples):
            for name, part in joint.parts.items():
                weight = int(joint.metadata.weights[name])
                sums[name][0] += float(part.loss()) * weight
                sums[name][1] += weight
            if int(joint.metadata.weights["stars"]):
                stars = joint.parts["stars"]
                errors.append(abs(float(stars.values) - float(stars.targets)))
    found = pipe.evaluate(trainable.examples)
    means = {name: total / weight for name, (total, weight) in sums.items()}
    assert found.losses == pytest.approx(means)
    assert found.loss == pytest.approx(means["topics"] + 0.3 * means["stars"])
    assert found["stars.mae"] == pytest.approx(sum(errors) / len(errors))
    assert set(found.metrics) == {"topics.multi_label_f1", "stars.mae"}
    assert "stars.loss" in str(found)


def test_ranks_share_the_batches(tmp_path: Path) -> None:
    """Each of three has the numbers of one process, to the last bit the same on all of them."""
    ranks = run_on_ranks(evaluate_on_rank, 3, tmp_path)
    assert ranks[0] == ranks[1] == ranks[2]
    for kind, found in ranks[0].items():
        wanted = TRAINABLE[kind].make().double().evaluate(TRAINABLE[kind].examples)
        assert found["loss"] == pytest.approx(wanted.loss)
        assert found["metrics"] == pytest.approx(dict(wanted.metrics))
        assert found["confusions"] == wanted.to_dict()["confusions"]
        assert found["table"] == str(wanted)


def test_a_row_over_the_budget_is_alone() -> None:
    """As in prediction; training would reject it."""
    pipe = FromIds() >> Bucket(max_padded_steps=4) >> Pad() >> classifier(9, 2, hidden_size=2)
    assert pipe.evaluate([Example([1] * 9, 0), Example([1], 1)]).rows == 2


def test_the_result_does_not_depend_on_the_batches() -> None:
    """Many small ones, or all rows in one."""
    examples = TRAINABLE["classifier"].examples
    pipe: Any = TRAINABLE["classifier"].make().double()
    stages = [stage for stage in pipe.stages.values() if isinstance(stage, nn.Module)]
    losses: list[float] = []
    for rows in (1, 7, 100):
        other: Any = FromIds() >> Bucket(rows=rows) >> Pad(labels=LABELS, missing="ignore")
        for stage in stages:
            other = other >> stage
        losses.append(other.evaluate(examples).loss)
    assert losses == pytest.approx([pipe.evaluate(examples).loss] * 3)


def test_the_pipe_is_as_it_was() -> None:
    """Dropout is off while it runs; its mode is restored, and no gradient is left."""
    examples = TRAINABLE["classifier"].examples
    with seeded(0):
        body = Embed(9, 4) >> Dropout(0.5) >> Encode("gru", hidden_size=4) >> Tag(3)
        pipe = FromIds() >> Bucket(rows=4) >> Pad(missing="ignore") >> body
    tagged = [Example(example.input, [each % 3 for each in example.input]) for example in examples]
    pipe.eval()
    wanted = pipe.evaluate(tagged)
    pipe.train()
    as_any(pipe.stages["encode"]).eval()
    assert pipe.evaluate(tagged).loss == wanted.loss
    assert pipe.training
    assert not as_any(pipe.stages["encode"]).training
    assert all(weight.grad is None for weight in pipe.parameters())


def test_metrics_can_be_chosen() -> None:
    """By name, and under another name."""
    pipe, examples = TRAINABLE["classifier"].make(), TRAINABLE["classifier"].examples
    assert set(pipe.evaluate(examples, metrics=["weighted_f1"]).metrics) == {"weighted_f1"}
    assert set(pipe.evaluate(examples, metrics={"mine": "accuracy"}).metrics) == {"mine"}
    assert pipe.evaluate(examples, metrics=[]).metrics == {}
    with pytest.raises(
        TargetError, match="metric 'mae': MeanAbsoluteError must get predicted numbers, Values, got a Scor"
    ):
        pipe.evaluate(examples, metrics=["mae"])


@needs("torchmetrics")
def test_metrics_of_torchmetrics_are_taken_as_they_are() -> None:
    """Accuracy is the same as ours."""
    make: Any = import_module("torchmetrics").Accuracy
    pipe, examples = TRAINABLE["classifier"].make(), TRAINABLE["classifier"].examples
    found = pipe.evaluate(examples, metrics=["accuracy", make(task="multiclass", num_classes=3, average="micro")])
    assert found["multiclass_accuracy"] == pytest.approx(found["accuracy"])


def test_spans_have_results_by_type() -> None:
    """Instead of the tags in the table; the confusion matrix is that of the tags."""
    tags = Labels(["O", "B-per", "I-per", "B-org"])
    pipe = FromIds() >> Bucket(rows=4) >> Pad(labels=tags) >> Embed(9, 3) >> Encode("gru", hidden_size=3) >> Tag(tags)
    found = pipe.evaluate([Example([1, 2, 3], ["B-per", "I-per", "B-org"]), Example([4], ["O"])])
    assert [(each.name, each.targets) for each in found.spans[""]] == [("per", 1), ("org", 1)]
    assert found.confusion.names == list(tags)
    assert "B-per" not in str(found)


def test_the_result_is_shown_as_a_table() -> None:
    """With the rows that do not count, and for JSON."""
    labels = Labels(["ham", "spam"])
    pad = Pad(labels=labels, missing="ignore")
    pipe = FromIds() >> Bucket(rows=9) >> pad >> classifier(9, labels, hidden_size=2)
    found = pipe.evaluate([Example([1], "ham"), Example([2, 3]), Example([], "spam"), Example([4], "spam")])
    lines = str(found).splitlines()
    assert lines[0] == f"loss {found.loss:.4f}, accuracy {found['accuracy']:.4f}, macro_f1 {found['macro_f1']:.4f}"
    assert [line.split()[0] for line in lines[1:4]] == ["class", "ham", "spam"]
    assert lines[4:] == ["4 rows, 4 steps", "2 rows without a target or without steps do not count"]
    state = json.loads(json.dumps(found.to_dict()))
    assert (state["rows"], state["without_target"], state["confusions"][""]["names"]) == (4, 2, ["ham", "spam"])
    assert list(found) == ["loss", "accuracy", "macro_f1"]
    with pytest.raises(OptionError, match="the evaluation has loss, accuracy, macro_f1, got 'acuracy'. Did you mean"):
        found["acuracy"]


@needs("matplotlib")
def test_the_confusion_matrix_is_drawn(tmp_path: Path) -> None:
    """That of the only head; of others there is an error."""
    found = TRAINABLE["classifier"].make().evaluate(TRAINABLE["classifier"].examples)
    assert found.plot(tmp_path / "confusion.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(OptionError, match="head must be one with a confusion matrix, the only head, got 'label'"):
        found.plot(tmp_path / "confusion.svg", head="label")
    several = TRAINABLE["heads"].make().evaluate(TRAINABLE["heads"].examples)
    with pytest.raises(OptionError, match="head must be one with a confusion matrix, none, got None; language models"):
        several.plot(tmp_path / "confusion.svg")


def test_examples_without_targets_are_rejected() -> None:
    """No examples, inputs only, and a language model whose targets were not made."""
    pipe = TRAINABLE["classifier"].make()
    with pytest.raises(
        TargetError, match="evaluate needs examples with targets, got no example; pass inputs as Example"
    ):
        pipe.evaluate([])
    with pytest.raises(
        TargetError, match="evaluate needs examples with targets, got 2 without one; pass inputs as Exam"
    ):
        pipe.evaluate([Example([1]), Example([2, 3])])
    model = Embed(9, 4) >> Encode("lstm", hidden_size=5, causal=True) >> NextToken(9)
    with pytest.raises(TargetError, match="evaluate needs examples with targets, got 1 without one"):
        (FromIds() >> Bucket(rows=2) >> Pad() >> model).evaluate([[1, 2, 3]])
    assert (FromIds() >> Shift() >> Bucket(rows=2) >> Pad() >> model).evaluate([[1, 2, 3]]).rows == 1


def test_errors_name_the_record() -> None:
    """A target that is no label, with its place in the source."""
    pipe = TRAINABLE["classifier"].make()
    with pytest.raises(LookupError, match="target of row 1 must be one of the 3 labels, got 'maybe'"):
        pipe.evaluate(as_any(Records([Example([1], "yes"), Example([2], "maybe")])))


def test_a_pipe_without_head_is_rejected() -> None:
    """It returns no predictions."""
    pipe: Any = FromIds() >> Bucket(rows=2) >> Pad() >> Embed(9, 2) >> Encode("gru", hidden_size=2) >> Pool("max")
    with pytest.raises(CompositionError, match="evaluate needs a pipe that ends with a head, but FromIds >> "):
        pipe.evaluate([Example([1], 0)])
