"""The cost model, and the choice of an engine by it."""

import json
import random
import statistics
from itertools import product
from pathlib import Path
from typing import get_args

import attrs
import pytest
import torch

from pipeline.extend import PackingOrder
from pipeline_recurrent.engines import StackInputs, Weights, check_costs, choose_engine, costs, fit_costs, measured
from pipeline_recurrent.engines.costs import FEATURES, Costs, Family, Sizes, compute_features, load_costs
from pipeline_recurrent.engines.measured import Batch, Kind, Measured, Setting, draw_lengths


def make_stack(*, training: bool = True, dtype: torch.dtype = torch.float32) -> StackInputs:
    """Return an LSTM over four rows of nine steps."""
    weights: Weights = (torch.zeros(16, 3, requires_grad=training), torch.zeros(16, 4), None, None)
    return StackInputs("lstm", torch.zeros(36, 3, dtype=dtype), PackingOrder(torch.full((4,), 9)), [[weights]])


def make_costs(**weights: dict[str, float]) -> Costs:
    """Return costs with these weights of engines, in training and inference alike."""
    if "packed" in weights:
        weights["packed, even"] = weights["packed"]
    table = {"lstm training float32": weights, "lstm inference float32": weights}
    return Costs.read(json.dumps({"threads": {"1": table}}))


def test_auto_chooses_the_cheapest_engine() -> None:
    """By each of the features. Packed is chosen if nothing is known."""
    stack = make_stack()
    for feature in FEATURES:
        for fast, slow in (("plain", "dense"), ("dense", "plain")):
            known = make_costs(packed={"call": 1e9}, **{fast: {feature: 1.0}, slow: {feature: 2.0}})
            assert choose_engine("auto", stack, known).name == fast
    assert choose_engine("auto", stack, make_costs()).name == "packed"


def test_auto_skips_engines_that_cannot_run() -> None:
    """The next cheapest is chosen; oneDNN has no float64."""
    known = make_costs(packed={"call": 9.0}, dense={"call": 1.0}, plain={"call": 2.0}, cudnn={"call": 0.0})
    assert choose_engine("auto", make_stack(), known).name == "dense"
    assert choose_engine("auto", make_stack(dtype=torch.float64), known).name == "plain"
    meta = attrs.evolve(make_stack(), steps=torch.zeros(36, 3, device="meta"))
    assert choose_engine("auto", meta, known).name == "packed"


def test_torchs_packed_lstm_has_two_costs() -> None:
    """Rows of one length, and only these, go to torch's dense kernel."""
    table = {"packed": {"call": 9.0}, "packed, even": {"call": 1.0}, "plain": {"call": 2.0}}
    known = Costs.read(json.dumps({"threads": {"1": {"lstm training float32": table}}}))
    assert choose_engine("auto", make_stack(), known).name == "packed"
    ragged = attrs.evolve(make_stack(), order=PackingOrder(torch.tensor([9, 9, 9, 8])), steps=torch.zeros(35, 3))
    assert choose_engine("auto", ragged, known).name == "plain"


def test_costs_of_the_nearest_number_of_threads_are_used() -> None:
    """So a machine with more or fewer threads than were measured has costs too."""
    table = {threads: {"lstm training float32": {"plain": {"call": float(threads)}}} for threads in (1, 8)}
    known = Costs.read(json.dumps({"threads": table}))
    sizes = Sizes.of(make_stack())
    assert [known.microseconds("plain", sizes, threads) for threads in (1, 2, 7, 64)] == [1, 1, 8, 8]


def test_the_shipped_costs_prefer_plain_to_packed_for_long_rows() -> None:
    """In training; and there are weights for every kind of cell."""
    sizes = Sizes("lstm", training=True, rows=32, longest=600, steps=7_000, features=100, hidden=128, directions=2)
    for family, training in product(get_args(Family), (True, False)):
        own = attrs.evolve(sizes, family=family, training=training)
        assert {"packed", "dense", "plain"} <= load_costs().weights(own, threads=1).keys()
        if training:
            times = {engine: load_costs().microseconds(engine, own, threads=1) for engine in ("packed", "plain")}
            assert times["plain"] < times["packed"] / 2


def test_bfloat16_has_its_own_costs() -> None:
    """For bfloat16 values and under autocast; a file without them falls back to those of float32."""
    tables = {"lstm training float32": {"plain": {"call": 1.0}}, "lstm training bfloat16": {"plain": {"call": 2.0}}}
    known, old = (
        Costs.read(json.dumps({"threads": {"1": table}}))
        for table in (tables, {"lstm training float32": tables["lstm training float32"]})
    )
    with torch.autocast("cpu", torch.bfloat16):
        autocast = Sizes.of(make_stack())
    half = Sizes.of(make_stack(dtype=torch.bfloat16))
    sizes = (Sizes.of(make_stack()), autocast, half, Sizes.of(make_stack(dtype=torch.float16)))
    assert [known.microseconds("plain", each, 1) for each in sizes] == [1, 2, 2, 1]
    assert [old.microseconds("plain", each, 1) for each in sizes] == [1, 1, 1, 1]


@pytest.mark.parametrize("amx", [False, True])
def test_machines_with_amx_have_their_own_costs(amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In both precisions. A file without them falls back to those without AMX."""
    monkeypatch.setattr(costs, "has_amx", lambda: amx)
    half, full = Sizes.of(make_stack(dtype=torch.bfloat16)), Sizes.of(make_stack())
    table = {"lstm training float32": {"plain": {"call": 1.0}}, "lstm training bfloat16": {"plain": {"call": 2.0}}}
    low = {"lstm training bfloat16 with amx": {"plain": {"call": 3.0}}}
    both = {**low, "lstm training float32 with amx": {"plain": {"call": 4.0}}}
    for added, wanted in (({}, (1, 2)), (low, (1, 3)), (both, (4, 3))):
        known = Costs.read(json.dumps({"threads": {"1": {**table, **added}}}))
        found = tuple(known.microseconds("plain", sizes, 1) for sizes in (full, half))
        assert found == (wanted if amx else (1, 2))


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_large_layers_are_not_misjudged(threads: int, amx: bool) -> None:
    """No batch quite that large is measured for a fit; compiled kernels take half of the time of plain operations."""
    sizes = Sizes("lstm", True, rows=32, longest=900, steps=7_360, features=100, hidden=512, directions=2, amx=amx)
    for each in (sizes, attrs.evolve(sizes, precision="bfloat16")):
        native, plain = (load_costs().microseconds(engine, each, threads) for engine in ("native", "plain"))
        assert native < 0.9 * plain


def test_a_fit_reproduces_the_times() -> None:
    """With weights that are not negative, although one of the measurements was disturbed."""
    truth = (50.0, 20.0, 0.0, 3.0, 100.0, 30.0, 40.0, 200.0, 0.0, 20.0, 900.0, 5.0)
    points: list[fit_costs.Point] = []
    for rows, longest, read, hidden, directions in product((1, 30), (3, 90), (9, 300), (16, 200, 512), (1, 2)):
        sizes = Sizes("lstm", True, rows, longest, rows * longest, read, hidden, directions=directions)
        row = compute_features("packed", sizes)
        points.append((row, sum(weight * number for weight, number in zip(truth, row, strict=True)), 1.0))
    disturbed = [(points[0][0], 10 * points[0][1], 1.0), *points[1:]]
    fitted = fit_costs.fit(disturbed)
    for row, taken, _ in points:
        estimate = sum(fitted[name] * number for name, number in zip(FEATURES, row, strict=True))
        assert estimate == pytest.approx(taken, rel=0.1)
    assert min(fitted.values()) >= 0


@pytest.mark.parametrize("kind", get_args(Kind))
def test_batches_are_drawn_as_their_kind_says(kind: Kind) -> None:
    """Rows of one length, one row, or any; those that `Bucket` cuts have little padding."""
    generator = random.Random(0)
    drawn = [draw_lengths(kind, generator) for _ in range(20)]
    shares = [sum(lengths) / (len(lengths) * max(lengths)) for lengths in drawn]
    if kind == "lone":
        assert {len(lengths) for lengths in drawn} == {1}
    elif kind == "even":
        assert set(shares) == {1.0}
    elif kind == "bucketed":
        assert statistics.median(shares) > 0.95
        assert min(shares) < 1
    else:
        assert statistics.median(shares) < 0.8


@pytest.mark.parametrize("training", [False, True])
def test_large_batches_are_measured_too(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come first. Over long rows of unequal length torch's packed kernel is left out in training: it is too slow."""
    taken: list[tuple[Batch, bool]] = []

    def measure_batch(_: Setting, batch: Batch) -> Measured:
        taken.append((batch, 4e8 < batch.count_work(training=False) < 4e9))
        return make_measured(plain=[1.0])

    setting = Setting("rnn", training, "float32")
    with monkeypatch.context() as patch:
        patch.setattr(measured, "measure_batch", measure_batch)
        assert len(list(measured.measure(setting, random.Random(0), seconds=0, large=3))) == 4
    assert [is_large for _, is_large in taken] == [True] * 3 + [False]
    monkeypatch.setattr(measured, "_MAX_LARGE_WORK", 10)
    monkeypatch.setattr(measured, "_SECONDS", 0)
    monkeypatch.setattr(measured, "_MIN_ROUNDS", 2)
    found = measured.measure_batch(setting, Batch("random", [3, 1], 2, 4, 1))
    assert ("packed" in found.seconds) != training


def make_measured(**seconds: list[float]) -> Measured:
    """Return a batch with these times of engines."""
    return Measured(Batch("even", [9] * 4, 3, 4, 1), Sizes.of(make_stack()), seconds)


def test_the_check_compares_the_chosen_engine_with_the_best() -> None:
    """Round by round, so that a slow phase of the machine does not count."""
    measured = make_measured(packed=[1.1, 9.0, 1.1], plain=[1.0, 9.0, 1.0], native=[3.0, 3.0])
    choices = [check_costs.Choice(1, measured, engine) for engine in ("plain", "packed", "native")]
    assert [choice.ratio for choice in choices] == pytest.approx([1.0, 1.1, (3 / 1 + 3 / 9) / 2])
    summary = check_costs.summarize(choices[:2])
    assert "threads=1, float32, even: 2 batches, mean 1.050, 50% within 1.03, largest 1.100" in summary
    assert summary.endswith("largest of all: 1.100")


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same small batch each time, and measure it once per engine."""

    def draw(_: object) -> Batch:
        return Batch("random", [3, 1], 2, 4, 2)

    monkeypatch.setattr(measured, "draw_batch", draw)
    monkeypatch.setattr(measured, "draw_large_batch", draw)
    monkeypatch.setattr(measured, "_SECONDS", 0)
    monkeypatch.setattr(measured, "_MIN_ROUNDS", 2)
    monkeypatch.setattr(fit_costs, "_ROUNDS", 9)


@pytest.mark.usefixtures("small_batches")
def test_the_command_measures_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file can be read, and keeps the costs of other numbers of threads."""
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"threads": {"64": {"lstm training float32": {"packed": {"call": 5}}}}}))
    monkeypatch.setattr("sys.argv", ["fit_costs", "--seconds", "0", "--to", str(path)])
    fit_costs.main()
    known = Costs.read(path.read_text())
    assert set(known.by_threads) == {64, torch.get_num_threads()}
    sizes = attrs.evolve(Sizes.of(make_stack(training=False)), family="gru", precision="bfloat16")
    assert {"packed", "dense", "plain"} <= known.weights(sizes, torch.get_num_threads()).keys()


@pytest.mark.usefixtures("small_batches")
def test_one_precision_leaves_the_costs_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what was measured is replaced."""
    path, threads = tmp_path / "costs.json", torch.get_num_threads()
    before = {"lstm training float32": {"packed": {"call": 5}}, "lstm training other": {"packed": {"call": 6}}}
    path.write_text(json.dumps({"threads": {str(threads): before}}))
    monkeypatch.setattr("sys.argv", ["fit_costs", "--seconds", "0", "--to", str(path), "--precision", "bfloat16"])
    fit_costs.main()
    table = json.loads(path.read_text())["threads"][str(threads)]
    assert {name: table.pop(name) for name in before} == before
    assert table
    assert all("bfloat16" in name for name in table)


@pytest.mark.usefixtures("small_batches")
def test_the_check_measures_and_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A line per batch, the worst at the end, and the largest ratio of all."""
    monkeypatch.setattr("sys.argv", ["check_costs", "--seconds", "0", "--threads", "1"])
    check_costs.main()
    *lines, _, last = capsys.readouterr().out.splitlines()
    ratios = [float(line.split()[0]) for line in lines if "steps" in line]
    assert len(ratios) == 2 * len(measured.SETTINGS)  # a large batch each
    assert ratios == sorted(ratios)
    assert last == f"largest of all: {ratios[-1]:.3f}"
