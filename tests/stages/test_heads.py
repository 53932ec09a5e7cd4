"""Test the options of heads: values of another type raise an error that names the option, its rule and the value."""

from collections.abc import Callable

import pytest

from pipeline import Classify, ClassifyMultiLabel, NextToken, Regress, Tag
from pipeline.errors import OptionError
from pipeline_heads import CRF
from support.untyped import untyped


@pytest.mark.parametrize("head", [Classify, Tag, CRF, ClassifyMultiLabel, NextToken, Regress])
def test_sizes_of_another_type_are_rejected(head: Callable[..., object]) -> None:
    """Torch would say that it cannot unpack an object."""
    for size in ("3", 2.0, 0):
        with pytest.raises(OptionError, match=f"input_size must be an integer of at least 1, got {size!r}"):
            head(2, input_size=size)


@pytest.mark.parametrize("head", [Classify, Tag, CRF, ClassifyMultiLabel])
def test_classes_are_a_number_or_labels(head: Callable[..., object]) -> None:
    """True would be one class."""
    for classes in ("3", 2.0, True, ["good", "bad"]):
        with pytest.raises(OptionError, match="classes must be a number of classes or Labels for .*, got "):
            head(classes)


def test_tokens_are_a_number_or_an_embedding() -> None:
    """The embedding's weights are shared."""
    for tokens in ("9", 9.0, None):
        with pytest.raises(OptionError, match=f"tokens must be the number of tokens, or the Embed .*, got {tokens!r}"):
            untyped(NextToken)(tokens)
