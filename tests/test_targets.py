"""Types of targets: numbers, several classes per row, and several targets by name, as Pad collates them."""

import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import (
    BPTTWindows,
    Bucket,
    Classify,
    ClassifyMultiLabel,
    Embed,
    Encode,
    Example,
    FromIds,
    Heads,
    Ids,
    Labels,
    MultiLabels,
    Numbers,
    Pack,
    Pad,
    Padded,
    Pool,
    Regress,
    Row,
    Tag,
    Target,
    Tokenize,
    TokenizeWords,
)
from pipeline.batching import Rows, Shapes
from pipeline.data.metadata import IGNORED
from pipeline.errors import CompositionError, LabelError, OptionError, TargetError
from pipeline.loading import Loader, PlannedBatches, RowDataset
from pipeline.sources import Csv
from pipeline.targets import NamedTargets, Targets, TargetType
from pipeline_recurrent import GRU
from support.untyped import as_any, to_list

LABELS = Labels(["art", "law", "sea"])
NAMED: NamedTargets = {"label": LABELS, "size": Numbers(2), "topics": MultiLabels(LABELS)}


def make_rows(targets: Sequence[Target], lengths: Sequence[int] | None = None) -> list[Row[Ids]]:
    """Return rows with these targets, of two steps unless lengths are given."""
    counts = [2] * len(targets) if lengths is None else lengths
    rows = zip(counts, targets, strict=True)
    return [Row(Ids(torch.arange(count)), target, row) for row, (count, target) in enumerate(rows)]


def get_targets(batch: Padded[Ids]) -> list[object]:
    """Return the targets of a batch as lists, None for NaN and for `IGNORED`."""
    assert batch.targets is not None
    return clean(batch.targets)


def clean(targets: Tensor) -> list[object]:
    """Return targets as lists, None for rows without one."""
    found: list[Any] = to_list(targets)
    if targets.is_floating_point():
        return [None if "nan" in str(each) else each for each in found]
    return [None if each == IGNORED else each for each in found]


@pytest.mark.parametrize(
    "number",
    [
        2,
        2.0,
        np.float32(2),
        np.int64(2),
        np.array(2.0),
        torch.tensor(2),
        torch.tensor(2.0, requires_grad=True),
        "2",
        "2e0",
    ],
)
def test_numbers_of_all_sorts_are_numbers(number: object) -> None:
    """As plain values, of NumPy and torch, and as text from a file."""
    assert get_targets(Pad(targets=Numbers())(make_rows([as_any(number), 0.5]))) == [2, 0.5]


@pytest.mark.parametrize(
    "vector",
    [[0.5, 2], (0.5, 2.0), np.array([0.5, 2]), torch.tensor([0.5, 2]), [np.float32(0.5), torch.tensor(2)]],
)
def test_vectors_of_all_sorts_are_vectors(vector: object) -> None:
    """With a fraction they are never taken for one class per step."""
    assert get_targets(Pad(targets=Numbers(2))(make_rows([as_any(vector), None][:1]))) == [[0.5, 2]]


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        (Numbers(), "a", "row 0 must be a finite number, got a str 'a'; convert it, or use None"),
        (Numbers(), True, "row 0 must be a finite number, got a bool True"),
        (Numbers(), float("inf"), "row 0 must be a finite number, got a float inf"),
        (Numbers(), 1e300, "row 0 must be a finite number, got a float 1e"),
        (Numbers(), 2**70, "row 0 must be a finite number"),
        (Numbers(), [0.5], "row 0 must be a finite number"),
        (Numbers(), {"a": 1}, "row 0 must be a finite number"),
        (Numbers(2), 0.5, "row 0 must be 2 finite numbers"),
        (Numbers(2), [0.5], "row 0 must be 2 finite numbers"),
        (Numbers(2), [0.5, float("nan")], "row 0 must be 2 finite numbers"),
        (Numbers(2), [0.5, None], "row 0 must be 2 finite numbers"),
        (Numbers(2), [[0.5, 1], [1]], "row 0 must be 2 finite numbers"),
        (MultiLabels(LABELS), "art", "row 0 must be a set of class names, got 'art'; pass set"),
        (MultiLabels(LABELS), ["art"], r"row 0 must be a set of class names, got \['art'\]; pass set"),
        (MultiLabels(LABELS), {1}, "row 0 must be a set of class names, got 1 in it; use the names"),
        (None, 0.5, r"row 0 must be a class id or a class name, got 0.5; .* Pad\(targets=Numbers"),
        (None, [0.5, 1], r"row 0 must be a class id or a class name, got \[0.5, 1\]; "),
        (None, {"art"}, r"row 0 must be a class id or a class name, got \{'art'\}; "),
    ],
)
def test_targets_of_another_type_raise_with_the_row(kind: TargetType | None, target: object, message: str) -> None:
    """And say what was expected."""
    with pytest.raises(TargetError, match=message) as info:
        Pad(targets=kind)(make_rows([as_any(target)]))
    assert info.value.details["row"] == 0


def test_an_unknown_class_in_a_set_raises() -> None:
    """With the class that was meant."""
    with pytest.raises(LabelError, match="target of row 1 must be one of the 3 labels, got 'lew'; .* mean 'law'"):
        Pad(targets=MultiLabels(LABELS))(make_rows([{"art"}, {"lew"}]))


@pytest.mark.parametrize(("kind", "target"), [(Numbers(), 0.0), (Numbers(2), [0.0, 1]), (MultiLabels(LABELS), {"art"})])
@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_missing_targets_raise_or_weigh_nothing(kind: TargetType, target: Target, missing: Target) -> None:
    """So do those of empty rows, and a batch of missing ones."""
    with pytest.raises(TargetError, match=r'row 1 has .*: Pad\(missing="ignore"\)'):
        Pad(targets=kind)(make_rows([target, missing]))
    pad = Pad(targets=kind, missing="ignore")
    batch = pad(make_rows([target, missing, target], [2, 2, 0]))
    assert [each is not None for each in get_targets(batch)] == [True, False, False]
    assert batch.metadata.weight == 1
    assert pad(make_rows([missing])).metadata.weight == 0
    assert Pad(targets=kind)(make_rows([missing])).targets is None


def test_missing_classes_weigh_nothing() -> None:
    """Per row, per step, and in a batch in which no row has one."""
    pad = Pad(labels=LABELS, missing="ignore")
    assert get_targets(pad(make_rows([None, "sea"]))) == [None, 2]
    assert get_targets(pad(make_rows([None, ["sea", None]]))) == [[IGNORED] * 2, [2, IGNORED]]
    assert get_targets(pad(make_rows([None, None]))) == [None, None]


def test_several_targets_have_a_tensor_each() -> None:
    """Each may be missing in a row, or in all of a batch."""
    pad = Pad(targets=NAMED)
    batch = pad(make_rows([{"label": "law", "size": [1, 2]}, {"topics": {"sea"}, "size": None}, {}]))
    assert batch.targets is None
    assert batch.named_targets is not None
    found = {name: clean(targets) for name, targets in batch.named_targets.items()}
    assert found == {"label": [1, None, None], "size": [[1, 2], None, None], "topics": [None, [0, 0, 1], None]}
    assert {name: int(weight) for name, weight in batch.metadata.weights.items()} == {
        "label": 1,
        "size": 1,
        "topics": 1,
    }
    assert pad(make_rows([{}])).metadata.weights.keys() == NAMED.keys()
    assert pad(make_rows([None, None])).named_targets is None
    ignored = Pad(targets=NAMED, missing="ignore")(make_rows([None, {"label": "law"}, None])).metadata.weights
    assert [int(weight) for weight in ignored.values()] == [1, 0, 0]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([{"label": "law"}, None], r'row 1 has no target, but other rows .*: Pad\(missing="ignore"\)'),
        (
            [{"label": "law"}, "law"],
            "row 1 must be a mapping with label, size, topics, got .* give each target its name",
        ),
        ([{"lable": "law"}], "row 0 has the name 'lable', but targets are label, size, topics.* mean 'label'"),
        ([{"label": 0.5}], "row 0 must be a class id or a class name, got 0.5"),
    ],
)
def test_several_targets_that_do_not_fit_raise(targets: list[Target], message: str) -> None:
    """With the row."""
    with pytest.raises(TargetError, match=message):
        Pad(targets=NAMED)(make_rows(targets))


@pytest.mark.parametrize("targets", [LABELS.names, "number", Numbers, {}, {"a": None}, {"a": "b"}, 3])
def test_types_of_targets_that_are_none_raise(targets: object) -> None:
    """They would be ignored."""
    with pytest.raises(
        OptionError, match="targets must be Labels, Numbers, MultiLabels, Texts, or one of these for each name"
    ):
        Pad(targets=as_any(targets))


@pytest.mark.parametrize("names", [["ham", "spam"], ("ham", "spam"), {"ham"}, 2.0, "ham"])
def test_names_that_are_no_labels_raise(names: object) -> None:
    """Everywhere, and not at the first batch; ids of several stages could differ."""
    for make in (as_any(MultiLabels), partial(as_any(Pad), Ids)):
        with pytest.raises(OptionError, match=r"labels must be Labels, got .*; pass Labels\("):
            make(labels=names)
    for head in (as_any(Classify), as_any(Tag), as_any(ClassifyMultiLabel)):
        with pytest.raises(OptionError, match=r"classes must be a number of classes or Labels for .*; pass Labels\("):
            head(names)


def test_types_of_targets_do_not_fit_labels() -> None:
    """Both say what targets are."""
    with pytest.raises(OptionError, match="Pad takes labels or targets, got both"):
        Pad(labels=LABELS, targets=Numbers())
    with pytest.raises(OptionError, match="size must be"):
        Numbers(0)


TARGETS: list[tuple[Targets | NamedTargets, Target]] = [
    (Numbers(), 0.5),
    (Numbers(2), [0.5, 2]),
    (Numbers(2), [1, 2]),
    (MultiLabels(LABELS), {"law"}),
    (
        {"label": LABELS, "size": Numbers(3), "tags": LABELS},
        {"label": "law", "size": [1, 2, 0.5], "tags": ["sea", "art"]},
    ),
]


@pytest.mark.parametrize(("kind", "target"), TARGETS)
def test_fillers_have_no_target(kind: Targets | NamedTargets, target: Target) -> None:
    """Whatever the type of the targets is."""
    batch = Pad(policy=Shapes([(4, 4)]), targets=kind)(make_rows([target, target]))
    assert len(batch.lengths) == 4
    weights = batch.metadata.weights or {"": batch.metadata.weight}
    assert {name: int(weight) for name, weight in weights.items()} == {
        name: 4 if name == "tags" else 2 for name in weights
    }


@pytest.mark.parametrize(("kind", "target"), [each for each in TARGETS if each[1] != [1, 2]])
def test_parts_of_a_row_have_its_target(kind: Targets | NamedTargets, target: Target) -> None:
    """In windows, and if long rows are split; targets per step are cut."""
    rows = make_rows([target])
    whole = Pad(targets=kind)(rows)
    for batches in (BPTTWindows(rows=2, steps=1)(rows), Bucket(max_padded_steps=1, too_long="split", seed=None)(rows)):
        found = [Pad(targets=kind)(batch) for batch in batches]
        assert len(found) == 2
        for number, part in enumerate(found):
            if whole.targets is not None:
                assert part.targets is not None
                assert torch.equal(part.targets[0], whole.targets[0])
                continue
            assert whole.named_targets is not None
            assert part.named_targets is not None
            for name, targets in part.named_targets.items():
                expected = whole.named_targets[name][0]
                assert torch.equal(targets[0], expected[number : number + 1] if name == "tags" else expected)


def test_a_vector_of_integers_that_would_be_cut_raises() -> None:
    """It is taken for one class per step: the error says to pass floats."""
    with pytest.raises(TargetError, match="got 3 for 2 steps; use None .*, and floats for a vector of numbers"):
        list(Bucket(max_padded_steps=1, too_long="split")(make_rows([[1, 2, 3]])))


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_send_targets_of_all_types(workers: int) -> None:
    """Batches are pickled."""
    examples = [Example([1, 2], target={"label": "law", "size": [0.5, float(row)]}) for row in range(4)]
    pad = Pad(targets=pickle.loads(pickle.dumps(NAMED)))
    loader = Loader(
        RowDataset(examples, FromIds()), PlannedBatches([2] * 4, Rows(2), seed=None), pad, num_workers=workers
    )
    sizes = [size for batch in loader if batch.named_targets for size in to_list(batch.named_targets["size"])]
    assert sorted(sizes) == [[0.5, row] for row in range(4)]


def test_tokenizers_keep_targets_of_the_whole_row() -> None:
    """Vectors, sets and mappings; one class per word is aligned with the word's first token, in mappings too."""
    tokenize = Tokenize.train(["a b"], bos=True)
    for target in ([0.5, 1], {"law"}, {"size": [0.5, 1]}, torch.tensor([1.0, 2])):
        assert tokenize(Example("a b", target=as_any(target))).target is target or target == {"size": [0.5, 1]}
    words = TokenizeWords.train([["ab", "b"]], "characters", bos=True, max_length=3)
    row = words(Example(["ab", "b"], target={"tags": ["sea", "law"], "label": "art", "size": [0.5, 1, 2]}))
    assert row.target == {"tags": [None, "sea", None], "label": "art", "size": [0.5, 1, 2]}
    assert row.answer_mask == [False, True, False]
    assert words(Example(["ab", "b"], target={})).answer_mask == [False, True, False]


def test_numbers_are_read_from_a_file(tmp_path: Path) -> None:
    """They are texts there."""
    file = tmp_path / "own.csv"
    file.write_text("text,price\na b,2.5\nb,\n", encoding="utf-8")
    source = Csv(file, text="text", target="price")
    data = Tokenize.train(source.inputs()) >> Bucket(rows=2, seed=None) >> Pad(targets=Numbers(), missing="ignore")
    assert [get_targets(batch) for batch in data(source)] == [[2.5, None]]


def test_an_error_of_one_of_several_targets_names_it() -> None:
    """The row alone leaves open which of its targets is wrong."""
    pad = Pad(targets={"kind": Labels(["a", "b"]), "size": Numbers()})
    with pytest.raises(
        TargetError, match="target 'size': the target of row 1 must be a finite number, got a str 'big'"
    ):
        pad(make_rows([{"kind": "a"}, {"size": "big"}]))
    with pytest.raises(LabelError, match="target 'kind': target of row 0 must be one of the 2 labels, got 'c'"):
        pad(make_rows([{"kind": "c"}]))


def test_heads_that_name_classes_differently_raise() -> None:
    """As a single head does; compared by the name of the target."""
    other = Labels(["law", "art"])
    body = Pack() >> Embed(9, 4) >> Encode(GRU(4, 3)) >> Pool("mean")
    with pytest.raises(CompositionError, match="must have the same labels, but class 0 is 'art' in one and 'law'"):
        _ = Pad(targets=MultiLabels(LABELS)) >> body >> ClassifyMultiLabel(other)
    heads = Heads(Classify(other), Classify(other), names=["a", "b"])
    with pytest.raises(CompositionError, match="must have the same labels of target 'b', but class 0 is 'art' in one"):
        _ = Pad(targets={"a": other, "b": LABELS}) >> body >> heads
    pipe = Pad(targets={"a": other, "b": MultiLabels(LABELS)}) >> body
    _ = pipe >> Heads(Classify(other), ClassifyMultiLabel(LABELS), Regress(), names=["a", "b", "c"])


def test_a_batch_without_tags_has_no_loss_of_tags() -> None:
    """Its other heads have one."""
    pad = Pad(targets={"tags": LABELS, "label": LABELS})
    model = (
        Pack()
        >> Embed(9, 4)
        >> Encode(GRU(4, 3))
        >> Heads(Tag(LABELS), Pool("mean") >> Classify(LABELS), names=["tags", "label"])
    )
    losses = model(pad(make_rows([{"label": "law"}, {"label": "sea"}]))).losses()
    assert losses["tags"] == 0
    assert losses["label"] > 0
