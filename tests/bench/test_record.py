"""Records of runs: files, tables, and targets."""

import json
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
import torch

from bench.encoders.points import Lengths, Point
from bench.goals import tabulate_goals
from bench.measurements import inference
from bench.record import WITH_NATIVE, WITHOUT_NATIVE, Parameter, Record, RecordError, Result, inspect_machine
from bench.report import ReportTable
from bench.targets import TARGETS, Target, tabulate_summary, tabulate_targets
from bench.timing import MATMUL, MATMUL_OPERATIONS, Times


def make_result(times: Mapping[str, list[float]], measurement: str = "encode") -> Result:
    """Return the result of a point with these times per candidate."""
    taken = {candidate: Times(seconds) for candidate, seconds in times.items()}
    return Result(measurement, "a point", 2, Point("LSTM", True, "~20", 64, 300, 256).parameters, taken)


def test_a_share_of_the_peak() -> None:
    """The rate of operations, divided by that of the matrix product."""
    found = attrs.evolve(make_result({"compiled": [2.0], MATMUL: [1.0]}), operations=MATMUL_OPERATIONS)
    assert found.peak_share("compiled") == pytest.approx(0.5)
    assert found.peak_share("plain") is None
    assert attrs.evolve(found, operations=0.0).peak_share("compiled") is None


def test_memory_ratios() -> None:
    """There is no ratio if one of the two was not measured."""
    found = attrs.evolve(make_result({}), peak_bytes={"compiled": 6, "packed": 4})
    assert found.memory_ratio("compiled", "packed") == 1.5
    assert found.memory_ratio("plain", "packed") is found.memory_ratio("compiled", "plain") is None


def test_a_record_is_read_back(tmp_path: Path) -> None:
    """All fields are equal; the file also has the quartiles, for readers of the JSON alone."""
    found = attrs.evolve(
        make_result({"packed": [3.0, 1.0, 2.0], "plain": [1.0]}),
        peak_bytes={"packed": 7},
        notes=["once"],
        operations=5.0,
    )
    record = Record(inspect_machine(), [found, make_result({"packed": [1.5, 1.25]}, "epoch")])
    file = tmp_path / "new" / "bench.json"
    record.write(file)
    record.write(file)  # replaces the file
    assert Record.read(file) == record
    assert [path.name for path in file.parent.iterdir()] == ["bench.json"]
    fields = json.loads(file.read_text("utf-8"))
    assert fields["results"][0]["times"]["packed"]["quartiles"] == [1.5, 2.0, 2.5]
    assert fields["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": 2, "machine": {}, "results": []}'])
def test_other_files_are_rejected(text: str, tmp_path: Path) -> None:
    """The error names the file."""
    file = tmp_path / "bench.json"
    file.write_text(text, "utf-8")
    with pytest.raises(RecordError, match=r"bench\.json must .*; measure again\."):
        Record.read(file)


def test_records_of_an_older_format_are_rejected(tmp_path: Path) -> None:
    """The error states both formats."""
    file = tmp_path / "bench.json"
    file.write_text('{"format": 1, "machine": {}, "findings": []}', "utf-8")
    with pytest.raises(RecordError, match=r"bench\.json must have format 2, got 1; measure again\."):
        Record.read(file)


def test_targets_are_compared_with_results() -> None:
    """Upper and lower bounds, met and missed; results without a goal, and goals without a result."""
    record = Record(inspect_machine(), [])
    enough = Target("ratio", 2.0, 3.0, lambda _, candidate: 2.5 if candidate == WITHOUT_NATIVE else 2.9)
    assert enough.make_cells(record) == ["ratio", ">= 2", "2.50, met", ">= 3", "2.90, missed"]
    less = Target(
        "cost", None, 1.3, lambda _, candidate: 1.2 if candidate == WITH_NATIVE else None, lower_is_better=True
    )
    assert less.make_cells(record) == ["cost", "", "not measured", "<= 1.3", "1.20, met"]
    assert not tabulate_targets(record).rows
    rows = tabulate_targets(
        Record(inspect_machine(), [make_result({"by hand": [3.0], WITHOUT_NATIVE: [1.0]}, "epoch")])
    ).rows
    assert [row[2::2] for row in rows] == [["3.00, met", "not measured"]]


def test_targets_use_the_points_in_their_names() -> None:
    """In an artificial record every target has a known result."""

    def make(*seconds: float) -> Result:
        candidates = ("packed", "dense", WITHOUT_NATIVE, WITH_NATIVE)
        return make_result({name: [each] for name, each in zip(candidates, seconds, strict=True)})

    sentences = make(6.0, 4.0, 2.0, 1.0)
    short, long = (
        attrs.evolve(each, parameters={**each.parameters, "lengths": lengths, "hidden": 128})
        for each, lengths in (
            (make(1.0, 1.0, 1.0, 0.5), "exactly 128"),
            (make(1.0, 1.0, 8.0, 6.0), "exactly 1,024"),
        )
    )
    # The longer rows were slower, so they have fewer rounds.
    short = attrs.evolve(short, times={name: Times([*times.seconds] * 3) for name, times in short.times.items()})
    reviews = attrs.evolve(
        sentences, parameters={**sentences.parameters, "lengths": "~230", "hidden": 512, "cell": "LSTM"}
    )
    epochs = make_result({"by hand": [3.0], WITHOUT_NATIVE: [2.0], WITH_NATIVE: [1.0]}, "epoch")
    record = Record(inspect_machine(), [sentences, short, long, reviews, epochs])
    results = {
        target.name: (target.compute(record, WITHOUT_NATIVE), target.compute(record, WITH_NATIVE)) for target in TARGETS
    }
    assert results["training, rows of ~20 steps, vs. packed"] == (3.0, 6.0)
    assert results["training vs. the faster of packed and dense, lowest"] == (1 / 8, 1 / 6)
    assert results["LSTM training, rows of ~230 steps, hidden 512, vs. packed"] == (3.0, 6.0)
    assert results["LSTM training, rows of ~230 steps, hidden 128, vs. packed"] == (None, None)
    assert results["time per step, rows of 1,024 steps vs. rows of 128"] == (1.0, 1.5)
    assert results["an epoch from texts vs. random batches and packed"] == (1.5, 3.0)
    assert results["inference vs. packed, lowest"] == (None, None)


def test_goals_use_the_points_in_their_names() -> None:
    """Each takes its figure from its own measurement; what was not measured is said to be so."""
    trained = {**Point("LSTM", True, "~20, bucketed", 32, 100, 128, threads="one").parameters}
    bucketed = Result("encode", "", 1, trained, {"packed": Times([3.0]), WITH_NATIVE: Times([2.0])})
    # Other threads, lengths and sizes do not count.
    others = [
        attrs.evolve(bucketed, parameters={**trained, name: value}, times={"packed": Times([9.0])})
        for name, value in (("threads", "all"), ("lengths", "~20"), ("hidden", 256))
    ]
    row = {**trained, "training": False, "lengths": "exactly 20", "rows": 1}
    times = {"packed": [2.0], "float32": [1.0], "int8": [1.0], "torch int8": [1.75]}
    infer = Result("inference", "", 1, row, {name: Times(each) for name, each in times.items()})
    precise = attrs.evolve(infer, counts={"int8": 0.01, "torch int8": 0.02})
    epochs = [
        Result("users", "", 1, {"name": name}, {"plain loop": Times([ratio]), "float32": Times([1.0])})
        for name, ratio in (("classification", 1.4), ("tagging", 1.2), ("windows", 1.1))
    ]
    choices = [Result("choices", "", 1, {}, {}, counts={"largest": largest}) for largest in (1.02, 1.2)]
    record = Record(inspect_machine(), [bucketed, *others, precise, *epochs, *choices])
    found = {name: cells for name, *cells in tabulate_goals(record).rows}
    assert found["training, bucketed, 32 rows of ~20, hidden 128, 1 thread / packed"] == [">= 1.4", "1.5", "", "met"]
    assert found["auto / the best engine, any batch"] == ["<= 1.03", "1.2", "", "missed"]
    assert found["an epoch with fit, float32 / plain loop, lower of two tasks"] == [">= 1.3", "1.2", "", "missed"]
    assert found["truncated back-propagation over even windows / plain loop"] == [">= 1.1", "1.1", "", "met"]
    assert found["one row of 20 steps, input 100, hidden 128, 1 thread / packed"] == [">= 2.5", "2", "", "missed"]
    int8 = "int8 / torch's int8 at equal or smaller error, every point"
    assert found[int8] == [">= 1.5", "1.75", "", "met"]
    assert found["texts tokenized / raw tokenizers"] == [">= 0.8", "", "", "not measured"]
    coarse = attrs.evolve(infer, counts={"int8": 0.03, "torch int8": 0.02})
    found = {name: cells for name, *cells in tabulate_goals(attrs.evolve(record, results=[coarse])).rows}
    assert found[int8] == [">= 1.5", "0", "", "missed"]
    assert not tabulate_goals(attrs.evolve(record, results=[])).rows


def test_goals_state_the_limit_that_the_matrix_peak_sets() -> None:
    """One divided by the other candidate's share of the peak; low precisions and points without a peak have none."""
    point = Point("LSTM", False, "~20, bucketed", 32, 100, 128, threads="one")
    times = {"packed": [4.0], "float32": [2.0], "int8": [1.0], inference.TORCH_INT8: [2.0]}
    taken = {name: Times(each) for name, each in {**times, MATMUL: [1.0]}.items()}
    counts = {"int8": 0.01, inference.TORCH_INT8: 0.02}
    infer = Result("inference", "", 1, point.parameters, taken, operations=2 * MATMUL_OPERATIONS, counts=counts)
    steps = {"torch": Times([5.0]), "ours": Times([2.0]), MATMUL: Times([0.5])}
    sizes: dict[str, Parameter] = {"lengths": "~20", "dropout": 0.0, "threads": "one"}
    trained = Result("transformer", "", 1, sizes, steps, operations=MATMUL_OPERATIONS)
    found = {name: cells for name, *cells in tabulate_goals(Record(inspect_machine(), [infer, trained])).rows}
    assert found["transformer, training, random rows of ~20 / torch"] == [">= 2.5", "2.5", "10", "met"]
    name = "inference, bucketed rows of ~20, {}, 1 thread / packed"
    assert found[name.format("float32")] == [">= 1.5", "2", "2", "met"]
    assert found[name.format("int8")] == [">= 4", "4", "", "met"]
    without = attrs.evolve(infer, operations=0.0)
    found = {name: cells for name, *cells in tabulate_goals(Record(inspect_machine(), [without])).rows}
    assert found[name.format("float32")] == [">= 1.5", "2", "", "met"]


def test_the_summary_has_the_range_of_each_cell() -> None:
    """Bucketed batches first; other cells and sizes do not mix."""
    points: Mapping[Lengths, tuple[float, ...]] = {"~20, bucketed": (3.0, 1.5), "~20": (12.0,)}
    results = [
        Result(
            "encode",
            "",
            1,
            Point("LSTM", True, lengths, 32, 100, 128).parameters,
            {"packed": Times([ratio]), WITH_NATIVE: Times([1.0])},
        )
        for lengths, ratios in points.items()
        for ratio in ratios
    ]
    gru = attrs.evolve(results[0], parameters={**results[0].parameters, "cell": "GRU"}, times={"packed": Times([99.0])})
    table = tabulate_summary(Record(inspect_machine(), [*results, gru]))
    assert table.rows == [["training, float32", "1.5 to 3", "", "12", ""]]


def test_a_table_in_markdown() -> None:
    """A separator inside a cell is replaced, so that the cell stays in its column."""
    table = ReportTable("Heights", ["name", "metres"], [["a|b", "2"]], ["Measured."])
    assert table.to_markdown().splitlines() == [
        "### Heights",
        "",
        "| name | metres |",
        "| --- | --- |",
        "| a/b | 2 |",
        "",
        "Measured.",
    ]
