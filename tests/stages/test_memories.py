"""The buffer of earlier steps: what it holds, how it grows, and who may write into it."""

from collections.abc import Sequence
from threading import Thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from pipeline.stages.memories import EarlierSteps
from support.untyped import to_list


def append(memory: EarlierSteps | None, rows: Sequence[Sequence[float]], window: int | None = None) -> EarlierSteps:
    """Append numbers to each row; keys are ten times the values, padding is 9."""
    width = max(map(len, rows))
    values = torch.tensor([[*row, *[9.0] * (width - len(row))] for row in rows]).reshape(len(rows), width, 1)
    memory = EarlierSteps.make_empty(values, values * 10) if memory is None else memory
    return memory.append(values, values * 10, torch.tensor([len(row) for row in rows]), window)


def read(buffer: Tensor | None, memory: EarlierSteps) -> list[list[float]]:
    """Return the numbers of each row."""
    assert buffer is not None
    return [to_list(row[:count].flatten()) for row, count in zip(buffer, to_list(memory.stored), strict=True)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8), st.sampled_from([None, 1, 2, 4]))
def test_rows_hold_their_newest_steps_in_order(counts: list[tuple[int, int]], window: int | None) -> None:
    """All of them, or at least those of the window; keys stay beside their values."""
    rows: list[list[float]] = [[], []]
    memory = append(None, rows)
    for call, pair in enumerate(counts):
        new = [[float(100 * call + 10 * row + step) for step in range(count)] for row, count in enumerate(pair)]
        memory = append(memory, new, window)
        rows = [[*row, *more] for row, more in zip(rows, new, strict=True)]
        held, keys = read(memory.values, memory), read(memory.keys, memory)
        for row, found, more in zip(rows, held, pair, strict=True):
            assert found == row[len(row) - len(found) :]
            assert len(found) >= min(len(row), more + (len(row) if window is None else window))
        assert keys == [[10 * number for number in row] for row in held]


def test_a_window_bounds_the_buffer_of_an_endless_row() -> None:
    """Its size does not grow with the row."""
    memory = append(None, [[0.0]])
    sizes: set[int] = set()
    for step in range(1, 500):
        memory = append(memory, [[float(step)]], window=4)
        sizes.add(memory.values.shape[1])
    assert max(sizes) <= 10
    assert read(memory.values, memory)[0][-5:] == [495.0, 496.0, 497.0, 498.0, 499.0]


def test_a_growing_buffer_is_copied_a_few_times_only() -> None:
    """Its room doubles, so that a step costs constant time on average."""
    memory = append(None, [[0.0]])
    moves = 0
    for step in range(1, 1000):
        before = memory.values.data_ptr()
        memory = append(memory, [[float(step)]])
        moves += memory.values.data_ptr() != before
    assert moves <= 10


def test_only_the_first_of_two_writers_shares_the_buffer() -> None:
    """The second copies its steps, so that both have their own."""
    start = append(append(None, [[1.0, 2.0]]), [[3.0]])
    first, second = append(start, [[4.0]]), append(start, [[5.0]])
    assert first.values.data_ptr() == start.values.data_ptr() != second.values.data_ptr()
    assert [read(each.values, each) for each in (start, first, second)] == [
        [[1.0, 2.0, 3.0]],
        [[1.0, 2.0, 3.0, 4.0]],
        [[1.0, 2.0, 3.0, 5.0]],
    ]


def test_threads_that_continue_one_memory_do_not_share_its_buffer() -> None:
    """Each of many threads finds its own step."""
    start = append(append(None, [[1.0]]), [[2.0]])
    found: dict[int, EarlierSteps] = {}

    def run(number: int) -> None:
        found[number] = append(start, [[float(number)]])

    threads = [Thread(target=run, args=(number,)) for number in range(3, 19)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, memory in found.items():
        assert read(memory.values, memory) == [[1.0, 2.0, float(number)]]


def test_steps_without_room_hold_finite_numbers() -> None:
    """Attention masks them, but a kernel multiplies them by 0."""
    memory = append(append(None, [[1.0], [2.0]]), [[3.0], []])
    assert memory.values.isfinite().all()


@pytest.mark.parametrize("window", [None, 1, 2])
def test_the_mask_is_that_of_the_whole_rows(window: int | None) -> None:
    """Two rows of different positions, one of them at its first step."""
    memory = append(append(None, [[1.0, 2.0, 3.0], []], window), [[4.0], [5.0]], window)
    mask = memory.mask(torch.tensor([1, 1]), window)
    stored = to_list(memory.stored)
    wanted = torch.zeros(2, 1, max(stored), dtype=torch.bool)
    earlier = min(3, window or 3)
    wanted[0, 0, stored[0] - 1 - earlier : stored[0] - 1] = True
    wanted[1, 0, 0] = True
    assert_close(mask, wanted)
