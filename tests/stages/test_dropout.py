"""Tests of `Dropout`."""

import pytest
import torch

from pipeline import Dropout, Encode, Ids, Padded, Pool, States, Vectors
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import OptionError, ShapeError
from pipeline_recurrent import LSTM
from support.untyped import as_any, count_distinct_rows, seed, to_list

LENGTHS = torch.tensor([3, 0, 1])


def ids(padding: int = 0) -> Padded[Ids]:
    """Return three rows, one of them empty, with this padding."""
    values = torch.tensor([[4, 2, 4], [padding] * 3, [1, padding, padding]])
    return Padded(Ids, values, LENGTHS, metadata=BatchMetadata(torch.tensor([7, 8, 9])))


def test_masks_are_drawn_per_step_or_per_row() -> None:
    """Other values are scaled up; in evaluation mode nothing changes."""
    seed(0)
    batch = Padded(Vectors, torch.ones(2, 50, 8), torch.tensor([50, 50]))
    states = States.from_padded(batch.values, batch.lengths)
    for value in (batch, batch.packed(), states, States(states.packed(), states.final)):
        each, row = Dropout(0.5)(value), Dropout(0.5, per="row")(value)
        assert set(to_list(each.padded().values.flatten())) == {0.0, 2.0}
        assert count_distinct_rows(each.padded().values.reshape(-1, 8)) > 2
        rows = row.padded().values
        assert all(count_distinct_rows(steps) == 1 for steps in rows)
        assert set(to_list(rows.flatten())) == {0.0, 2.0}
        assert not torch.equal(rows[0], rows[1])
        assert Dropout(0.5).eval()(value) is value
    pooled = Pool("max")(states)
    assert set(to_list(Dropout(0.75, per="row")(pooled).values.flatten())) == {0.0, 4.0}


def test_padding_has_no_effect() -> None:
    """NaN in padding does not reach real steps."""
    values = torch.ones(1, 3, 4)
    values[0, 2] = torch.nan
    batch = Padded(Vectors, values, torch.tensor([2]))
    for per in ("step", "row"):
        states = Encode(LSTM(4, 2))(Dropout(0.5, per="row" if per == "row" else "step")(batch))
        assert states.packed().values.isfinite().all()


def test_invalid_options_and_inputs_raise() -> None:
    """With the rule and the value."""
    with pytest.raises(OptionError, match="p must be a probability, 0 <= p < 1, got 1.0"):
        Dropout(1.0)
    with pytest.raises(
        ShapeError, match="the input of Dropout must hold vectors, got a Padded without any; put it after Embed"
    ):
        as_any(Dropout())(ids())
