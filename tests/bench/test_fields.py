"""The benchmark of rows with four fields: both models are the same, and the table has its figures."""

import torch

from bench.measurements.fields import Event, HandWritten, Sizes, draw_batches, make_chain, measure_fields, tabulate
from pipeline import Pad

SMALL = Sizes(rows=12, longest=5, padded=20, embedding=3, hidden=2)


def test_both_models_have_the_same_loss() -> None:
    """On every batch."""
    weights = HandWritten(SMALL.embedding, SMALL.hidden)
    model = make_chain(weights)
    for rows in draw_batches(SMALL):
        torch.testing.assert_close(model(Pad(Event)(rows)).loss(), weights.compute_loss(rows))


def test_epochs_and_checks_are_measured() -> None:
    """A row per measurement, with the speedup and the share of the checks."""
    result = measure_fields(SMALL, 1, rounds=2, check_rounds=2)
    (row,) = tabulate([result]).rows
    assert set(result.times) == {"by hand", "ours", "checked", "unchecked"}
    assert row[-1].endswith("%)")
