"""Labels: names and ids, and the errors for invalid names."""

import pickle

import pytest

from pipeline import Labels
from pipeline.errors import LabelError
from support.untyped import untyped


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
