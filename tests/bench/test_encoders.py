"""What the bench measures of encoders: which points, and that every candidate computes the same."""

import itertools
import sys
from collections.abc import Sequence

import attrs
import pytest
import torch
from torch.testing import assert_close

from bench.encoders.dense import dense
from bench.encoders.lengths import Lengths, draw_lengths
from bench.encoders.ours import ours, switched_off
from bench.encoders.packed import packed
from bench.encoders.point import Cell, Point
from bench.encoders.points import NAMED, QUICK, grid, points
from bench.encoders.problem import Problem
from bench.measured import encode
from bench.timing.alike import UnequalError
from bench.timing.product import PRODUCT
from bench.timing.step import Step
from bench.timing.turns import Turns
from pipeline.data.tensors import to_ints
from pipeline_recurrent.native import available
from support.oracles import run_recurrent

FEW = Turns(most=2, fewest=2)
CELLS: Sequence[Cell] = ("LSTM", "GRU")
SMALL = [
    Point(cell, learning, "~20", rows=3, features=4, hidden=5, both=both, layers=layers)
    for cell, learning, both, layers in itertools.product(CELLS, (True, False), (True, False), (1, 2))
]


def test_a_slow_point_says_so() -> None:
    """In its notes, with what its first step took."""
    found = encode.measured(SMALL[0], 1, FEW, slow=0.0)
    assert found.times["packed"].once
    assert any(note.startswith("packed: once, its first step took") for note in found.notes)


def test_operations_by_hand() -> None:
    """Two products a gate, two layers, two directions: the second layer reads both; backward is twice forward."""
    point = Point("GRU", False, "~20", 1, features=3, hidden=5, layers=2)
    first, second = 3 * 5 * (3 + 5), 3 * 5 * (2 * 5 + 5)
    assert point.operations(7) == 2 * 7 * 2 * (first + second)
    assert attrs.evolve(point, learning=True).operations(7) == 3 * point.operations(7)


def test_named_points_are_distinct_and_span() -> None:
    """Rows, batches, sizes, layers, directions, cells, threads, in training and in inference."""
    assert len(set(NAMED)) == len(NAMED) == len({str(point) for point in NAMED})
    assert 24 <= len(NAMED) <= 30
    for learning in (True, False):
        some = [point for point in NAMED if point.learning is learning]
        assert {"~20", "~230", "1-512", "2,000"} <= {point.lengths for point in some}
        assert {point.cell for point in some} == {"LSTM", "GRU"}
        assert {point.threads for point in some} == {"one", "all"}
        assert {point.layers for point in some} == {1, 2}
        assert {point.both for point in some} == {True, False}
        assert {128, 256, 512} == {point.hidden for point in some}
        assert {32, 256} <= {point.rows for point in some}
    assert sum(point.strangers for point in NAMED) >= 3
    assert not any(point.learning for point in NAMED if point.strangers)


def test_extents_grow() -> None:
    """A quick run measures named points, a full one all of them and the whole grid."""
    assert set(QUICK) < set(NAMED) < set(points("full"))
    assert {point.learning for point in QUICK} == {True, False}
    assert set(grid()) <= set(points("full"))
    assert len(set(points("full"))) == len(points("full"))


def test_lengths_are_what_they_are_called() -> None:
    """Their means, their extremes, and the same at every call."""
    assert 18 <= draw_lengths("~20", 4_000).float().mean() <= 22
    assert 215 <= draw_lengths("~230", 4_000).float().mean() <= 245
    assert (int(draw_lengths("1-512", 9_000).min()), int(draw_lengths("1-512", 9_000).max())) == (1, 512)
    assert to_ints(draw_lengths("2,000", 1)) == [2_000]
    assert to_ints(draw_lengths("~20 and 2,000", 4)) == [2_000, *to_ints(draw_lengths("~20", 4))[1:]]
    assert to_ints(draw_lengths("even 128", 2)) == [128, 128]
    assert to_ints(draw_lengths("even 1,024", 2)) == [1_024, 1_024]
    assert torch.equal(draw_lengths("~230", 9), draw_lengths("~230", 9))


@pytest.mark.parametrize("point", SMALL, ids=str)
def test_every_candidate_equals_the_oracle(point: Point) -> None:
    """States against the plain loop over each row in float64; gradients against its own."""
    problem = Problem.of(point)
    module = problem.weights.double()
    values = problem.values.detach().double().requires_grad_()
    rows = [row[:length] for row, length in zip(values, to_ints(problem.lengths), strict=True)]
    states = [torch.cat(run_recurrent(module, row)[0], dim=1) for row in rows]
    total = torch.stack([row.square().sum() for row in states]).sum()
    wanted = torch.autograd.grad(total, [values, *module.parameters()])
    problem.weights.float()
    order = problem.answer((torch.nn.utils.rnn.pad_sequence(states, batch_first=True),))[0]
    for step in (packed(problem), dense(problem), ours(problem, "plain", compiled=False)[0]):
        found, *gradients = problem.answer(step())
        assert_close(found.double(), order, rtol=0, atol=1e-5)
        assert len(gradients) == (len(wanted) if point.learning else 0)
        for gradient, right in zip(gradients, wanted, strict=False):
            assert_close(gradient.double(), right, rtol=1e-4, atol=1e-4)


def test_an_unequal_candidate_stops_the_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed then."""
    broken = ours(Problem.of(attrs.evolve(SMALL[0], layers=1)), "plain", compiled=False)[0]

    def wrong(_: Problem) -> Step:
        return lambda: tuple(each + 1 for each in broken())

    monkeypatch.setattr(encode, "dense", wrong)
    with pytest.raises(UnequalError, match="of 'dense' must equal that of 'packed'"):
        encode.measured(SMALL[0], 1, FEW)


def test_no_native_engine_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """And then what there was: a switch that was not there is gone again, another one is back."""
    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    before = available()
    with switched_off():
        assert available() == "it is switched off by PIPELINE_NATIVE=0"
    assert available() == before
    monkeypatch.setenv("PIPELINE_NATIVE", "1")
    with pytest.raises(KeyError), switched_off():
        raise KeyError
    assert available() == before


@pytest.mark.parametrize("name", ["onnxruntime", "keras"])
def test_who_is_absent_is_said_to_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what installs it; the point is measured without it."""
    for module in ("onnxruntime", "onnx.helper", "keras.layers"):
        monkeypatch.setitem(sys.modules, module, None)
    found = encode.measured(attrs.evolve(SMALL[2], learning=False, strangers=True, layers=1), 1, FEW)
    assert name not in found.times
    assert any(note.startswith(f"{name}: not installed") and "pip install" in note for note in found.notes)


@pytest.mark.parametrize(("name", "library"), [("onnxruntime", "onnxruntime"), ("keras", "keras.layers")])
@pytest.mark.parametrize("point", [point for point in SMALL if not point.learning and point.layers == 1], ids=str)
def test_other_runtimes_compute_the_same(name: str, library: str, point: Point) -> None:
    """In both directions, with torch's weights."""
    pytest.importorskip(library, reason=f"{name} comes with the group bench")
    found = encode.measured(attrs.evolve(point, strangers=True), 1, FEW)
    assert name in found.times
    assert not any(name in note for note in found.notes)


def test_a_stranger_that_is_wrong_is_measured_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no candidate of ours to mend."""
    point = attrs.evolve(SMALL[4], learning=False, layers=1, strangers=True)

    def zeros(problem: Problem) -> Step:
        return lambda: (problem.values.new_zeros(*problem.values.shape[:2], 10),)

    monkeypatch.setattr(encode, "_STRANGERS", {"stranger": zeros})
    found = encode.measured(point, 1, FEW)
    assert "stranger" in found.times
    assert any(note.startswith("stranger is wrong: ") for note in found.notes)


def test_a_point_is_found_whole() -> None:
    """Every candidate has its turns, engines are named, memory is counted in training."""
    found = encode.measured(SMALL[0], 1, FEW)
    ours_here = {"uncompiled", *(["compiled"] if available() is None else [])}
    assert found.times.keys() == {"packed", "dense", "plain", PRODUCT} | ours_here
    assert found.bytes.keys() == found.times.keys() - {PRODUCT}
    assert all(held > 0 for held in found.bytes.values())
    assert any(note.startswith("uncompiled: ") for note in found.notes)
    assert found.operations == SMALL[0].operations(int(draw_lengths("~20", 3).sum()))


@pytest.mark.parametrize("lengths", ["~20, bucketed", "~230, bucketed"])
def test_a_bucketed_batch_has_nearly_even_rows(lengths: Lengths) -> None:
    """Its padded share is a few percent; that of a random batch of the same distribution is far larger."""
    bucketed, random = draw_lengths(lengths, 32), draw_lengths("~20" if lengths.startswith("~20") else "~230", 32)
    shares = [1 - int(drawn.sum()) / (32 * int(drawn.max())) for drawn in (bucketed, random)]
    assert len(bucketed) == 32
    assert shares[0] < 0.05 < 0.4 < shares[1]
