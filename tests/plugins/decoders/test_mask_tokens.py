"""Tests of `MaskTokens`: which tokens are chosen, what becomes of them, and when the choice is the same."""

import math
from typing import Final

import attrs
import pytest
import torch
from torch import Tensor

from pipeline import Bucket, Ids, Pack, Pad, Padded, Row, Tokenize
from pipeline.errors import OptionError, ShapeError
from pipeline.extend import IGNORED, BatchMetadata, Vectors
from pipeline.testing import check_stage
from pipeline_decoders import MaskTokens
from support.untyped import as_any, seed, to_list

MASK = 100
NO_INTEGERS: Final[list[object]] = ["3", 2.5, math.nan, True, None, -1]


def make_batch(rows: list[list[int]], extra: int = 0) -> Padded[Ids]:
    """Pad rows of ids; the padding holds an id that no table has."""
    width = max(map(len, rows)) + extra
    values = torch.tensor([[*row, *[2**40] * (width - len(row))] for row in rows])
    return Padded(Ids, values, torch.tensor([*map(len, rows)]))


def get_row(batch: Padded[Ids], row: int) -> tuple[list[int], list[int]]:
    """Return the ids and the targets of a row."""
    length, targets = int(batch.lengths[row]), batch.targets
    assert targets is not None
    return to_list(batch.values[row, :length]), to_list(targets[row, :length])


def test_shares_are_those_of_the_paper() -> None:
    """15% of the tokens, of which 80% are masked, 10% random, 10% unchanged."""
    seed(0)
    ids = torch.randint(0, 90, (200, 400))
    found = MaskTokens(90, MASK)(Padded(Ids, ids, torch.full((200,), 400)))
    targets = found.targets
    assert isinstance(targets, Tensor)
    chosen = targets != IGNORED
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.005)
    assert torch.equal(targets[chosen], ids[chosen])
    masked = found.values == MASK
    assert bool((chosen | (found.values == ids)).all())
    assert (masked.sum() / chosen.sum()).item() == pytest.approx(0.8, abs=0.01)
    # A random token is the same one in 1 of 90 cases.
    same = (chosen & (found.values == ids)).sum() / chosen.sum()
    assert same.item() == pytest.approx(0.1 + 0.1 / 90, abs=0.01)


def test_a_choice_in_training_is_drawn_again_and_follows_from_the_generator() -> None:
    """As dropout."""
    batch = make_batch([list(range(50))])
    stage = MaskTokens(90, MASK)
    seed(1)
    first, second = stage(batch), stage(batch)
    seed(1)
    assert not torch.equal(first.values, second.values)
    assert torch.equal(first.values, stage(batch).values)


@pytest.mark.parametrize("training", [True, False])
def test_each_row_has_a_target_but_an_empty_one(training: bool) -> None:
    """A row of one token too."""
    stage = MaskTokens(90, MASK, p=0.01).train(training)
    found = stage(make_batch([[5], [], [6, 7, 8]]))
    assert found.metadata.answer_mask is not None
    assert to_list(found.metadata.answer_mask.sum(1)) == [1, 0, 1]
    assert found.metadata.weight.item() == 2


def test_a_choice_in_evaluation_depends_on_the_row_only() -> None:
    """Neither on its batch, nor its place, nor the padding; but on the seed."""
    rows = [list(range(40)), [5], [], list(range(3, 70))]
    stage = MaskTokens(90, MASK).eval()
    together = stage(make_batch(rows))
    for row, ids in enumerate(rows):
        alone = stage(make_batch([ids, [1]], extra=3))
        assert get_row(alone, 0) == get_row(together, row)
    other = MaskTokens(90, MASK, seed=1).eval()(make_batch(rows))
    assert get_row(other, 3) != get_row(together, 3)


def test_steps_without_a_prediction_are_never_chosen() -> None:
    """Such as bos and eos; neither in training nor in evaluation."""
    tokenize = Tokenize.train(["a b c d e f g"], bos=True, eos=True)
    stage = MaskTokens(tokenize.vocab_size, MASK, p=1.0)
    rows = [tokenize("a b c"), tokenize("d")]
    for mode in (True, False):
        found = stage.train(mode)(Pad()(rows))
        assert found.metadata.answer_mask is not None
        assert to_list(found.metadata.answer_mask.sum(1)) == [3, 1]
        assert to_list(found.values[:, 0]) == [2, 2]


def test_a_row_with_masks_is_left_as_it_is() -> None:
    """Its masks are what is predicted, and have no target."""
    batch = make_batch([[5, MASK, 7, MASK], [5, 6, 7, 8]])
    found = MaskTokens(90, MASK).eval()(batch)
    assert found.metadata.answer_mask is not None
    assert get_row(found, 0) == ([5, MASK, 7, MASK], [IGNORED] * 4)
    assert to_list(found.metadata.answer_mask[0]) == [False, True, False, True]
    assert found.metadata.weight.item() == 1


def test_a_batch_without_steps_stays_so() -> None:
    """No choice is needed."""
    found = MaskTokens(90, MASK)(Padded(Ids, torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0])))
    assert found.values.shape == (2, 0)
    assert found.metadata.weight.item() == 0


def test_targets_of_the_examples_are_replaced() -> None:
    """Such as class names, which a corpus may have."""
    metadata = BatchMetadata(torch.tensor([4]), targets=torch.tensor([1]))
    batch = attrs.evolve(make_batch([[5, 6]]), metadata=metadata)
    found = MaskTokens(90, MASK, p=1.0)(batch)
    assert found.targets is not None
    assert to_list(found.targets) == [[5, 6]]
    assert to_list(found.row_ids) == [4]


def test_obeys_the_laws_of_stages() -> None:
    """Metadata, padding, batchmates, layouts, pickling."""
    check_stage(lambda: MaskTokens(90, MASK))


def test_rejects_vectors() -> None:
    """Before `Embed`, not after it."""
    batch = Padded(Vectors, torch.ones(1, 1, 2), torch.tensor([1]))
    with pytest.raises(ShapeError, match="must be Padded.Ids.|before Embed"):
        MaskTokens(9, 2)(as_any(batch))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[
            ({"vocab_size": each}, f"vocab_size must be an integer of at least 1, got {each!r}")
            for each in [*NO_INTEGERS, 0]
        ],
        *[({"mask_id": each}, f"mask_id must be an integer of at least 0, got {each!r}") for each in NO_INTEGERS],
        *[({"seed": each}, f"seed must be an integer of at least 0, got {each!r}") for each in NO_INTEGERS],
        ({"p": 0.0}, "p must be a finite number above 0, got 0.0"),
        ({"p": 1.5}, "p must be a number from 0 to 1, got 1.5"),
        ({"p": True}, "p must be a finite number above 0, got True"),
        ({"p": None}, "p must be a finite number above 0, got None"),
        ({"p_mask": "1"}, "p_mask must be a number from 0 to 1, got '1'"),
        ({"p_random": math.nan}, "p_random must be a number from 0 to 1, got nan"),
        ({"p_random": -0.1}, "p_random must be a number from 0 to 1, got -0.1"),
        ({"p_mask": 0.8, "p_random": 0.3}, "sum is at most 1"),
    ],
)
def test_rejects_values_of_another_type_or_range(options: dict[str, object], message: str) -> None:
    """Naming the option."""
    with pytest.raises(OptionError, match=message):
        as_any(MaskTokens)(**{"vocab_size": 9, "mask_id": 2, **options})


def test_stands_between_pad_and_pack() -> None:
    """In a chain."""
    rows = [Row(Ids(torch.tensor([5, 6, 7])))]
    batch = next(iter((Bucket(rows=2) >> Pad() >> MaskTokens(9, 2) >> Pack())(rows)))
    assert batch.metadata.weight.item() >= 1
