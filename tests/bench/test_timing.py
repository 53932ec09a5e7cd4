"""Timing: statistics of times, interleaved rounds, and the check for equal results."""

import time

import pytest
import torch
from torch import Tensor

from bench import timing
from bench.timing import MismatchError, Quartiles, Rounds, Times, check_equal, time_interleaved, use_threads
from pipeline.forecast.memory import measure_peak_bytes

FEW = Rounds(most=2, fewest=2)


def test_quartiles() -> None:
    """The middle one of an odd number; interpolated between two numbers; a single number is all three."""
    assert Quartiles.of([9.0, 1.0, 5.0, 3.0, 7.0]) == Quartiles(3.0, 5.0, 7.0)
    assert Quartiles.of([1.0, 2.0]) == Quartiles(1.25, 1.5, 1.75)
    assert Quartiles.of([4.0]) == Quartiles(4.0, 4.0, 4.0)


def test_ratios_are_computed_round_by_round() -> None:
    """In a round in which the machine was slow, both are slow; the ratio of the medians would differ."""
    one, other = Times([2.0, 20.0, 4.0]), Times([1.0, 10.0, 4.0])
    assert one.divide_by(other) == Quartiles.of([2.0, 2.0, 1.0])
    assert one.divide_by(other).median != one.quartiles.median / other.quartiles.median


def test_ratios_with_a_single_time() -> None:
    """A single time is compared with every round, on either side."""
    assert Times([6.0]).divide_by(Times([1.0, 2.0, 3.0])) == Quartiles.of([6.0, 3.0, 2.0])
    assert Times([1.0, 2.0]).divide_by(Times([4.0])) == Quartiles.of([0.25, 0.5])
    assert Times([6.0]).ran_once
    assert "once" in str(Times([6.0]))
    assert str(Times([6.0, 6.0])) == "6 s (6 to 6)"
    assert str(Times([0.006])) == "6 ms, once"


def test_candidates_are_interleaved() -> None:
    """Every other round runs in reverse order."""
    ran: list[str] = []
    runs = {name: (lambda name=name: ran.append(name)) for name in "abc"}
    times = time_interleaved(runs, Rounds(most=3, fewest=3), dict.fromkeys(runs, 0.1))
    assert "".join(ran) == "abccbaabc"
    assert [len(each.seconds) for each in times.values()] == [3, 3, 3]


def test_a_slow_candidate_runs_once() -> None:
    """Its first run is its only time; the others continue without it."""
    ran: list[str] = []
    runs = {name: (lambda name=name: ran.append(name)) for name in ("slow", "fast")}
    times = time_interleaved(runs, Rounds(most=4, fewest=4), {"slow": 21.0, "fast": 0.1}, slow=20.0)
    assert ran == ["fast"] * 4
    assert times["slow"] == Times([21.0])


def test_all_candidates_are_slow() -> None:
    """No candidate runs again, and nothing is divided by zero."""
    assert time_interleaved({"slow": lambda: None}, FEW, {"slow": 30.0}) == {"slow": Times([30.0])}


def test_times_are_seconds() -> None:
    """Times are wall-clock seconds, also of a candidate that sleeps."""
    times = time_interleaved({"sleeper": lambda: time.sleep(0.02)}, FEW, {"sleeper": 0.02})
    assert all(each >= 0.02 for each in times["sleeper"].seconds)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            [torch.tensor([1.0, 2.1])],
            r"tensor 0 of 'ours' must equal that of 'torch' within 0.002, but differs by 0.1;",
        ),
        ([torch.tensor([1.0, torch.nan])], "tensor 0 of 'ours' must equal"),
        ([torch.tensor([1.0])], r"'ours' must return tensors of the same shapes as 'torch', \(2,\), got \(1,\);"),
        ([torch.tensor([1.0, 2.0]), torch.tensor(3.0)], r"\(2,\), got \(2,\), \(\);"),
    ],
)
def test_unequal_results_are_rejected(found: list[Tensor], message: str) -> None:
    """Other numbers, NaN, other shapes, and another number of tensors."""
    with pytest.raises(MismatchError, match=message):
        check_equal({"torch": [torch.tensor([1.0, 2.0])], "ours": found})


def test_rounding_is_accepted() -> None:
    """Differences are relative to the largest number in the tensor."""
    check_equal({"torch": [torch.tensor([1e4, 0.0])], "ours": [torch.tensor([1e4 + 1, 0.5])]})


def test_peak_memory_is_measured() -> None:
    """Freed tensors are not added to later ones; tensors from before are not counted."""
    before = torch.ones(1_000, 1_000)

    def allocate_in_turn() -> None:
        for _ in range(3):
            _ = before[: 250_000 // 1_000] + 1

    def allocate_together() -> None:
        _ = [before[:250] + 1 for _ in range(3)]

    assert 1_000_000 <= measure_peak_bytes(allocate_in_turn) <= 2_100_000
    assert 3_000_000 <= measure_peak_bytes(allocate_together) <= 3_100_000


def test_threads_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the block, and after an error in it."""
    monkeypatch.setattr(timing, "ALL_THREADS", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with use_threads("one") as number:
            assert number == torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with pytest.raises(RuntimeError), use_threads("all"):
            check_equal({"one": [torch.ones(torch.get_num_threads()).view(3)]})
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
