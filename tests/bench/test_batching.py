"""The bench of batching: what it counts is right, and whoever is measured serves every row."""

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
from bench.absent import AbsentError
from bench.batching.corpus import BUDGET, CORPORA, Corpus, LengthsError
from bench.batching.epoch import Batch, Epoch
from bench.batching.figures import planning, ranks, resuming, tokenizing
from bench.batching.figures.all import Sizes, figures
from bench.batching.figures.figure import Figure
from bench.batching.figures.loading import drawn, gathered, loading
from bench.batching.figures.memory import inspect_stages
from bench.batching.figures.ranks import dealt
from bench.batching.ways.all import OURS, WAYS, ways
from bench.batching.ways.ours import OnePool, Ours
from bench.batching.ways.sorted_once import sorted_once
from bench.batching.ways.way import Loading, Room, Way
from bench.measured import batch
from bench.measured.all import MEASUREMENTS
from bench.measured.measurement import Extent
from bench.record.finding import Finding
from bench.record.machine import machine
from bench.record.record import Record
from bench.timing.alike import UnequalError
from bench.timing.times import Times
from bench.timing.turns import Turns
from pipeline.batching import Budget, Plan, Randomness, Rows
from pipeline.data.tensors import to_ints

FEW = Turns(most=2, fewest=2)
SMALL = Room(rows=7, max_padded_steps=600)
LENGTHS = Corpus.sentences(300).lengths


@pytest.mark.parametrize(
    "policy", [Budget(600, batches_per_sort=5), Rows(7), Budget(600, batches_per_sort=None)], ids=str
)
def test_figures_are_those_of_plans(policy: Budget | Rows) -> None:
    """What is counted of anyone's batches is what plans say of themselves."""
    plan, following = (Plan.of(LENGTHS, policy, epoch=epoch) for epoch in (0, 1))
    epoch, then = Epoch.of(LENGTHS, plan), Epoch.of(LENGTHS, following)
    assert epoch.padded.tolist() == plan.padded.tolist()
    assert epoch.wasted == pytest.approx(plan.report().wasted)
    wanted = Randomness.of(plan, following)
    assert epoch.correlation == pytest.approx(wanted.correlation)
    assert epoch.mates_again(then) == pytest.approx(wanted.repeated_batchmates)
    assert epoch.astray == 0


def test_rows_astray() -> None:
    """Left out, or served twice; and a batch of no rows is none."""
    epoch = Epoch.of(LENGTHS[:4], [[0, 1], [], [1]])
    assert epoch.astray == 3
    assert epoch.sizes.tolist() == [2, 1]
    assert Epoch.of(LENGTHS[:4], [[0, 1], [2, 3]]).correlation == 0.0
    assert Epoch.of(LENGTHS[:2], [[0], [1]]).mates_again(Epoch.of(LENGTHS[:2], [[0, 1]])) == 0.0


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=60),
    budget=st.integers(20, 90),
    multiple=st.integers(1, 8),
)
def test_rows_sorted_once(lengths: list[int], budget: int, multiple: int) -> None:
    """Each row once, from the shortest to the longest; within the budget, and as full as it may be."""
    found = [[int(row) for row in rows] for rows in sorted_once(np.array(lengths), budget, multiple)]
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


def test_lengths_are_those_stated() -> None:
    """As many and as long as they are said to be, and the same at every call."""
    means = {name: round(float(spread.drawn().mean()), 1) for name, spread in CORPORA.items()}
    assert means == {"like ewt": 17.2, "like imdb": 215.2, "~20": 19.9}
    for spread in CORPORA.values():
        lengths = spread.drawn()
        assert (lengths == spread.drawn()).all()
        assert len(lengths) == spread.rows
        assert 1 <= lengths.min() <= lengths.max() <= spread.most <= BUDGET


def test_lengths_of_ones_own(tmp_path: Path) -> None:
    """Of any whole type."""
    file = tmp_path / "mine.npy"
    np.save(file, np.array([3, 1, 2], np.uint16))
    own = Corpus.read(file)
    assert str(own) == "3 rows, mine"
    assert own.lengths.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (np.array([1.5, 2.0]), "one whole number a row, but holds float64 of shape (2,)"),
        (np.array([[1, 2]]), "one whole number a row, but holds int64 of shape (1, 2)"),
        (np.array([], np.int64), "of shape (0,)"),
        (np.array([3, 0]), "lengths of 1 to 4,096 steps, the budget, but row 1 has 0"),
        (np.array([3, 4, 4_097]), "but row 2 has 4,097"),
    ],
)
def test_wrong_lengths_are_refused(
    lengths: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]",
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With what is wrong, before anything is measured."""
    file = tmp_path / "mine.npy"
    np.save(file, lengths)
    with pytest.raises(SystemExit):
        command.main(["batch", "--lengths", str(file)])
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("content", [None, b"", b"1 2 3", b"\x80\x04N."])
def test_a_file_of_no_lengths_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """None at all, an empty one, text, and a pickle."""
    file = tmp_path / "mine.npy"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LengthsError, match="must be what numpy.save wrote"):
        Corpus.read(file)


def test_ones_own_lengths_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what makes batches, and by nothing else."""
    asked: list[Corpus | None] = []

    def find(extent: Extent, own: Corpus | None = None) -> Iterator[Finding]:
        assert extent == "quick"
        asked.append(own)
        yield Figure("some", "number").counted("here", {OURS: 1})

    monkeypatch.setattr(batch, "find", find)
    monkeypatch.setattr(command, "MEASUREMENTS", {"batch": MEASUREMENTS["batch"]})
    np.save(tmp_path / "mine.npy", np.array([3, 1]))
    words = ["quick", "--json", str(tmp_path / "run.json"), "--lengths", str(tmp_path / "mine.npy")]
    assert command.main(words) == 0
    assert [None if own is None else own.name for own in asked] == ["mine"]


@pytest.fixture(params=[*WAYS, "one pool"])
def way(request: pytest.FixtureRequest) -> Way:
    """Each way there is, over a few hundred rows."""
    make = {**WAYS, "one pool": OnePool}[request.param]
    try:
        return make(LENGTHS, SMALL)
    except AbsentError as absent:
        pytest.skip(str(absent))


def test_every_way_serves_every_row(way: Way) -> None:
    """Once an epoch, in another order each epoch, and in the same order when it is asked again."""
    first, second = (list(map(list, way.batches(epoch))) for epoch in (0, 1))
    assert Epoch.of(LENGTHS, first).astray == Epoch.of(LENGTHS, second).astray == 0
    assert first != second
    assert first == list(map(list, way.batches(0)))
    assert sum(1 for _ in way.drawn(0)) == len(first)


def test_every_way_goes_on(way: Way) -> None:
    """With the rest of the same epoch."""
    batches = list(way.batches(1))
    for steps in (0, 3, len(batches) - 1):
        assert resuming.alike(way.resumed(1, steps), batches[steps:])


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_way_deals_to_ranks(way: Way, world_size: int) -> None:
    """Ours without a loss; all with as many batches a rank, and each row at least once."""
    behind, empty, astray = dealt(way, world_size)
    assert behind == empty == 0
    assert astray == 0 or not isinstance(way, Ours)


def test_what_is_amiss_with_ranks_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that leaves ranks uneven, or a row out, is one of those."""
    assert ranks.every_world(100).figures == {OURS: 0}

    def uneven(plan: Plan, rank: int) -> Plan:
        return attrs.evolve(
            plan, starts=plan.starts[rank :: plan.world_size], stops=plan.stops[rank :: plan.world_size]
        )

    def without_one(plan: Plan, rank: int) -> Plan:
        return uneven(attrs.evolve(plan, starts=plan.starts[1:], stops=plan.stops[1:]), rank)

    monkeypatch.setattr(Plan, "rank", uneven)
    assert ranks.every_world(100, [Rows(3)]).figures == {OURS: 0}
    monkeypatch.setattr(Plan, "rank", without_one)
    # All but those of no rows: 100 and 200 rows, for 16 numbers of ranks.
    assert ranks.every_world(100, [Rows(3)]).figures == {OURS: 32}


def test_every_way_loads_every_row(way: Way) -> None:
    """Epoch after epoch, padded with zeros."""
    ids = drawn(Corpus("some", LENGTHS))
    assert [len(row) for row in ids] == LENGTHS.tolist()
    wanted = [len(ids), sum(map(sum, ids)), sum(sum(row) ** 2 for row in ids)]
    load = way.loading(ids)
    assert [to_ints(gathered(load)) for _ in range(2)] == [wanted, wanted]


def test_ours_keeps_to_rows_as_well() -> None:
    """Where no steps are counted, so many rows are a batch."""
    for make in (Ours, OnePool):
        sizes = Epoch.of(LENGTHS, make(LENGTHS, Room(7, None)).batches(0)).sizes
        assert sizes.max() == 7


class Broken(Ours):
    """Loads one row less, and goes on from the beginning."""

    def loading(self, ids: Sequence[list[int]]) -> Loading:
        """All rows but one."""
        load = super().loading(ids)

        def epoch() -> Iterator[Tensor]:
            first, *rest = load()
            yield first[1:]
            yield from rest

        return epoch

    def resumed(self, epoch: int, steps: int) -> Iterator[Batch]:
        """As if nothing had been served."""
        del steps
        return self.batches(epoch)


def test_what_loses_rows_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what goes on elsewhere, if it is ours; of another it is said."""
    monkeypatch.setattr("bench.batching.ways.all.WAYS", {OURS: Ours, "torch": Broken})
    with pytest.raises(UnequalError, match="'torch' must equal"):
        loading(50, SMALL, FEW)
    assert "torch goes on with other batches" in resuming.resuming(400, FEW).notes
    monkeypatch.setattr("bench.batching.ways.all.WAYS", {OURS: Broken})
    with pytest.raises(UnequalError, match="must be its rest"):
        resuming.resuming(400, FEW)


@pytest.mark.parametrize(("name", "module"), [("lhotse", "lhotse"), ("transformers", "transformers.trainer_pt_utils")])
def test_who_is_absent_is_said_to_be(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what installs it; all others are measured."""
    monkeypatch.setitem(sys.modules, module, None)
    notes: list[str] = []
    assert {OURS, "torch"} <= ways(LENGTHS, SMALL, notes).keys() <= WAYS.keys() - {name}
    assert any(note.startswith(f"{name}: not installed") and f"pip install {name}" in note for note in notes)
    sheet = batch.sheet([Figure("some", "number", goal=2).counted("here", {OURS: 1, "else": 3}, notes)])
    assert any(note.startswith(f"{name}: not installed") for note in sheet.notes)
    (row,) = sheet.rows
    cells = dict(zip(sheet.headings, row, strict=True))
    assert (cells["reached"], cells[OURS], cells[name], cells["others"]) == ("1, met", "1", "", "else 3")


@pytest.mark.parametrize(
    ("figure", "wanted", "cells"),
    [
        (
            Figure("", "ratio", 0.7, over="torch"),
            ("<= 0.70", "0.50, met"),
            ["0.50 (0.50 to 0.50)", "1 s (1 to 1)"],
        ),
        (
            Figure("", "seconds", 0.4, over="torch"),
            ("<= 0.40", "0.50, missed"),
            ["500 ms (500 to 500)", "1 s (1 to 1)"],
        ),
        (Figure("", "seconds", 0.5), ("<= 0.5 s", "0.5 s, met"), ["500 ms (500 to 500)", "1 s (1 to 1)"]),
        (
            Figure("", "rate", 2.5, at_least=True, over=OURS, count=3_000),
            (">= 2.50", "2.00, missed"),
            ["6,000/s (6,000 to 6,000)", "3,000/s (3,000 to 3,000)"],
        ),
        (Figure("", "ratio", 1.0, over="nobody"), ("<= 1.00", "not measured"), ["", ""]),
        (Figure("", "ratio", over="torch"), ("", ""), ["0.50 (0.50 to 0.50)", "1 s (1 to 1)"]),
    ],
)
def test_times_are_held_against_goals(figure: Figure, wanted: tuple[str, str], cells: list[str]) -> None:
    """As ratios, seconds and rates."""
    found = figure.timed("here", {OURS: Times([0.5, 0.5]), "torch": Times([1.0, 1.0]), "lhotse": Times([2.0, 2.0])})
    assert figure.verdict(found) == wanted
    assert [figure.cell(found, name) for name in (OURS, "torch")] == cells
    assert Figure.of(found) == figure


@pytest.mark.parametrize(
    ("figure", "wanted", "cell"),
    [
        (Figure("", "share", 0.02), ("<= 2.00%", "1.25%, met"), "1.25%"),
        (Figure("", "number", 0), ("<= 0", "0, missed"), "0"),
        (Figure("", "bytes", 8, at_least=True), (">= 8.0", "0.0, missed"), "0.0"),
    ],
)
def test_counts_are_held_against_goals(figure: Figure, wanted: tuple[str, str], cell: str) -> None:
    """As shares, numbers and bytes; the goal is held against the number itself, not against what is shown of it."""
    found = figure.counted("here", {OURS: 0.0125})
    assert figure.verdict(found) == wanted
    assert figure.cell(found, OURS) == cell
    assert not figure.cell(found, "torch")


def test_all_figures_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few rows; the file gives them back, and the table has a row for each."""
    few = {name: attrs.evolve(spread, rows=200) for name, spread in CORPORA.items()}
    monkeypatch.setattr("bench.batching.figures.all.CORPORA", few)
    monkeypatch.setattr("bench.batching.ways.all.WAYS", {OURS: Ours, "torch": WAYS["torch"]})
    sizes = Sizes(mates=300, rivals=300, planned=(400,), kept=300, held=300, loaded=100, tokenized=50, step=60)
    found = list(figures(sizes, FEW, Corpus("mine", LENGTHS)))
    record = Record(machine(), found)
    record.write(tmp_path / "run.json")
    assert Record.read(tmp_path / "run.json") == record
    rows = batch.sheet(found).rows
    assert len(rows) == len(found)
    cells = {tuple(row[0].split(": ")): row[2] for row in rows}
    assert {place for name, place in cells if name == "largest batch, in budgets"} == {
        "200 rows, like ewt", "200 rows, like imdb", "200 rows, ~20", "300 rows, mine",
    }  # fmt: skip
    wanted = (
        "largest batch, in budgets",
        "rows left out or served twice",
        "rows lost or repeated",
        "empty batches",
        "plans in which anything is amiss",
    )
    assert all(reached.endswith(", met") for (name, _), reached in cells.items() if name in wanted)


def test_memory_is_what_is_held_half_way() -> None:
    """And at most until then; what was there before is not counted."""

    class Lists(Ours):
        """Holds a megabyte, and for a while two more."""

        def drawn(self, epoch: int) -> Iterator[object]:
            del epoch
            held = bytearray(1_000_000)
            more = bytearray(2_000_000)
            del more
            yield held
            yield held
            held += bytearray(5_000_000)
            yield held

    resting, most = inspect_stages(Lists(LENGTHS, SMALL))
    assert 1_000_000 <= resting <= 1_010_000
    assert 3_000_000 <= most <= 3_010_000


@pytest.mark.parametrize(
    ("baseline", "found", "wanted"), [([], ["AVX2"], True), (["ASIMD"], [], True), (["SSE2"], ["SSE42"], False)]
)
def test_whether_numpy_sorts_with_simd(
    baseline: list[str], found: list[str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As numpy says of itself."""
    said = {"SIMD Extensions": {"baseline": baseline, "found": found}}

    def show_config(mode: str) -> object:
        return said if mode == "dicts" else None

    monkeypatch.setattr(np, "show_config", show_config)
    assert planning.sorts_with_simd() is wanted


def test_tokenizing_is_refused_where_ids_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage is not timed if it gives others than the library."""
    assert tokenizing.tokenizing(20, FEW).times.keys() == {OURS, tokenizing.RAW}

    def wrong(values: Tensor) -> list[int]:
        return [*to_ints(values), 1]

    monkeypatch.setattr(tokenizing, "ints", wrong)
    with pytest.raises(UnequalError, match="must give the ids"):
        tokenizing.tokenizing(20, FEW)
