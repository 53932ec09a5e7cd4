"""Tests of `Shift`."""

from pipeline import FromIds, Shift


def test_targets_are_the_next_ids() -> None:
    """The last step has no target; an empty row has an empty list."""
    row = FromIds()([5, 6, 7])
    assert Shift()(row).target == [6, 7, None]
    assert Shift()(FromIds()([])).target == []
