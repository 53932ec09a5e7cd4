"""Labels: names and ids, and the errors for invalid names."""

import pickle
from typing import cast

import numpy as np
import pytest
import torch

from pipeline import Labels, Target
from pipeline.errors import LabelError
from pipeline.labels import get_scalar, is_missing, is_step_target, to_steps
from support.untyped import as_any, to_list, untyped


def test_labels_from_targets_are_sorted_and_unique() -> None:
    """Targets may be names, lists of names, or None."""
    labels = Labels.from_targets(["b", ["c", None, "a"], None, "b"])
    assert list(labels) == ["a", "b", "c"]
    assert [labels.to_id(name) for name in labels] == [0, 1, 2]
    assert labels.to_id(2) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], r"names\[1\] must be unique, got 'a' like names\[0\]"),
        (["a", 3], r"names\[1\] must be a class name, got 3"),
        ([], "names must have at least one class, got none"),
        ("spam", r"names must be a list of class names, got one text, 'spam'; pass \['spam'\]"),
    ],
)
def test_invalid_names_raise(names: object, message: str) -> None:
    """Each with the value and a fix."""
    with pytest.raises(LabelError, match=message):
        untyped(Labels)(names)


def test_invalid_targets_raise() -> None:
    """Numbers have no names, and one text is not a list of names."""
    with pytest.raises(LabelError, match="target of row 1 must be a class name, got 3"):
        Labels.from_targets(["a", 3])
    with pytest.raises(LabelError, match="targets must be a list of class names, got one text, 'spam'"):
        Labels.from_targets("spam")


def test_unknown_targets_raise_with_the_row() -> None:
    """By name or by id."""
    labels = Labels(["a", "b"])
    with pytest.raises(LabelError, match="target of row 7 must be one of the 2 labels, got 'c'; the labels are a, b"):
        labels.to_id("c", row=7)
    with pytest.raises(LabelError, match="target must be one of the 2 labels, got 2"):
        labels.to_id(2)


def test_labels_are_a_sequence_that_can_be_pickled() -> None:
    """They are sorted if taken from targets; None is not a class."""
    assert Labels.from_targets(["b", "a", "b"]).names == ("a", "b")
    assert list(Labels.from_targets([["N", None], ["V"]])) == ["N", "V"]
    labels = Labels(["b", "a"])
    assert (labels[0], labels[:], labels.to_id("a"), labels.to_id(1), len(labels)) == ("b", ("b", "a"), 1, 1, 2)
    assert pickle.loads(pickle.dumps(labels)) == labels


def from_targets(targets: object) -> Labels:
    """Call `Labels.from_targets` with targets that a type checker rejects."""
    return cast("Labels", untyped(Labels.from_targets)(targets))


class NAType:
    """A missing value like that of pandas, whose comparisons have no truth value."""

    def __bool__(self) -> bool:
        raise TypeError

    def __repr__(self) -> str:
        return "NA"


MISSING = [None, "", float("nan"), np.float64("nan"), np.float32("nan"), torch.tensor(torch.nan), np.str_(""), NAType()]


@pytest.mark.parametrize("target", MISSING, ids=repr)
def test_missing_targets_are_no_classes(target: object) -> None:
    """As one class per row, and as one of several per row."""
    assert is_missing(target)
    assert from_targets(["a", target]).names == ("a",)
    assert from_targets([["a", target], "b"]).names == ("a", "b")


@pytest.mark.parametrize(
    "target", [0, "0", "nan", " ", False, 0.0, [], [None], np.int64(0), torch.tensor(0), b""], ids=repr
)
def test_other_targets_are_given(target: object) -> None:
    """Zero and texts that look like missing values are not missing."""
    assert not is_missing(target)


def test_scalars_and_arrays_become_plain_values() -> None:
    """Of NumPy and torch; texts of NumPy are texts."""
    assert [get_scalar(value) for value in (np.int8(3), torch.tensor(3), np.array(3), 3, "a")] == [3, 3, 3, 3, "a"]
    assert {type(get_scalar(value)) for value in (np.int8(3), torch.tensor(3), np.array(3))} == {int}
    assert [is_step_target(value) for value in (np.array([1]), torch.tensor([1]), (1,))] == [True] * 3
    assert not any(map(is_step_target, (np.array(1), torch.tensor([[1]]), "ab", b"ab", bytearray(b"ab"))))
    assert to_steps(np.array(["a", "b"])) == ["a", "b"]
    names = from_targets([np.array(["b", "a"]), ["c"]]).names
    assert names == ("a", "b", "c")
    assert {type(name) for name in names} == {str}


@pytest.mark.parametrize("number", [1, np.int64(1), torch.tensor(1), np.float64(1), 1.5, True, b"a"], ids=repr)
def test_labels_from_numbers_raise(number: object) -> None:
    """Numbers of every type are ids, and need no names. Bytes are not text."""
    with pytest.raises(LabelError, match="target of row 1 must be a class name, got"):
        from_targets(["a", number])


@pytest.mark.parametrize("names", [["1", "2", "3"], ["no", "2"], ["0", "1"], ["-1", "+1"], ["\u0663"]])
def test_numerals_as_names_are_never_taken_for_ids(names: list[str]) -> None:
    """The number 1 could be meant as the name "1" or as the second class."""
    labels = Labels(names)
    assert [labels.to_id(name) for name in names] == list(range(len(names)))
    for number in (0, 1):
        with pytest.raises(LabelError, match=r"target of row 4 must be a name, since the label '.*' is a numeral"):
            labels.to_id(number, row=4)


def test_numerals_as_targets_are_never_taken_for_ids() -> None:
    """The text "1" is no class of labels that do not have this name."""
    with pytest.raises(LabelError, match="target must be one of the 2 labels, got '1'"):
        Labels(["neg", "pos"]).to_id("1")
    assert Labels(["neg", "pos"]).to_id(1) == 1


def test_an_empty_name_can_be_asked_for() -> None:
    """By listing it; it is then a class like any other."""
    assert Labels(["", "pos"]).to_id("") == 0


def test_similar_labels_are_suggested() -> None:
    """For a name with other capitals or white space around it."""
    for name in ("Pos", " pos", "poss"):
        with pytest.raises(LabelError, match="the labels are neg, pos. Did you mean 'pos'"):
            Labels(["neg", "pos"]).to_id(name)


def test_class_weights_are_the_balanced_weights_of_scikit_learn() -> None:
    """The number of targets over the number of classes that occur and the targets of the class; names, ids and steps."""
    labels = Labels(["a", "b", "c", "d"])
    targets: list[Target] = ["a", ["b", None, "a"], 0, float("nan"), torch.tensor(2).item(), ["a"], ""]
    weights: list[float] = to_list(labels.class_weights(targets))
    # 6 targets of 3 classes: 4 of a, 1 of b, 1 of c, none of d.
    assert weights == [0.5, 2, 2, 0]
    assert sum(weight * count for weight, count in zip(weights, [4, 1, 1, 0], strict=True)) == 6
    assert to_list(labels.class_weights([])) == [0, 0, 0, 0]
    for wrong, message in (
        (["a", "e"], "target of row 1 must be one of the 4 labels, got 'e'"),
        (["a", 4], "got 4"),
        ([0.5], "got 0.5"),
        ([b"a"], "got b'a'"),
    ):
        with pytest.raises(LabelError, match=message):
            labels.class_weights(as_any(wrong))
    with pytest.raises(LabelError, match="targets must be a list of class names, got one text, 'ab'"):
        labels.class_weights("ab")


def test_labels_are_collected_from_sets() -> None:
    """Rows with several classes."""
    assert Labels.from_targets([{"b", "a"}, set(), {"c"}, None]).names == ("a", "b", "c")
