"""Benchmarks of encoders: the points, and the equality of all candidates."""

import itertools
import sys
from collections.abc import Sequence

import attrs
import pytest
import torch
from torch.testing import assert_close

from bench.encoders.candidates import Problem, disable_native, make_dense_step, make_our_step, make_packed_step
from bench.encoders.points import DEFAULT, QUICK, Cell, Lengths, Point, draw_lengths, list_grid, list_points, to_ints
from bench.measurements import encode
from bench.record import WITH_NATIVE, WITHOUT_NATIVE
from bench.timing import MATMUL, MismatchError, Rounds, Step
from pipeline_recurrent.native import available
from support.oracles import run_recurrent

FEW = Rounds(most=2, fewest=2)
CELLS: Sequence[Cell] = ("LSTM", "GRU")
SMALL = [
    Point(cell, training, "~20", rows=3, features=4, hidden=5, bidirectional=bidirectional, layers=layers)
    for cell, training, bidirectional, layers in itertools.product(CELLS, (True, False), (True, False), (1, 2))
]


def test_slow_candidates_are_noted() -> None:
    """With the seconds of the first step."""
    found = encode.measure_point(SMALL[0], 1, FEW, slow=0.0)
    assert found.times["packed"].ran_once
    assert any(note.startswith("packed: once, its first step took") for note in found.notes)


def test_operations_by_hand() -> None:
    """Two products per gate, two layers, two directions; the second layer reads both; backward is twice forward."""
    point = Point("GRU", False, "~20", 1, features=3, hidden=5, layers=2)
    first, second = 3 * 5 * (3 + 5), 3 * 5 * (2 * 5 + 5)
    assert point.count_operations(7) == 2 * 7 * 2 * (first + second)
    assert attrs.evolve(point, training=True).count_operations(7) == 3 * point.count_operations(7)


def test_default_points_cover_all_options() -> None:
    """Lengths, batch sizes, hidden sizes, layers, directions, cells and threads, in training and in inference."""
    assert len(set(DEFAULT)) == len(DEFAULT) == len({str(point) for point in DEFAULT})
    bucketed = [point.lengths.endswith("bucketed") for point in DEFAULT]
    assert bucketed == sorted(bucketed, reverse=True)  # they come first in the table
    assert 24 <= bucketed.count(False) <= 30
    for training in (True, False):
        some = [point for point in DEFAULT if point.training is training]
        assert {"~20", "~230", "1-512", "2,000"} <= {point.lengths for point in some}
        assert {point.cell for point in some} == {"LSTM", "GRU"}
        assert {point.threads for point in some} == {"one", "all"}
        assert {point.layers for point in some} == {1, 2}
        assert {point.bidirectional for point in some} == {True, False}
        assert {128, 256, 512} == {point.hidden for point in some}
        assert {32, 256} <= {point.rows for point in some}
    assert sum(point.other_runtimes for point in DEFAULT) >= 3
    assert not any(point.training for point in DEFAULT if point.other_runtimes)


def test_extents_include_the_smaller_ones() -> None:
    """A quick run measures some of the default points; a full one measures all of them, and the grid."""
    assert set(QUICK) < set(DEFAULT) < set(list_points("full"))
    assert {point.training for point in QUICK} == {True, False}
    assert set(list_grid()) <= set(list_points("full"))
    assert len(set(list_points("full"))) == len(list_points("full"))


def test_distributions_of_lengths() -> None:
    """Means and extremes are as the names say; every call returns the same lengths."""
    assert 18 <= draw_lengths("~20", 4_000).float().mean() <= 22
    assert 215 <= draw_lengths("~230", 4_000).float().mean() <= 245
    assert (int(draw_lengths("1-512", 9_000).min()), int(draw_lengths("1-512", 9_000).max())) == (1, 512)
    assert to_ints(draw_lengths("2,000", 1)) == [2_000]
    assert to_ints(draw_lengths("~20 and 2,000", 4)) == [2_000, *to_ints(draw_lengths("~20", 4))[1:]]
    assert to_ints(draw_lengths("exactly 128", 2)) == [128, 128]
    assert to_ints(draw_lengths("exactly 1,024", 2)) == [1_024, 1_024]
    assert torch.equal(draw_lengths("~230", 9), draw_lengths("~230", 9))


@pytest.mark.parametrize("point", SMALL, ids=str)
def test_every_candidate_equals_the_oracle(point: Point) -> None:
    """States and gradients equal those of a loop over single rows in float64."""
    problem = Problem.of(point)
    module = problem.weights.double()
    values = problem.values.detach().double().requires_grad_()
    rows = [row[:length] for row, length in zip(values, to_ints(problem.lengths), strict=True)]
    states = [torch.cat(run_recurrent(module, row)[0], dim=1) for row in rows]
    total = torch.stack([row.square().sum() for row in states]).sum()
    wanted = torch.autograd.grad(total, [values, *module.parameters()])
    problem.weights.float()
    order = problem.pack_states((torch.nn.utils.rnn.pad_sequence(states, batch_first=True),))[0]
    for step in (
        make_packed_step(problem),
        make_dense_step(problem),
        make_our_step(problem, "plain", native=False)[0],
    ):
        found, *gradients = problem.pack_states(step())
        assert_close(found.double(), order, rtol=0, atol=1e-5)
        assert len(gradients) == (len(wanted) if point.training else 0)
        for gradient, right in zip(gradients, wanted, strict=False):
            assert_close(gradient.double(), right, rtol=1e-4, atol=1e-4)


def test_an_unequal_candidate_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed if one of torch's kernels, or of ours, differs."""
    broken = make_our_step(Problem.of(attrs.evolve(SMALL[0], layers=1)), "plain", native=False)[0]

    def wrong(_: Problem) -> Step:
        return lambda: tuple(each + 1 for each in broken())

    monkeypatch.setattr(encode, "make_dense_step", wrong)
    with pytest.raises(MismatchError, match="of 'dense' must equal that of 'packed'"):
        encode.measure_point(SMALL[0], 1, FEW)


def test_the_native_engine_is_switched_off_and_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable is restored, or deleted if it was not set; also after an error."""
    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    before = available()
    with disable_native():
        assert available() == "it is switched off by PIPELINE_NATIVE=0"
    assert available() == before
    monkeypatch.setenv("PIPELINE_NATIVE", "1")
    with pytest.raises(KeyError), disable_native():
        raise KeyError
    assert available() == before


@pytest.mark.parametrize("name", ["onnxruntime", "jax", "keras"])
def test_missing_runtimes_are_noted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs them; the point is measured without them."""
    for module in ("onnxruntime", "onnx.helper", "jax", "keras.layers"):
        monkeypatch.setitem(sys.modules, module, None)
    found = encode.measure_point(attrs.evolve(SMALL[2], training=False, other_runtimes=True, layers=1), 1, FEW)
    assert name not in found.times
    assert any(note.startswith(f"{name}: not installed") and "pip install" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "library"), [("onnxruntime", "onnxruntime"), ("jax", "jax"), ("keras", "keras.layers")]
)
@pytest.mark.parametrize("point", [point for point in SMALL if not point.training and point.layers == 1], ids=str)
def test_other_runtimes_compute_the_same(name: str, library: str, point: Point) -> None:
    """In one direction and in both, with torch's weights."""
    pytest.importorskip(library, reason=f"{name} comes with the group bench")
    found = encode.measure_point(attrs.evolve(point, other_runtimes=True), 1, FEW)
    assert name in found.times
    assert not any(name in note for note in found.notes)


def test_wrong_runtimes_are_timed_and_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike torch's kernels and ours, they cannot be corrected here."""
    point = attrs.evolve(SMALL[4], training=False, layers=1, other_runtimes=True)

    def zeros(problem: Problem) -> Step:
        return lambda: (problem.values.new_zeros(*problem.values.shape[:2], 10),)

    monkeypatch.setattr(encode, "OTHER_RUNTIMES", {"other": zeros})
    found = encode.measure_point(point, 1, FEW)
    assert "other" in found.times
    assert any(note.startswith("other is wrong: ") for note in found.notes)


def test_a_result_is_complete() -> None:
    """It has the times of all candidates, the chosen engines, operations and, in training, memory."""
    found = encode.measure_point(SMALL[0], 1, FEW)
    ours = {WITHOUT_NATIVE, *([WITH_NATIVE] if available() is None else [])}
    assert found.times.keys() == {"packed", "dense", "plain", MATMUL} | ours
    assert found.peak_bytes.keys() == found.times.keys() - {MATMUL}
    assert all(peak > 0 for peak in found.peak_bytes.values())
    assert any(note.startswith(f"{WITHOUT_NATIVE}: ") for note in found.notes)
    assert found.operations == SMALL[0].count_operations(int(draw_lengths("~20", 3).sum()))


@pytest.mark.parametrize("lengths", ["~20, bucketed", "~230, bucketed"])
def test_a_bucketed_batch_has_nearly_even_rows(lengths: Lengths) -> None:
    """Its share of padding is a few percent; that of a random batch of the same distribution is far larger."""
    bucketed, random = draw_lengths(lengths, 32), draw_lengths("~20" if lengths.startswith("~20") else "~230", 32)
    shares = [1 - int(drawn.sum()) / (32 * int(drawn.max())) for drawn in (bucketed, random)]
    assert len(bucketed) == 32
    assert shares[0] < 0.05
    assert shares[1] > 0.4
