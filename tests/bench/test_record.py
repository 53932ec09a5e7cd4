"""What the bench makes of a run: a file, tables, and figures held against targets."""

import json
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
import torch

from bench.encoders.point import Point
from bench.record.finding import Finding
from bench.record.machine import machine
from bench.record.record import Record, RecordError
from bench.record.sheet import Sheet
from bench.record.targets import TARGETS, Target, targets_sheet
from bench.timing.product import OPERATIONS, PRODUCT
from bench.timing.times import Times


def finding(times: Mapping[str, list[float]], measurement: str = "encode") -> Finding:
    """What was found at a point whose times are given, candidate by candidate."""
    taken = {candidate: Times(seconds) for candidate, seconds in times.items()}
    return Finding(measurement, "a point", 2, Point("LSTM", True, "~20", 64, 300, 256).traits, taken)


def test_a_share_of_the_peak() -> None:
    """Operations a second over those of the product that ran beside."""
    found = attrs.evolve(finding({"compiled": [2.0], PRODUCT: [1.0]}), operations=OPERATIONS)
    assert found.share("compiled") == pytest.approx(0.5)
    assert found.share("plain") is None
    assert attrs.evolve(found, operations=0.0).share("compiled") is None


def test_memory_of_one_over_another() -> None:
    """Nothing is said where one of them was too slow to be measured."""
    found = attrs.evolve(finding({}), bytes={"compiled": 6, "packed": 4})
    assert found.memory("compiled", "packed") == 1.5
    assert found.memory("plain", "packed") is found.memory("compiled", "plain") is None


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every field of every finding, and the quartiles for whoever reads JSON alone."""
    found = attrs.evolve(
        finding({"packed": [3.0, 1.0, 2.0], "plain": [1.0]}), bytes={"packed": 7}, notes=["once"], operations=5.0
    )
    record = Record(machine(), [found, finding({"packed": [1.5, 1.25]}, "epoch")])
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


def test_targets_are_held_against_figures() -> None:
    """What was reached, and whether it is enough; nothing is made up for what was not measured."""
    record = Record(machine(), [])
    enough = Target("ratio", 2.0, 3.0, lambda _, candidate: 2.5 if candidate == "uncompiled" else 2.9)
    assert enough.cells(record) == ["ratio", ">= 2", "2.50, met", ">= 3", "2.90, missed"]
    less = Target("cost", None, 1.3, lambda _, candidate: 1.2 if candidate == "compiled" else None, at_most=True)
    assert less.cells(record) == ["cost", "", "not measured", "<= 1.3", "1.20, met"]
    assert not targets_sheet(record).rows
    rows = targets_sheet(Record(machine(), [finding({"by hand": [3.0], "uncompiled": [1.0]}, "epoch")])).rows
    assert [row[2::2] for row in rows] == [["3.00, met", "not measured"]]


def test_figures_are_those_of_the_points_that_they_name() -> None:
    """A made-up run in which each target has one answer."""

    def made(*seconds: float) -> Finding:
        candidates = ("packed", "dense", "uncompiled", "compiled")
        return finding({name: [each] for name, each in zip(candidates, seconds, strict=True)})

    sentences = made(6.0, 4.0, 2.0, 1.0)
    short, long = (
        attrs.evolve(each, traits={**each.traits, "lengths": lengths, "hidden": 128})
        for each, lengths in (
            (made(1.0, 1.0, 1.0, 0.5), "even 128"),
            (made(1.0, 1.0, 8.0, 6.0), "even 1,024"),
        )
    )
    # The longer rows were too slow for as many turns as the shorter ones had.
    short = attrs.evolve(short, times={name: Times([*times.seconds] * 3) for name, times in short.times.items()})
    reviews = attrs.evolve(sentences, traits={**sentences.traits, "lengths": "~230", "hidden": 512, "cell": "LSTM"})
    epochs = finding({"by hand": [3.0], "uncompiled": [2.0], "compiled": [1.0]}, "epoch")
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
