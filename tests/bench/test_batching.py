"""Benchmarks of batching: metrics equal independent computations, and every implementation returns every row."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bench import command
from bench.batching.data import (
    BUDGET,
    DISTRIBUTIONS,
    Batch,
    BatchLimit,
    Corpus,
    Epoch,
    Implementation,
    LengthsError,
    LoadEpoch,
    Ours,
    OursSorted,
)
from bench.batching.metric import Metric, tabulate_metrics
from bench.batching.other_samplers import IMPLEMENTATIONS, OURS, cut_like_fairseq, make_implementations
from bench.command import MEASUREMENTS
from bench.encoders.points import to_ints
from bench.measurements import batch
from bench.record import MissingPackageError, Record, Result, inspect_machine
from bench.report import Extent
from bench.timing import MismatchError, Rounds, Times
from pipeline.batching import Budget, Plan, Randomness, Rows

FEW = Rounds(most=2, fewest=2)
SMALL = BatchLimit(rows=7, max_padded_steps=600)
LENGTHS = Corpus.sentences(300).lengths


@pytest.mark.parametrize(
    "policy", [Budget(600, batches_per_sort=5), Rows(7), Budget(600, batches_per_sort=None)], ids=str
)
def test_metrics_equal_those_of_plans(policy: Budget | Rows) -> None:
    """The metrics of arbitrary batches equal the reports of a plan on the same batches."""
    plan, following = (Plan.of(LENGTHS, policy, epoch=epoch) for epoch in (0, 1))
    epoch, then = Epoch.of(LENGTHS, plan), Epoch.of(LENGTHS, following)
    assert epoch.padded_steps.tolist() == plan.padded.tolist()
    assert epoch.padding == pytest.approx(plan.report().wasted)
    wanted = Randomness.of(plan, following)
    assert epoch.correlation == pytest.approx(wanted.correlation)
    assert epoch.compute_repeated_batchmates(then) == pytest.approx(wanted.repeated_batchmates)
    assert epoch.misplaced == 0


def test_misplaced_rows() -> None:
    """Omitted and repeated rows are counted; empty batches are left out; undefined metrics are 0."""
    epoch = Epoch.of(LENGTHS[:4], [[0, 1], [], [1]])
    assert epoch.misplaced == 3
    assert epoch.sizes.tolist() == [2, 1]
    assert Epoch.of(LENGTHS[:4], [[0, 1], [2, 3]]).correlation == 0.0
    assert Epoch.of(LENGTHS[:2], [[0], [1]]).compute_repeated_batchmates(Epoch.of(LENGTHS[:2], [[0, 1]])) == 0.0


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=60),
    budget=st.integers(20, 90),
    multiple=st.integers(1, 8),
)
def test_fairseq_batches(lengths: list[int], budget: int, multiple: int) -> None:
    """Each row occurs once, shortest first; batches are within the budget, and no further rows would fit."""
    found = [[int(row) for row in rows] for rows in cut_like_fairseq(np.array(lengths), budget, multiple)]
    rows = [row for rows in found for row in rows]
    assert sorted(rows) == list(range(len(lengths)))
    ascending = [lengths[row] for row in rows]
    assert ascending == sorted(lengths)
    begin = 0
    for rows in found:
        stop = begin + len(rows)
        assert len(rows) * ascending[stop - 1] <= budget
        assert len(rows) <= multiple or not len(rows) % multiple
        further = stop + (1 if len(rows) < multiple else multiple)
        assert further > len(lengths) or (further - begin) * ascending[further - 1] > budget
        begin = stop


def test_drawn_lengths() -> None:
    """Numbers of rows, means and bounds are as stated, and equal at every call."""
    means = {name: round(float(distribution.draw().mean()), 1) for name, distribution in DISTRIBUTIONS.items()}
    assert means == {"like EWT": 17.2, "like IMDb": 215.2, "~20 steps": 19.9}
    for distribution in DISTRIBUTIONS.values():
        lengths = distribution.draw()
        assert (lengths == distribution.draw()).all()
        assert len(lengths) == distribution.rows
        assert 1 <= lengths.min() <= lengths.max() <= distribution.longest <= BUDGET


def test_lengths_from_a_file(tmp_path: Path) -> None:
    """Any integer type is accepted."""
    file = tmp_path / "mine.npy"
    np.save(file, np.array([3, 1, 2], np.uint16))
    own = Corpus.read(file)
    assert str(own) == "3 rows, mine"
    assert own.lengths.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (np.array([1.5, 2.0]), "one integer per row, got float64 of shape (2,)"),
        (np.array([[1, 2]]), "one integer per row, got int64 of shape (1, 2)"),
        (np.array([], np.int64), "of shape (0,)"),
        (np.array([3, 0]), "must be from 1 to 4,096, the budget, got 0 in row 1"),
        (np.array([3, 4, 4_097]), "got 4,097 in row 2"),
    ],
)
def test_wrong_lengths_are_rejected(
    lengths: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]",
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command line reports the error before anything is measured."""
    file = tmp_path / "mine.npy"
    np.save(file, lengths)
    with pytest.raises(SystemExit):
        command.main(["batch", "--lengths", str(file)])
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("content", [None, b"", b"1 2 3", b"\x80\x04N."])
def test_unreadable_lengths_are_rejected(content: bytes | None, tmp_path: Path) -> None:
    """A missing file, an empty one, text, and a pickle."""
    file = tmp_path / "mine.npy"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LengthsError, match="must be written by numpy.save"):
        Corpus.read(file)


def test_lengths_of_the_user_are_passed_to_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement of batching gets the lengths in the file."""
    passed: list[Corpus | None] = []

    def measure(extent: Extent, own: Corpus | None = None) -> Iterator[Result]:
        assert extent == "quick"
        passed.append(own)
        yield Metric("some", "number").report_counts("here", {OURS: 1})

    monkeypatch.setattr(batch, "measure", measure)
    monkeypatch.setattr(command, "MEASUREMENTS", {"batch": MEASUREMENTS["batch"]})
    np.save(tmp_path / "mine.npy", np.array([3, 1]))
    words = ["quick", "--json", str(tmp_path / "run.json"), "--lengths", str(tmp_path / "mine.npy")]
    assert command.main(words) == 0
    assert [None if own is None else own.name for own in passed] == ["mine"]


@pytest.fixture(params=[*IMPLEMENTATIONS, "ours, sorted"])
def implementation(request: pytest.FixtureRequest) -> Implementation:
    """Each implementation that is installed, over a few hundred rows."""
    constructors = {**IMPLEMENTATIONS, "ours, sorted": OursSorted}
    try:
        return constructors[request.param](LENGTHS, SMALL)
    except MissingPackageError as error:
        pytest.skip(str(error))


def test_every_row_is_in_every_epoch(implementation: Implementation) -> None:
    """Once; in another order in the next epoch, and in the same order when an epoch is repeated."""
    first, second = (list(map(list, implementation.batches(epoch))) for epoch in (0, 1))
    assert Epoch.of(LENGTHS, first).misplaced == Epoch.of(LENGTHS, second).misplaced == 0
    assert first != second
    assert first == list(map(list, implementation.batches(0)))
    assert sum(1 for _ in implementation.sample(0)) == len(first)


def test_resuming_returns_the_remaining_batches(implementation: Implementation) -> None:
    """From the start, from the middle, and before the last batch."""
    batches = list(implementation.batches(1))
    for batches_done in (0, 3, len(batches) - 1):
        assert batch.are_same(implementation.resume(1, batches_done), batches[batches_done:])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_get_equal_numbers_of_batches(implementation: Implementation, world_size: int) -> None:
    """Every implementation evens out the ranks; ours also omits and repeats no row."""
    difference, empty, misplaced = batch.inspect_ranks(implementation, world_size)
    assert difference == empty == 0
    assert misplaced == 0 or not isinstance(implementation, Ours)


def test_invalid_plans_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan whose ranks are uneven, or that omits a row, is invalid."""
    assert batch.measure_world_sizes(100).counts == {OURS: 0}

    def uneven(plan: Plan, rank: int) -> Plan:
        return attrs.evolve(
            plan, starts=plan.starts[rank :: plan.world_size], stops=plan.stops[rank :: plan.world_size]
        )

    def without_one(plan: Plan, rank: int) -> Plan:
        return uneven(attrs.evolve(plan, starts=plan.starts[1:], stops=plan.stops[1:]), rank)

    monkeypatch.setattr(Plan, "rank", uneven)
    assert batch.measure_world_sizes(100, [Rows(3)]).counts == {OURS: 0}
    monkeypatch.setattr(Plan, "rank", without_one)
    # All except those without rows: 100 and 200 rows, for 16 world sizes.
    assert batch.measure_world_sizes(100, [Rows(3)]).counts == {OURS: 32}


def test_every_row_is_loaded(implementation: Implementation) -> None:
    """In every epoch, padded with zeros."""
    ids = batch.draw_ids(Corpus("some", LENGTHS))
    assert [len(row) for row in ids] == LENGTHS.tolist()
    wanted = [len(ids), sum(map(sum, ids)), sum(sum(row) ** 2 for row in ids)]
    load_epoch = implementation.make_loader(ids)
    assert [to_ints(batch.sum_rows(load_epoch)) for _ in range(2)] == [wanted, wanted]


def test_limit_in_rows() -> None:
    """Without a budget of steps, the largest batch has the given number of rows."""
    for make in (Ours, OursSorted):
        sizes = Epoch.of(LENGTHS, make(LENGTHS, BatchLimit(7, None)).batches(0)).sizes
        assert sizes.max() == 7


class Broken(Ours):
    """An implementation that loads one row too few, and resumes from the start."""

    def make_loader(self, ids: Sequence[list[int]]) -> LoadEpoch:
        """Omit the first row."""
        load = super().make_loader(ids)

        def epoch() -> Iterator[Tensor]:
            first, *rest = load()
            yield first[1:]
            yield from rest

        return epoch

    def resume(self, epoch: int, batches_done: int) -> Iterator[Batch]:
        """Ignore the batches that are done."""
        del batches_done
        return self.batches(epoch)


def test_wrong_implementations_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Omitted rows are an error. Resuming with other batches is an error in ours, and a note for others."""
    monkeypatch.setattr("bench.batching.other_samplers.IMPLEMENTATIONS", {OURS: Ours, "torch": Broken})
    with pytest.raises(MismatchError, match="'torch' must equal"):
        batch.measure_loading(50, SMALL, FEW)
    assert "torch resumes with other batches" in batch.measure_resuming(400, FEW).notes
    monkeypatch.setattr("bench.batching.other_samplers.IMPLEMENTATIONS", {OURS: Broken})
    with pytest.raises(MismatchError, match="must return the remaining batches"):
        batch.measure_resuming(400, FEW)


@pytest.mark.parametrize(("name", "module"), [("lhotse", "lhotse"), ("transformers", "transformers.trainer_pt_utils")])
def test_missing_packages_are_noted(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs them; all others are measured."""
    monkeypatch.setitem(sys.modules, module, None)
    notes: list[str] = []
    assert {OURS, "torch"} <= make_implementations(LENGTHS, SMALL, notes).keys() <= IMPLEMENTATIONS.keys() - {name}
    assert any(note.startswith(f"{name}: not installed") and f"pip install {name}" in note for note in notes)
    table = tabulate_metrics([Metric("some", "number", goal=2).report_counts("here", {OURS: 1, "else": 3}, notes)])
    assert any(note.startswith(f"{name}: not installed") for note in table.notes)
    (row,) = table.rows
    cells = dict(zip(table.headings, row, strict=True))
    assert (cells["result"], cells[OURS], cells[name], cells["other"]) == ("1, met", "1", "", "else 3")


@pytest.mark.parametrize(
    ("metric", "wanted", "cells"),
    [
        (
            Metric("", "ratio", 0.7, baseline="torch"),
            ("<= 0.70", "0.50, met"),
            ["0.50 (0.50 to 0.50)", "1 s (1 to 1)"],
        ),
        (
            Metric("", "seconds", 0.4, baseline="torch"),
            ("<= 0.40", "0.50, missed"),
            ["500 ms (500 to 500)", "1 s (1 to 1)"],
        ),
        (Metric("", "seconds", 0.5), ("<= 0.5 s", "0.5 s, met"), ["500 ms (500 to 500)", "1 s (1 to 1)"]),
        (
            Metric("", "rate", 2.5, higher_is_better=True, baseline=OURS, items=3_000),
            (">= 2.50", "2.00, missed"),
            ["6,000/s (6,000 to 6,000)", "3,000/s (3,000 to 3,000)"],
        ),
        (Metric("", "ratio", 1.0, baseline="nobody"), ("<= 1.00", "not measured"), ["", ""]),
        (Metric("", "ratio", baseline="torch"), ("", ""), ["0.50 (0.50 to 0.50)", "1 s (1 to 1)"]),
    ],
)
def test_times_are_compared_with_goals(metric: Metric, wanted: tuple[str, str], cells: list[str]) -> None:
    """Ratios, seconds and rates."""
    found = metric.report_times(
        "here", {OURS: Times([0.5, 0.5]), "torch": Times([1.0, 1.0]), "lhotse": Times([2.0, 2.0])}
    )
    assert metric.compare_with_goal(found) == wanted
    assert [metric.format_cell(found, name) for name in (OURS, "torch")] == cells
    assert Metric.of(found) == metric


@pytest.mark.parametrize(
    ("metric", "wanted", "cell"),
    [
        (Metric("", "share", 0.02), ("<= 2.00%", "1.25%, met"), "1.25%"),
        (Metric("", "number", 0), ("<= 0", "0, missed"), "0"),
        (Metric("", "bytes", 8, higher_is_better=True), (">= 8.0", "0.0, missed"), "0.0"),
    ],
)
def test_counts_are_compared_with_goals(metric: Metric, wanted: tuple[str, str], cell: str) -> None:
    """Shares, numbers and bytes; the exact number is compared, not the rounded one that is shown."""
    found = metric.report_counts("here", {OURS: 0.0125})
    assert metric.compare_with_goal(found) == wanted
    assert metric.format_cell(found, OURS) == cell
    assert not metric.format_cell(found, "torch")


def test_all_metrics_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few rows; the record is read back equal, and the table has a row per metric."""
    few = {name: attrs.evolve(distribution, rows=200) for name, distribution in DISTRIBUTIONS.items()}
    monkeypatch.setattr("bench.measurements.batch.DISTRIBUTIONS", few)
    monkeypatch.setattr(
        "bench.batching.other_samplers.IMPLEMENTATIONS", {OURS: Ours, "torch": IMPLEMENTATIONS["torch"]}
    )
    sizes = batch.Sizes(
        batchmates=300, all_planned=300, planned=(400,), saved=300, memory=300, loaded=100, tokenized=50, ranked_step=60
    )
    found = list(batch.measure_all(sizes, FEW, Corpus("mine", LENGTHS)))
    record = Record(inspect_machine(), found)
    record.write(tmp_path / "run.json")
    assert Record.read(tmp_path / "run.json") == record
    rows = tabulate_metrics(found).rows
    assert len(rows) == len(found)
    cells = {tuple(row[0].split(": ")): row[2] for row in rows}
    assert {point for name, point in cells if name == "largest batch / budget"} == {
        "200 rows, like EWT", "200 rows, like IMDb", "200 rows, ~20 steps", "300 rows, mine",
    }  # fmt: skip
    wanted = (
        "largest batch / budget",
        "rows omitted or repeated",
        "rows omitted or repeated over all ranks",
        "empty batches",
        "invalid plans",
    )
    assert all(result.endswith(", met") for (name, _), result in cells.items() if name in wanted)


def test_memory_in_the_middle_and_at_the_peak() -> None:
    """Memory from before is not counted, nor is memory after the middle."""

    class Lists(Ours):
        """Holds a megabyte, and two more for a moment."""

        def sample(self, epoch: int) -> Iterator[object]:
            del epoch
            held = bytearray(1_000_000)
            more = bytearray(2_000_000)
            del more
            yield held
            yield held
            held += bytearray(5_000_000)
            yield held

    now, peak = batch.trace_memory(Lists(LENGTHS, SMALL))
    assert 1_000_000 <= now <= 1_010_000
    assert 3_000_000 <= peak <= 3_010_000


@pytest.mark.parametrize(
    ("baseline", "found", "wanted"), [([], ["AVX2"], True), (["ASIMD"], [], True), (["SSE2"], ["SSE42"], False)]
)
def test_simd_is_detected(baseline: list[str], found: list[str], wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In numpy's baseline, or among the instructions found on this machine."""
    config = {"SIMD Extensions": {"baseline": baseline, "found": found}}

    def show_config(mode: str) -> object:
        return config if mode == "dicts" else None

    monkeypatch.setattr(np, "show_config", show_config)
    assert batch.sorts_with_simd() is wanted


def test_different_ids_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage is not timed if its ids differ from those of the library."""
    assert batch.measure_tokenizing(20, FEW).times.keys() == {OURS, batch.TOKENIZERS}

    def wrong(values: Tensor) -> list[int]:
        return [*to_ints(values), 1]

    monkeypatch.setattr(batch, "to_ints", wrong)
    with pytest.raises(MismatchError, match="must return the ids"):
        batch.measure_tokenizing(20, FEW)
