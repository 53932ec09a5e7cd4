"""The bench: what it computes from times, what it refuses to time, and what it measures."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bench import command
from bench.encoders.dense import dense
from bench.encoders.lengths import drawn
from bench.encoders.ours import ours, switched_off
from bench.encoders.packed import packed
from bench.encoders.point import Point
from bench.encoders.points import NAMED, QUICK, grid, points
from bench.encoders.problem import Problem
from bench.measured import attend, checks, encode, epoch, packing
from bench.measured.all import MEASUREMENTS
from bench.measured.measurement import Measurement
from bench.record.finding import Finding
from bench.record.machine import machine
from bench.record.record import Record, RecordError
from bench.record.sheet import Sheet
from bench.record.targets import TARGETS, Target, targets_sheet
from bench.timing.alike import UnequalError, check_alike
from bench.timing.memory import peak_bytes
from bench.timing.product import OPERATIONS, PRODUCT
from bench.timing.spread import Spread
from bench.timing.threads import EVERY, on_threads
from bench.timing.times import Times
from bench.timing.turns import Turns, by_turns
from oracles import recurrent
from pipeline_recurrent.native import available

ROOT = Path(__file__).parents[1]
FEW = Turns(most=2, fewest=2)
SMALL = [
    Point(cell, learning, "~20", rows=3, features=4, hidden=5, both=both, layers=layers)
    for cell, learning, both, layers in itertools.product(("LSTM", "GRU"), (True, False), (True, False), (1, 2))
]


def finding(name: str = "encode", **times: list[float]) -> Finding:
    """What was found at a point whose times are given, candidate by candidate."""
    taken = {candidate: Times(seconds) for candidate, seconds in times.items()}
    return Finding(name, "a point", 2, Point("LSTM", True, "~20", 64, 300, 256).traits, taken)


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
    assert "once" not in str(Times([6.0, 6.0]))


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


def test_a_slow_point_says_so() -> None:
    """In its notes, with what its first step took."""
    found = encode.measured(SMALL[0], 1, FEW, slow=0.0)
    assert found.times["packed"].once
    assert any(note.startswith("packed: once, its first step took") for note in found.notes)


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

    assert 1_000_000 <= peak_bytes(one_after_the_other) <= 2_100_000
    assert 3_000_000 <= peak_bytes(at_once) <= 3_100_000


def test_threads_are_given_back() -> None:
    """Also after an error."""
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), on_threads("one") as threads:
        torch.ones(1 // (threads - torch.get_num_threads()))
    assert torch.get_num_threads() == before
    with on_threads("all") as threads:
        assert threads == EVERY


def test_a_share_of_the_peak() -> None:
    """Operations a second over those of the product that ran beside."""
    found = attrs.evolve(finding(compiled=[2.0], **{PRODUCT: [1.0]}), operations=OPERATIONS)
    assert found.share("compiled") == pytest.approx(0.5)
    assert found.share("plain") is None
    assert attrs.evolve(found, operations=0.0).share("compiled") is None


def test_operations_by_hand() -> None:
    """Two products a gate, two layers, two directions: the second layer reads both; backward is twice forward."""
    point = Point("GRU", False, "~20", 1, features=3, hidden=5, layers=2)
    first, second = 3 * 5 * (3 + 5), 3 * 5 * (2 * 5 + 5)
    assert point.operations(7) == 2 * 7 * 2 * (first + second)
    assert attrs.evolve(point, learning=True).operations(7) == 3 * point.operations(7)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every field of every finding, and the quartiles for whoever reads JSON alone."""
    found = attrs.evolve(
        finding(packed=[3.0, 1.0, 2.0], plain=[1.0]), bytes={"packed": 7}, notes=["once"], operations=5.0
    )
    record = Record(machine(), [found, finding("epoch", packed=[1.5, 1.25])])
    file = tmp_path / "new" / "bench.json"
    record.write(file)
    record.write(file)  # over what was there
    assert Record.read(file) == record
    assert [path.name for path in file.parent.iterdir()] == ["bench.json"]
    held = json.loads(file.read_text("utf-8"))
    assert held["findings"][0]["times"]["packed"]["quartiles"] == [1.5, 2.0, 2.5]
    assert held["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "machine": {}, "findings": []}'])
def test_what_is_no_record_is_refused(text: str, tmp_path: Path) -> None:
    """With an error that names the file."""
    file = tmp_path / "bench.json"
    file.write_text(text, "utf-8")
    with pytest.raises(RecordError, match=r"bench\.json must be .*; measure anew\."):
        Record.read(file)


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
    assert 18 <= drawn("~20", 4_000).float().mean() <= 22
    assert 215 <= drawn("~230", 4_000).float().mean() <= 245
    assert (int(drawn("1-512", 9_000).min()), int(drawn("1-512", 9_000).max())) == (1, 512)
    assert drawn("2,000", 1).tolist() == [2_000]
    assert drawn("~20 and 2,000", 4).tolist() == [2_000, *drawn("~20", 4).tolist()[1:]]
    assert drawn("even 128", 2).tolist() == [128, 128]
    assert drawn("even 1,024", 2).tolist() == [1_024, 1_024]
    assert torch.equal(drawn("~230", 9), drawn("~230", 9))


@pytest.mark.parametrize("point", SMALL, ids=str)
def test_every_candidate_equals_the_oracle(point: Point) -> None:
    """States against the plain loop over each row in float64; gradients against its own."""
    problem = Problem.of(point)
    module = problem.weights.double()
    values = problem.values.detach().double().requires_grad_()
    rows = [row[:length] for row, length in zip(values, problem.lengths.tolist(), strict=True)]
    states = [torch.cat(recurrent(module, row)[0], dim=1) for row in rows]
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
    monkeypatch.setattr(encode, "dense", lambda _: lambda: tuple(each + 1 for each in broken()))
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
    monkeypatch.setattr(
        encode, "_STRANGERS", {"stranger": lambda problem: lambda: (problem.values.new_zeros(3, 99, 10),)}
    )
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
    assert found.operations == SMALL[0].operations(int(drawn("~20", 3).sum()))


def test_other_measurements_find_something_equal() -> None:
    """At sizes that take no time: each compares before it times."""
    case = attend.Case(attend.General, 6, learning=True)
    assert attend.measured(case, 1, FEW, rows=2, hidden=4).times.keys() == {"ours", "loop", "masked"}
    sizes = epoch.Sizes(rows=12, words=9, batch=4, embedded=3, hidden=5)
    assert {"by hand", "uncompiled"} <= epoch.measured(sizes, 1, FEW).times.keys()
    rows = packing.Rows(torch.randn(3, 4, packing.FEATURES), torch.tensor([4, 1, 2]))
    found = packing.measured("three", rows, learning=True)
    assert found.bytes["padded"] > found.bytes["packed"]
    assert checks.measured("one", turns=2).times.keys() == {"checked", "unchecked", "step"}


def test_targets_are_held_against_figures() -> None:
    """What was reached, and whether it is enough; nothing is made up for what was not measured."""
    record = Record(machine(), [])
    enough = Target("ratio", 2.0, 3.0, lambda _, candidate: 2.5 if candidate == "uncompiled" else 2.9)
    assert enough.cells(record) == ["ratio", ">= 2", "2.50, met", ">= 3", "2.90, missed"]
    less = Target("cost", None, 1.3, lambda _, candidate: 1.2 if candidate == "compiled" else None, at_most=True)
    assert less.cells(record) == ["cost", "", "not measured", "<= 1.3", "1.20, met"]
    assert all("not measured" in cell for row in targets_sheet(record).rows for cell in row[2::2])


def test_figures_are_those_of_the_points_that_they_name() -> None:
    """A made-up run in which each target has one answer."""
    sentences = finding(packed=[6.0], dense=[4.0], uncompiled=[2.0], compiled=[1.0])
    short, long = (
        attrs.evolve(each, traits={**each.traits, "lengths": lengths, "hidden": 128})
        for each, lengths in (
            (finding(packed=[1.0], dense=[1.0], uncompiled=[1.0], compiled=[0.5]), "even 128"),
            (finding(packed=[1.0], dense=[1.0], uncompiled=[8.0], compiled=[6.0]), "even 1,024"),
        )
    )
    reviews = attrs.evolve(sentences, traits={**sentences.traits, "lengths": "~230", "hidden": 512, "cell": "LSTM"})
    epochs = finding("epoch", **{"by hand": [3.0]}, uncompiled=[2.0], compiled=[1.0])
    record = Record(machine(), [sentences, short, long, reviews, epochs])
    reached = {
        target.name: (target.figure(record, "uncompiled"), target.figure(record, "compiled")) for target in TARGETS
    }
    assert reached["training, rows of ~20, over packed"] == (3.0, 6.0)
    assert reached["training over the best stock choice, lowest"] == (1 / 8, 1 / 6)
    assert reached["LSTM training, rows of ~230, h512, over packed"] == (3.0, 6.0)
    assert reached["LSTM training, rows of ~230, h128, over packed"] == (None, None)
    assert reached["cost of a step, rows of 1,024 over rows of 128"] == (1.0, 1.5)
    assert reached["one epoch, from texts, over random batches and packed"] == (1.5, 3.0)
    assert reached["inference over packed, lowest"] == (None, None)


def test_a_sheet_as_markdown() -> None:
    """A table that a page can hold: no cell breaks out of its row."""
    sheet = Sheet("Heights", ["who", "metres"], [["a|b", "2"]], ["Measured."])
    assert sheet.markdown().splitlines() == [
        "### Heights",
        "",
        "| who | metres |",
        "| --- | --- |",
        "| a/b | 2 |",
        "",
        "Measured.",
    ]


@pytest.mark.parametrize("words", [["quick", "--json"], ["--quick", "--json"]])
def test_a_run_is_shown_and_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of what has a quick part; and the file gives the same tables as Markdown."""
    asked: list[str] = []

    def small(extent: str) -> list[Finding]:
        asked.append(extent)
        return [encode.measured(SMALL[0], 1, FEW)]

    here = {"encode": attrs.evolve(MEASUREMENTS["encode"], find=small), "checks": MEASUREMENTS["checks"]}
    monkeypatch.setattr(command, "MEASUREMENTS", here)
    file = tmp_path / "run.json"
    assert command.main([*words, str(file)]) == 0
    assert asked == ["quick"]
    assert f"encode: {SMALL[0]}" in capsys.readouterr().out
    assert command.main(["report", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"| {SMALL[0]}" in printed
    assert "### Targets" in printed
    assert torch.__version__ in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoding"], "'encoding' is none of encode, attend"),
        (["quick", "--full"], "exclude each other"),
        (["report"], "report takes one file"),
        (["report", "nowhere.json"], "nowhere.json"),
    ],
)
def test_a_wrong_command_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before anything is measured."""
    with pytest.raises(SystemExit) as exited:
        command.main(words)
    assert exited.value.code == 2
    assert message in capsys.readouterr().err


def test_measurements_are_called_what_they_are() -> None:
    """Names are those by which they are asked for."""
    assert all(isinstance(each, Measurement) and each.name == name for name, each in MEASUREMENTS.items())
    assert {"encode", "attend", "packing", "checks", "epoch"} <= MEASUREMENTS.keys()
    assert {name for name, each in MEASUREMENTS.items() if each.quick} >= {"encode", "attend"}


def test_the_folder_runs() -> None:
    """As a folder, from anywhere."""
    ran = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "bench"), "--help"], capture_output=True, text=True, check=True
    )
    assert "report FILE" in ran.stdout
