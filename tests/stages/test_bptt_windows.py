"""Tests of `BPTTWindows`."""

import itertools
from collections.abc import Iterator
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline import (
    BPTTWindows,
    Causal,
    Embed,
    Encode,
    FromFeatures,
    FromIds,
    Ids,
    NextToken,
    Pack,
    Pad,
    Padded,
    Row,
    Shift,
    States,
    Tag,
    Vectors,
)
from pipeline.data.rows import FILLER
from pipeline.errors import LengthError, OptionError, ShapeError, TargetError
from pipeline_recurrent import GRU, LSTM
from support.untyped import seed, to_list

TOKENS = 11


def texts(counts: list[int]) -> list[list[int]]:
    """Return rows of ids, all different."""
    return [[(row * 5 + step * 3) % TOKENS for step in range(count)] for row, count in enumerate(counts)]


def rows_of(counts: list[int]) -> list[Row[Ids]]:
    """Return these as rows, with the next id as each step's target."""
    return [Shift()(row) for row in FromIds().map(texts(counts))]


@given(counts=st.lists(st.integers(0, 14), max_size=12), rows=st.integers(1, 4), steps=st.integers(1, 5))
def test_windows_are_the_rows_without_loss(counts: list[int], rows: int, steps: int) -> None:
    """Steps and targets, joined by row id; a window starts where the window before it in its lane ended."""
    batches = list(BPTTWindows(rows=rows, steps=steps)(rows_of(counts)))
    found: dict[int, tuple[list[int], list[object]]] = {}
    for batch in batches:
        assert len(batch) == rows
        for row in batch:
            assert len(row) <= steps
            values, targets = found.setdefault(row.row_id, ([], []))
            assert row.row_id == FILLER or row.start_step == len(values)
            values += to_list(row.sequence.values)
            targets += cast("list[object]", row.target or [])
    assert found.pop(FILLER, ([], [])) == ([], [])
    assert found == {row.row_id: (to_list(row.sequence.values), row.target) for row in rows_of(counts)}
    for before, after in itertools.pairwise(batches):
        for old, new in zip(before, after, strict=True):
            assert new.start_step in {0, old.start_step + len(old)}
            assert not new.start_step or new.row_id == old.row_id


@given(counts=st.lists(st.integers(1, 14), min_size=1, max_size=12), rows=st.integers(1, 4), steps=st.integers(1, 5))
def test_no_lane_is_idle_while_rows_are_left(counts: list[int], rows: int, steps: int) -> None:
    """A free lane takes the next row, so lanes are idle only during the windows of the last rows."""
    batches = list(BPTTWindows(rows=rows, steps=steps)(rows_of(counts)))
    windows = [-(-count // steps) for count in counts]
    idle = [sum(row.row_id == FILLER for row in batch) for batch in batches]
    assert sum(idle) == len(batches) * rows - sum(windows)
    assert idle == sorted(idle)
    assert sum(map(bool, idle)) <= max(windows) or len(counts) < rows


def test_rows_are_read_when_a_lane_needs_them() -> None:
    """At most one row per lane is held."""
    taken: list[int] = []

    def endless() -> Iterator[Row[Ids]]:
        for row in itertools.count():
            taken.append(row)
            yield Row(Ids(torch.zeros(4, dtype=torch.int64)), row_id=row)

    batches = BPTTWindows(rows=3, steps=2)(endless())
    for turn in range(10):
        next(batches)
        assert len(taken) == 3 * (turn // 2 + 1)


def encode_one_by_one(rnn: nn.LSTM | nn.GRU | nn.RNN, vectors: list[Tensor]) -> list[Tensor]:
    """Return the hidden vectors of each whole row, by torch's own module."""
    return [rnn(row)[0] if len(row) else row.new_zeros(0, rnn.hidden_size) for row in vectors]


@pytest.mark.parametrize("encoder", [LSTM(4, 5, num_layers=2), GRU(4, 5, num_layers=2)], ids=["lstm", "gru"])
@pytest.mark.parametrize(("rows", "steps"), [(1, 3), (2, 4), (3, 1), (5, 20)])
def test_carried_states_equal_those_of_whole_rows(encoder: LSTM[Causal] | GRU[Causal], rows: int, steps: int) -> None:
    """An encoder has the same hidden vectors over windows as over whole rows."""
    seed(0)
    counts = [9, 0, 4, 17, 1, 8, 3]
    embed = Embed(TOKENS, 4).double()
    encode = Encode(encoder).double()
    model = Pack() >> embed >> encode
    hidden: dict[int, list[Tensor]] = {row: [] for row in range(len(counts))}
    before: States[Causal] | None = None
    for window in BPTTWindows(rows=rows, steps=steps)(rows_of(counts)):
        batch = Pad()(window)
        before = model(batch.with_carry(before))
        padded = before.padded()
        for row, length, values in zip(
            to_list(batch.metadata.row_ids), to_list(batch.lengths), padded.values, strict=True
        ):
            if row != FILLER:
                hidden[row].append(values[:length])
    vectors = [embed.weight[torch.tensor(row, dtype=torch.int64)] for row in texts(counts)]
    for row, wanted in enumerate(encode_one_by_one(encoder.rnn, vectors)):
        torch.testing.assert_close(torch.cat(hidden[row]), wanted)


def test_gradients_stop_between_windows() -> None:
    """The carry is detached, so the graph of the batch before is not kept alive."""
    encode = Embed(TOKENS, 4) >> Encode(LSTM(4, 5))
    first, second = itertools.islice(BPTTWindows(rows=1, steps=2)(rows_of([4])), 2)
    states = encode(Pad()(first))
    batch = Pad()(second).with_carry(states)
    assert batch.initial_carry is not None
    assert not any(state.requires_grad for state in batch.initial_carry)
    assert states.carry is not None
    torch.testing.assert_close(batch.initial_carry[0], states.carry[0])


def test_a_new_row_starts_from_zeros() -> None:
    """Even if the row before it in its lane ended in NaN."""
    states = (Embed(TOKENS, 4) >> Encode(LSTM(4, 5)))(Pad()(rows_of([2, 3])))
    assert states.carry is not None
    for state in states.carry:
        state.detach()[:, 0] = torch.nan
    rows = [Row(Ids(torch.tensor([1])), row_id=2), Row(Ids(torch.tensor([1])), row_id=1, start_step=3)]
    batch = Pad()(rows).with_carry(states)
    assert batch.initial_carry is not None
    assert all(not state[:, 0].any() and state[:, 1].all() for state in batch.initial_carry)


def test_missing_or_wrong_states_raise() -> None:
    """A row that continues needs states of the same number of rows, with a carry."""
    continuing = Pad()([Row(Ids(torch.tensor([1])), row_id=7, start_step=3)])
    with pytest.raises(
        OptionError, match="before must be the states of the preceding batch, got None, but row 7 continues at step 3"
    ):
        continuing.with_carry(None)
    two = (Embed(TOKENS, 4) >> Encode(LSTM(4, 5)))(Pad()(rows_of([2, 3])))
    with pytest.raises(ShapeError, match=r"carry\[0\] must be layers x batch x size with a batch of 1"):
        continuing.with_carry(two)
    plain = States.from_padded(torch.zeros(1, 2, 3), torch.tensor([2]))
    with pytest.raises(ShapeError, match="before must be states with a carry"):
        continuing.with_carry(cast("States[Causal]", plain))
    fresh = Pad()(rows_of([2]))
    assert fresh.with_carry(None).initial_carry is None


def test_the_loss_of_windows_is_that_of_rows() -> None:
    """The losses of all windows sum up to the loss of the rows; filler rows have no weight."""
    seed(1)
    embed = Embed(TOKENS, 4).double()
    states = Pack() >> embed >> Encode(LSTM(4, 5)).double()
    head = NextToken(TOKENS, input_size=5).double()
    rows = rows_of([7, 3, 5])
    whole = Pad()(rows)
    wanted = head(states(whole)).loss(over=1)
    total, before, weight = 0.0, None, 0
    for window in BPTTWindows(rows=2, steps=3)(rows):
        batch = Pad()(window)
        before = states(batch.with_carry(before))
        scores = head(before)
        total += float(scores.loss(over=1).detach())
        weight += int(batch.metadata.weight)
        assert FILLER not in [row for row, _ in scores.rows()]
    assert weight == whole.metadata.weight
    assert total == pytest.approx(float(wanted.detach()))


def test_filler_rows_are_not_reported() -> None:
    """They do not change the kind of the targets either: one class per row stays so."""
    rows = [Row(Ids(torch.arange(3)), target=2, row_id=4), Row(Ids(torch.arange(1)), target=1, row_id=5)]
    *_, last = BPTTWindows(rows=2, steps=2)(rows)
    batch = Pad()(last)
    assert to_list(batch.metadata.row_ids) == [4, FILLER]
    assert batch.metadata.targets is not None
    assert batch.metadata.weight == 1
    assert (batch.report().rows, batch.report().steps, batch.report().padded) == (1, 1, 2)


def test_vectors_are_cut_along_time() -> None:
    """Rows of features have windows too."""
    pipe = FromFeatures() >> BPTTWindows(Vectors, rows=1, steps=2) >> Pad(Vectors)
    batches: list[Padded[Vectors]] = list(pipe([torch.arange(6.0).reshape(3, 2)]))
    assert [to_list(batch.values) for batch in batches] == [[[[0, 1], [2, 3]]], [[[4, 5]]]]


def test_prediction_needs_rows_of_one_window() -> None:
    """A row has one prediction; a longer row raises an error with its id."""
    seed(2)
    pipe = FromIds() >> BPTTWindows(rows=2, steps=4) >> Pad() >> Embed(TOKENS, 4) >> Encode(LSTM(4, 5)) >> Tag(3)
    inputs = texts([3, 0, 4])
    assert [len(tags) for tags in pipe.predict(inputs)] == [3, 0, 4]
    with pytest.raises(LengthError, match="row 1 has 5 steps, but a window has 4, and a row has one prediction"):
        list(pipe.predict(texts([1, 5])))


def test_invalid_options_and_rows_raise() -> None:
    """With the rule, the value and the row."""
    with pytest.raises(OptionError, match="rows must be an integer of at least 1, got 0"):
        BPTTWindows(rows=0, steps=3)
    with pytest.raises(OptionError, match="steps must be an integer of at least 1, got 0"):
        BPTTWindows(rows=3, steps=0)
    with pytest.raises(ShapeError, match="item 1 must be a Row of Ids, got a str"):
        list(BPTTWindows(rows=2, steps=2)(cast("list[Row[Ids]]", [*rows_of([1]), "row"])))
    with pytest.raises(TargetError, match="target of row 3 must have one entry per step, got 2 for 5"):
        list(BPTTWindows(rows=1, steps=2)([Row(Ids(torch.arange(5)), [0, 1], 3)]))
