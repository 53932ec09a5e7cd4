"""Tests of `WordDropout`."""

import pytest
import torch

from pipeline import Embed, Ids, Packed, Padded, Tokenize, Vectors, WordDropout
from pipeline.data.batches import Batch
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import OptionError, ShapeError
from pipeline.testing import STAGE_LAWS, Law
from support.untyped import as_any, to_list


def make_batch() -> Padded[Ids]:
    """Return 40 rows of up to 50 ids, with padding that is no id."""
    lengths = torch.arange(10, 50)
    values = torch.full((40, 50), 7).masked_fill(torch.arange(50) >= lengths.unsqueeze(1), -5)
    return Padded(Ids, values, lengths, metadata=BatchMetadata(torch.arange(40) + 3))


@pytest.mark.parametrize("law", STAGE_LAWS)
def test_obeys_the_laws(law: Law[WordDropout]) -> None:
    """In evaluation."""
    law(lambda: WordDropout(0.3))


def test_ids_are_replaced_with_the_stated_probability() -> None:
    """In both layouts, each step by itself; row ids are kept, and the batch is not changed."""
    dropout, batch = WordDropout(0.3, unk_id=2), make_batch()
    both: tuple[Batch[Ids], ...] = (batch, batch.packed())
    for each in both:
        found = dropout(each)
        assert type(found) is type(each)
        values = found.packed().values
        assert set(to_list(values)) == {2, 7}
        assert float((values == 2).float().mean()) == pytest.approx(0.3, abs=0.05)
        assert found.metadata is each.metadata
    assert torch.equal(batch.values, make_batch().values)


def test_evaluation_and_zero_change_nothing() -> None:
    """The batch itself is returned."""
    batch = make_batch()
    assert WordDropout(0.9).eval()(batch) is batch
    assert WordDropout(0)(batch) is batch


def test_seed_determines_the_replaced_ids() -> None:
    """Torch's own generator."""
    torch.default_generator.manual_seed(0)
    one = WordDropout(0.5)(make_batch()).values
    torch.default_generator.manual_seed(0)
    assert torch.equal(WordDropout(0.5)(make_batch()).values, one)


def test_empty_batch_is_kept() -> None:
    """Rows without steps."""
    empty = Packed(Ids, torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]))
    assert not len(WordDropout(0.5)(empty).values)


def test_unknown_token_of_a_tokenizer() -> None:
    """`unk_id` is that of the tokenizer; a pipe may have both stages."""
    tokenize = Tokenize.train(["to be"], unk_token="[UNK]")
    assert tokenize.unk_id == tokenize.tokenizer.vocabulary["[UNK]"]
    assert (WordDropout(0.2, tokenize.unk_id) >> Embed(9, 3))(make_batch().fill_padding(0)).kind is Vectors
    with pytest.raises(OptionError, match=r"the tokenizer has no unknown token"):
        _ = Tokenize.train(["to be"], "bytes", unk_token=None).unk_id


def test_wrong_options_and_inputs_raise() -> None:
    """With the rule."""
    for p in (-0.1, 1.0):
        with pytest.raises(OptionError, match=r"p must be a probability, 0 <= p < 1"):
            WordDropout(p)
    with pytest.raises(OptionError, match=r"unk_id must be an integer of at least 0, got -1"):
        WordDropout(0.1, unk_id=-1)
    with pytest.raises(ShapeError, match=r"must be Ids, got Vectors"):
        WordDropout(0.1)(as_any(Padded(Vectors, torch.ones(1, 1, 1), torch.tensor([1]))))
