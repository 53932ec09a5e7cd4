"""BPTTWindows: rows in windows that go on where the batch before ended, and the states that go along."""

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
from support.untyped import listed, seed

TOKENS = 11


def texts(counts: list[int]) -> list[list[int]]:
    """Rows of ids, no two alike."""
    return [[(place * 5 + step * 3) % TOKENS for step in range(count)] for place, count in enumerate(counts)]


def rows_of(counts: list[int]) -> list[Row[Ids]]:
    """The same as rows, the next id as each step's target."""
    return [Shift()(row) for row in FromIds().map(texts(counts))]


@given(counts=st.lists(st.integers(0, 14), max_size=12), rows=st.integers(1, 4), steps=st.integers(1, 5))
def test_windows_give_each_row_back(counts: list[int], rows: int, steps: int) -> None:
    """Joined by place: steps and targets; a window goes on where the one before it in its lane ended."""
    batches = list(BPTTWindows(rows=rows, steps=steps)(rows_of(counts)))
    found: dict[int, tuple[list[int], list[object]]] = {}
    for batch in batches:
        assert len(batch) == rows
        for row in batch:
            assert len(row) <= steps
            values, targets = found.setdefault(row.row_id, ([], []))
            assert row.row_id == FILLER or row.start_step == len(values)
            values += listed(row.sequence.values)
            targets += cast("list[object]", row.target)
    assert found.pop(FILLER, ([], [])) == ([], [])
    assert found == {row.row_id: (listed(row.sequence.values), row.target) for row in rows_of(counts)}
    for before, after in itertools.pairwise(batches):
        for old, new in zip(before, after, strict=True):
            assert new.start_step in {0, old.start_step + len(old)}
            assert not new.start_step or new.row_id == old.row_id


@given(counts=st.lists(st.integers(1, 14), min_size=1, max_size=12), rows=st.integers(1, 4), steps=st.integers(1, 5))
def test_no_lane_is_idle_while_rows_are_left(counts: list[int], rows: int, steps: int) -> None:
    """A free lane takes the next row: the lanes end within the windows of one row of each other."""
    batches = list(BPTTWindows(rows=rows, steps=steps)(rows_of(counts)))
    windows = [-(-count // steps) for count in counts]
    idle = [sum(row.row_id == FILLER for row in batch) for batch in batches]
    assert sum(idle) == len(batches) * rows - sum(windows)
    assert idle == sorted(idle)
    assert sum(map(bool, idle)) <= max(windows) or len(counts) < rows


def test_endless_rows_are_read_as_they_are_played() -> None:
    """No more is held than a row a lane."""
    taken: list[int] = []

    def endless() -> Iterator[Row[Ids]]:
        for place in itertools.count():
            taken.append(place)
            yield Row(Ids(torch.zeros(4, dtype=torch.int64)), row_id=place)

    batches = BPTTWindows(rows=3, steps=2)(endless())
    for turn in range(10):
        next(batches)
        assert len(taken) == 3 * (turn // 2 + 1)


def one_by_one(rnn: nn.LSTM | nn.GRU | nn.RNN, vectors: list[Tensor]) -> list[Tensor]:
    """The hidden vectors of each row in one go, by torch's own module."""
    return [rnn(row)[0] if len(row) else row.new_zeros(0, rnn.hidden_size) for row in vectors]


@pytest.mark.parametrize("encoder", [LSTM(4, 5, num_layers=2), GRU(4, 5, num_layers=2)], ids=["lstm", "gru"])
@pytest.mark.parametrize(("rows", "steps"), [(1, 3), (2, 4), (3, 1), (5, 20)])
def test_states_carried_on_are_those_of_whole_rows(encoder: LSTM[Causal] | GRU[Causal], rows: int, steps: int) -> None:
    """A language model over lanes has the hidden vectors that it has over each row in one go."""
    seed(0)
    counts = [9, 0, 4, 17, 1, 8, 3]
    embed = Embed(TOKENS, 4).double()
    encode = Encode(encoder).double()
    model = Pack() >> embed >> encode
    hidden: dict[int, list[Tensor]] = {place: [] for place in range(len(counts))}
    before: States[Causal] | None = None
    for window in BPTTWindows(rows=rows, steps=steps)(rows_of(counts)):
        batch = Pad()(window)
        before = model(batch.with_carry(before))
        padded = before.padded()
        for place, length, values in zip(
            listed(batch.metadata.row_ids), listed(batch.lengths), padded.values, strict=True
        ):
            if place != FILLER:
                hidden[place].append(values[:length])
    vectors = [embed.weight[torch.tensor(row, dtype=torch.int64)] for row in texts(counts)]
    for place, wanted in enumerate(one_by_one(encoder.rnn, vectors)):
        torch.testing.assert_close(torch.cat(hidden[place]), wanted)


def test_gradients_stop_at_windows() -> None:
    """What is carried on is a number: nothing of the batch before is held for its gradient."""
    encode = Embed(TOKENS, 4) >> Encode(LSTM(4, 5))
    first, second = itertools.islice(BPTTWindows(rows=1, steps=2)(rows_of([4])), 2)
    states = encode(Pad()(first))
    batch = Pad()(second).with_carry(states)
    assert batch.initial_carry is not None
    assert not any(state.requires_grad for state in batch.initial_carry)
    assert states.carry is not None
    torch.testing.assert_close(batch.initial_carry[0], states.carry[0])


def test_a_row_that_begins_starts_from_zeros() -> None:
    """Even where the row before it in its lane ended in NaN."""
    states = (Embed(TOKENS, 4) >> Encode(LSTM(4, 5)))(Pad()(rows_of([2, 3])))
    assert states.carry is not None
    for state in states.carry:
        state.detach()[:, 0] = torch.nan
    rows = [Row(Ids(torch.tensor([1])), row_id=2), Row(Ids(torch.tensor([1])), row_id=1, start_step=3)]
    batch = Pad()(rows).with_carry(states)
    assert batch.initial_carry is not None
    assert all(not state[:, 0].any() and state[:, 1].all() for state in batch.initial_carry)


def test_states_that_are_missing_or_do_not_fit_are_refused() -> None:
    """Where a row goes on, there must be states, of as many rows, that carry something on."""
    goes_on = Pad()([Row(Ids(torch.tensor([1])), row_id=7, start_step=3)])
    with pytest.raises(OptionError, match="row 7 goes on at step 3, but no states arrived; pass those of the batch"):
        goes_on.with_carry(None)
    two = (Embed(TOKENS, 4) >> Encode(LSTM(4, 5)))(Pad()(rows_of([2, 3])))
    with pytest.raises(ShapeError, match=r"initial\[0\] must be layers x batch x size with a batch of 1"):
        goes_on.with_carry(two)
    plain = States.from_padded(torch.zeros(1, 2, 3), torch.tensor([2]))
    with pytest.raises(ShapeError, match="the states that arrived carry nothing on; encode with an encoder that is"):
        goes_on.with_carry(cast("States[Causal]", plain))
    fresh = Pad()(rows_of([2]))
    assert fresh.with_carry(None).initial_carry is None


def test_a_language_model_learns_from_lanes() -> None:
    """The loss of all windows, summed, is that of all rows; rows that fill up weigh nothing."""
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
        assert FILLER not in [place for place, _ in scores.rows()]
    assert weight == whole.metadata.weight
    assert total == pytest.approx(float(wanted.detach()))


def test_fillers_are_no_rows_in_a_report() -> None:
    """Nor do they change the kind of the targets: a batch of classes stays one."""
    rows = [Row(Ids(torch.arange(3)), target=2, row_id=4), Row(Ids(torch.arange(1)), target=1, row_id=5)]
    *_, last = BPTTWindows(rows=2, steps=2)(rows)
    batch = Pad()(last)
    assert listed(batch.metadata.row_ids) == [4, FILLER]
    assert batch.metadata.targets is not None
    assert batch.metadata.weight == 1
    assert (batch.report().rows, batch.report().steps, batch.report().padded) == (1, 1, 2)


def test_frames_play_in_lanes_too() -> None:
    """Vectors, cut along time."""
    frames = FromFeatures() >> BPTTWindows(Vectors, rows=1, steps=2) >> Pad(Vectors)
    batches: list[Padded[Vectors]] = list(frames([torch.arange(6.0).reshape(3, 2)]))
    assert [listed(batch.values) for batch in batches] == [[[[0, 1], [2, 3]]], [[[4, 5]]]]


def test_predictions_take_rows_of_one_window() -> None:
    """A row has one answer; a longer one is refused by name."""
    seed(2)
    pipe = FromIds() >> BPTTWindows(rows=2, steps=4) >> Pad() >> Embed(TOKENS, 4) >> Encode(LSTM(4, 5)) >> Tag(3)
    inputs = texts([3, 0, 4])
    assert [len(answer) for answer in pipe.predict(inputs)] == [3, 0, 4]
    with pytest.raises(LengthError, match="row 1 has 5 steps, but a window has 4, and a prediction of a row is one"):
        list(pipe.predict(texts([1, 5])))


def test_bad_options_and_rows_are_refused() -> None:
    """With the rule, what arrived, and the row."""
    with pytest.raises(OptionError, match="rows must be an integer of at least 1, got 0"):
        BPTTWindows(rows=0, steps=3)
    with pytest.raises(OptionError, match="steps must be an integer of at least 1, got 0"):
        BPTTWindows(rows=3, steps=0)
    with pytest.raises(ShapeError, match="item 1 must be a Row of Ids, but a str arrived"):
        list(BPTTWindows(rows=2, steps=2)(cast("list[Row[Ids]]", [*rows_of([1]), "row"])))
    with pytest.raises(TargetError, match="row 3 has 5 steps but 2 targets"):
        list(BPTTWindows(rows=1, steps=2)([Row(Ids(torch.arange(5)), [0, 1], 3)]))
