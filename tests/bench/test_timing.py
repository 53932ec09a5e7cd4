"""How the bench times: what it computes of times, and what it refuses to time."""

import time

import pytest
import torch
from torch import Tensor

from bench.timing import threads
from bench.timing.alike import UnequalError, check_alike
from bench.timing.spread import Spread
from bench.timing.threads import on_threads
from bench.timing.times import Times
from bench.timing.turns import Turns, by_turns
from pipeline.forecast.memory import measure_peak_bytes

FEW = Turns(most=2, fewest=2)


def test_quartiles() -> None:
    """Of an odd number of turns the middle one; between two turns by interpolation; of one turn that one."""
    assert Spread.of([9.0, 1.0, 5.0, 3.0, 7.0]) == Spread(3.0, 5.0, 7.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.25, 1.5, 1.75)
    assert Spread.of([4.0]) == Spread(4.0, 4.0, 4.0)


def test_a_ratio_is_of_turns_that_stand_side_by_side() -> None:
    """A machine that was slow for a while slows both: the ratio of the medians would be another."""
    one, other = Times([2.0, 20.0, 4.0]), Times([1.0, 10.0, 4.0])
    assert one.over(other) == Spread.of([2.0, 2.0, 1.0])
    assert one.over(other).middle != one.spread.middle / other.spread.middle


def test_who_ran_once_is_held_against_each_turn() -> None:
    """On either side of a ratio."""
    assert Times([6.0]).over(Times([1.0, 2.0, 3.0])) == Spread.of([6.0, 3.0, 2.0])
    assert Times([1.0, 2.0]).over(Times([4.0])) == Spread.of([0.25, 0.5])
    assert Times([6.0]).once
    assert "once" in str(Times([6.0]))
    assert str(Times([6.0, 6.0])) == "6 s (6 to 6)"
    assert str(Times([0.006])) == "6 ms, once"


def test_candidates_take_turns() -> None:
    """Every other turn goes backwards, so that none always runs behind the same one."""
    ran: list[str] = []
    steps = {name: (lambda name=name: ran.append(name)) for name in "abc"}
    times = by_turns(steps, Turns(most=3, fewest=3), dict.fromkeys(steps, 0.1))
    assert "".join(ran) == "abccbaabc"
    assert [len(each.seconds) for each in times.values()] == [3, 3, 3]


def test_a_slow_candidate_runs_once() -> None:
    """Its first step is all there is of it; the others go on without it."""
    ran: list[str] = []
    steps = {name: (lambda name=name: ran.append(name)) for name in ("slow", "fast")}
    times = by_turns(steps, Turns(most=4, fewest=4), {"slow": 21.0, "fast": 0.1}, slow=20.0)
    assert ran == ["fast"] * 4
    assert times["slow"] == Times([21.0])


def test_all_may_be_slow() -> None:
    """Then nobody has a second turn, and nothing is divided by none."""
    assert by_turns({"slow": lambda: None}, FEW, {"slow": 30.0}) == {"slow": Times([30.0])}


def test_times_are_seconds() -> None:
    """As a clock on the wall has them."""
    times = by_turns({"sleeper": lambda: time.sleep(0.02)}, FEW, {"sleeper": 0.02})
    assert all(each >= 0.02 for each in times["sleeper"].seconds)


@pytest.mark.parametrize(
    ("came", "message"),
    [
        (
            [torch.tensor([1.0, 2.1])],
            r"tensor 0 of 'mine' must equal that of 'theirs' within 0.002, but differs by 0.1;",
        ),
        ([torch.tensor([1.0, torch.nan])], "tensor 0 of 'mine' must equal"),
        ([torch.tensor([1.0])], r"'mine' must give what 'theirs' gives, but gave tensors of \(1,\);"),
        ([torch.tensor([1.0, 2.0]), torch.tensor(3.0)], r"but gave tensors of \(2,\), \(\);"),
    ],
)
def test_unequal_results_are_refused(came: list[Tensor], message: str) -> None:
    """Other numbers, NaN, another shape, another number of tensors."""
    with pytest.raises(UnequalError, match=message):
        check_alike({"theirs": [torch.tensor([1.0, 2.0])], "mine": came})


def test_rounding_is_no_difference() -> None:
    """It is measured against the largest number in a tensor: sums of many are off by more."""
    check_alike({"theirs": [torch.tensor([1e4, 0.0])], "mine": [torch.tensor([1e4 + 1, 0.5])]})


def test_the_peak_of_memory_is_what_is_held_at_once() -> None:
    """A tensor that was freed before the next was made is not added to it; one that was there before is not counted."""
    before = torch.ones(1_000, 1_000)

    def one_after_the_other() -> None:
        for _ in range(3):
            _ = before[: 250_000 // 1_000] + 1

    def at_once() -> None:
        _ = [before[:250] + 1 for _ in range(3)]

    assert 1_000_000 <= measure_peak_bytes(one_after_the_other) <= 2_100_000
    assert 3_000_000 <= measure_peak_bytes(at_once) <= 3_100_000


def test_threads_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an error."""
    monkeypatch.setattr(threads, "EVERY", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with on_threads("one") as number:
            assert number == torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with pytest.raises(RuntimeError), on_threads("all"):
            check_alike({"one": [torch.ones(torch.get_num_threads()).view(3)]})
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
