"""The command line of the benchmarks, and the measurements with small sizes."""

import doctest
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import attrs
import pytest
import torch

import bench
from bench import command
from bench.command import MEASUREMENTS
from bench.encoders.points import Point
from bench.measurements import (
    attend,
    encode,
    epoch,
    heads,
    inference,
    models,
    packing,
    serve,
    transformer,
    users,
)
from bench.record import WITH_NATIVE, WITHOUT_NATIVE, Result
from bench.report import Extent, Measurement
from bench.timing import MATMUL, Rounds
from pipeline_attention import General
from pipeline_recurrent.engines.check_costs import Choice
from pipeline_recurrent.engines.costs import Sizes
from pipeline_recurrent.engines.measured import Batch, Measured
from pipeline_recurrent.native import available

ROOT = Path(__file__).parents[2]
FEW = Rounds(most=2, fewest=2)
SMALL = Point("LSTM", training=True, lengths="~20", rows=3, features=4, hidden=5)


def test_measurements_with_small_sizes() -> None:
    """Each compares its candidates before it times them, and returns the times of all."""
    case = attend.Case(General, 6, training=True)
    assert attend.measure_case(case, 1, FEW, rows=2, hidden=4).times.keys() == {"ours", "loop", "masked"}
    assert {"packed", "auto", WITHOUT_NATIVE} <= inference.measure_precompute_case(
        inference.PrecomputeCase(3, 4, 5, words=9), 1, FEW
    ).times.keys()
    paths = heads.measure_paths(heads.PathsCase(training=False, rows=3, mean_length=3, classes=2), 1, FEW)
    assert paths.times.keys() >= {"padded", "plain"}
    sizes = epoch.Sizes(rows=12, words=9, batch=4, embedding=3, hidden=5)
    result = epoch.measure_epoch(sizes, 1, FEW)
    assert {"by hand", WITHOUT_NATIVE, f"{WITHOUT_NATIVE}{epoch.BY_ROWS}"} <= result.times.keys()
    assert epoch.tabulate_epoch([result]).rows[0][-1].count("%") == (3 if WITH_NATIVE in result.times else 2)
    rows = packing.Collated(torch.randn(3, 4, packing.PACKING_FEATURES), torch.tensor([4, 1, 2]))
    result = packing.measure_batch("three", rows, training=True)
    assert result.peak_bytes.keys() == result.times.keys() == {"padded", "packed"}
    assert packing.measure_checks("one", rounds=2).times.keys() == {"checked", "unchecked", "step"}
    result = heads.measure_generation(heads.GenerateCase(2, 3, attends=True, hidden=4), 1, FEW)
    assert result.times.keys() == {"ours", "whole past"}
    assert not result.notes
    assert serve.measure_loading(1, rounds=2).times.keys() == {"load", "safetensors"}


def test_measurements_of_inference_with_small_sizes() -> None:
    """Each compares its candidates first, and states the errors of low precisions."""
    point = Point("LSTM", training=False, lengths="exactly 20", rows=1, features=4, hidden=16, threads="all")
    result = inference.measure_point(point, 1, FEW)
    assert (
        {"packed", *inference.PRECISIONS, inference.TORCH_INT8}
        <= result.times.keys() - {MATMUL}
        <= result.counts.keys()
    )
    assert result.counts["float32"] < result.counts["bfloat16"] < 0.05
    assert inference.tabulate_inference([result]).rows[0][4].endswith("%")
    result = models.measure_latency_case(models.LatencyCase(4, 16, features=5, words=30), 1, FEW)
    assert {models.PLAIN, models.OURS, *inference.PRECISIONS} <= result.times.keys()
    assert len(models.tabulate_latency([result]).rows) == 1
    result = models.measure_invariance_sizes(models.InvarianceSizes(3, hidden=16), FEW)
    if available() is None:
        assert result.counts["deterministic, same bits"] == 1.0
    assert len(models.tabulate_invariance([result]).rows) == 3


@pytest.mark.parametrize("task", users.TASKS, ids=lambda task: task.name)
def test_epochs_as_users_run_them(task: users.Task) -> None:
    """Loss and gradients of the plain model equal those of the stages; all are timed."""
    small = attrs.evolve(task, rows=4, batch=3 if task.is_windows else 40, features=3, hidden=4, words=9)
    result = users.measure_task(small, 1, FEW)
    assert result.times.keys() == {epoch.PLAIN, "float32", "bfloat16"}
    assert len(users.tabulate([result]).rows) == 1


def test_training_in_bfloat16_with_small_sizes() -> None:
    """The error is stated for ours and for packed."""
    result = encode.measure_low_precision_point(attrs.evolve(SMALL, hidden=16), 1, FEW)
    assert result.counts[encode.OURS_LOW] < 0.05
    assert 0 < result.counts[encode.PACKED_LOW] < 0.05
    assert encode.tabulate_low_precision([result]).rows[0][3].endswith("%")


def test_a_transformer_with_small_sizes() -> None:
    """Its states and gradients equal torch's; both are timed, with dropout too."""
    point = transformer.Point("~20", rows=3, hidden=8, dropout=0.1)
    result = transformer.measure_point(point, 1, FEW)
    assert {transformer.TORCH, transformer.OURS} < result.times.keys()
    assert transformer.tabulate([result]).rows[0][4].endswith("%")


def test_choices_are_summarized_by_kind() -> None:
    """With the mean and the largest ratio, and the worst batch."""
    sizes = Sizes("lstm", False, 1, 9, 9, 3, 4)
    measured = [
        Measured(Batch("lone", [9], 3, 4, 1), sizes, {"packed": [1.0] * 3, "native": [ratio] * 3})
        for ratio in (1.5, 1.25, 0.5)
    ]
    (result,) = encode.summarize_choices(Choice(2, each, "native") for each in measured)
    assert result.counts == {"batches": 3, "mean": 1.25, "within 1.03": 1 / 3, "largest": 1.5}
    assert result.threads == 2
    assert "1.500 native" in encode.tabulate_choices([result]).rows[0][-1]


@pytest.mark.parametrize("words", [["quick", "--json"], ["--quick", "--json"]])
def test_a_run_is_printed_and_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quick run has the quick measurements only; `report` prints the tables of its file as Markdown."""
    extents: list[Extent] = []

    def measure(extent: Extent) -> Iterator[Result]:
        extents.append(extent)
        yield encode.measure_point(SMALL, 1, FEW)

    measurements = {"encode": attrs.evolve(MEASUREMENTS["encode"], measure=measure), "checks": MEASUREMENTS["checks"]}
    monkeypatch.setattr(command, "MEASUREMENTS", measurements)
    file = tmp_path / "run.json"
    assert command.main([*words, str(file)]) == 0
    assert extents == ["quick"]
    assert f"encode: {SMALL}" in capsys.readouterr().out
    assert command.main(["report", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"| {SMALL}" in printed
    assert "### Targets" in printed
    assert torch.__version__ in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoding"], "NAME must be one of encode, "),
        (["quick", "--full"], "exclude each other"),
        (["report"], "report takes one JSON file, got 0"),
        (["report", "nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_command_lines_are_rejected(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With exit status 2, before anything is measured."""
    with pytest.raises(SystemExit) as exited:
        command.main(words)
    assert exited.value.code == 2
    assert message in capsys.readouterr().err


def test_names_of_measurements() -> None:
    """Each measurement is listed under its own name."""
    assert all(isinstance(each, Measurement) and each.name == name for name, each in MEASUREMENTS.items())
    assert {"encode", "attend", "packing", "checks", "epoch", "precompute"} <= MEASUREMENTS.keys()
    assert {name for name, each in MEASUREMENTS.items() if each.quick} >= {"encode", "attend"}


def test_the_folder_is_a_program() -> None:
    """Python runs the folder, from any working directory."""
    ran = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "bench"), "--help"], capture_output=True, text=True, check=True
    )
    assert "report FILE" in ran.stdout


@pytest.mark.parametrize("module", sorted(found.name for found in walk_packages(bench.__path__, "bench.")))
def test_examples_run(module: str) -> None:
    """The examples in the docstrings of every module run; every module can be imported."""
    assert not doctest.testmod(import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE).failed
