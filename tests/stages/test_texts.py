"""Tests of `Texts`: target texts in a batch."""

import pytest
import torch
from torch import Tensor

from pipeline import Ids, Labels, Numbers, Pad, Padded, Row, Target, Texts, Tokenize
from pipeline.errors import OptionError, TargetError
from pipeline.targets import TargetType
from support.untyped import as_any, to_list

TOKENIZE = Tokenize.train(["a b c"], bos=True, eos=True)


def make_batch(targets: list[Target], pad: Pad[Ids]) -> Padded[Ids]:
    """Return a batch of rows of one, two, ... steps with these targets."""
    return pad([Row(Ids(torch.arange(1, number + 2)), target, number) for number, target in enumerate(targets)])


def test_targets_have_lengths_of_their_own() -> None:
    """Their tokens and eos; the lengths are on the CPU, and the weight is the number of tokens."""
    batch = make_batch(["c b a c", "a"], Pad(targets=Texts(TOKENIZE)))
    assert batch.values.shape == (2, 2)
    assert isinstance(batch.targets, Tensor)
    assert to_list(batch.targets) == [[6, 5, 4, 6, 3], [4, 3, -100, -100, -100]]
    assert batch.metadata.target_lengths is not None
    assert to_list(batch.metadata.target_lengths[""]) == [5, 2]
    assert batch.metadata.weight.item() == 7
    assert batch.packed().to("meta").metadata.target_lengths is batch.metadata.target_lengths


def test_rows_without_a_target_have_no_tokens() -> None:
    """Neither has a row without steps, as for any target."""
    pad = Pad(targets=Texts(TOKENIZE), missing="ignore")
    rows = [Row(Ids(torch.tensor([1])), None), Row(Ids(torch.zeros(0, dtype=torch.int64)), "a b")]
    batch = pad(rows)
    assert batch.metadata.target_lengths is not None
    assert to_list(batch.metadata.target_lengths[""]) == [0, 0]
    with pytest.raises(TargetError, match="has no target"):
        make_batch(["a", None], Pad(targets=Texts(TOKENIZE)))


def test_a_batch_without_targets_has_none() -> None:
    """As in prediction."""
    batch = make_batch([None, None], Pad(targets=Texts(TOKENIZE)))
    assert batch.targets is None
    assert batch.metadata.target_lengths is None


def test_one_of_several_targets_by_name() -> None:
    """Others keep their types."""
    kinds: dict[str, Labels | TargetType] = {"text": Texts(TOKENIZE), "label": Labels(["x", "y"]), "number": Numbers()}
    batch = make_batch(
        [{"text": "a b", "label": "y", "number": 2.0}, {"text": "c", "label": "x", "number": 1.0}], Pad(targets=kinds)
    )
    selected = batch.metadata.select_targets("text")
    assert selected.target_lengths is not None
    assert to_list(selected.target_lengths[""]) == [3, 2]
    assert batch.metadata.select_targets("label").target_lengths is None
    assert {name: int(weight) for name, weight in batch.metadata.weights.items()} == {
        "text": 5,
        "label": 2,
        "number": 2,
    }


def test_long_targets_are_truncated_before_eos() -> None:
    """With the maximum length of their tokenizer."""
    tokenize = Tokenize(TOKENIZE.tokenizer, bos=True, eos=True, max_length=4)
    batch = make_batch(["a b c a"], Pad(targets=Texts(tokenize)))
    assert isinstance(batch.targets, Tensor)
    assert to_list(batch.targets) == [[4, 5, 3]]


@pytest.mark.parametrize("target", [1, 2.5, {"a"}, ["a", "b"]])
def test_a_target_that_is_no_text_raises(target: Target) -> None:
    """With its row."""
    with pytest.raises(TargetError, match="row 0 must be a text"):
        make_batch([target], Pad(targets=Texts(TOKENIZE)))


def test_rejects_tokenizers_without_ends() -> None:
    """And what is no tokenizer."""
    with pytest.raises(OptionError, match="bos=True, eos=True"):
        Texts(Tokenize.train(["a"], eos=True))
    with pytest.raises(OptionError, match="must be a Tokenize stage"):
        Texts(as_any("words"))
