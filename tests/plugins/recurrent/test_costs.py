"""The cost model, and the choice of an engine by it."""

import json
from itertools import product
from pathlib import Path
from typing import get_args

import attrs
import pytest
import torch

from pipeline.extend import PackingOrder
from pipeline_recurrent.engines import StackInputs, Weights, choose_engine, fit_costs
from pipeline_recurrent.engines.costs import FEATURES, Costs, Family, Sizes, compute_features, load_costs


def make_stack(*, training: bool = True, dtype: torch.dtype = torch.float32) -> StackInputs:
    """Return an LSTM over four rows of nine steps."""
    weights: Weights = (torch.zeros(16, 3, requires_grad=training), torch.zeros(16, 4), None, None)
    return StackInputs("lstm", torch.zeros(36, 3, dtype=dtype), PackingOrder(torch.full((4,), 9)), [[weights]])


def make_costs(**weights: dict[str, float]) -> Costs:
    """Return costs with these weights of engines, in training and inference alike."""
    if "packed" in weights:
        weights["packed, even"] = weights["packed"]
    table = {"lstm training": weights, "lstm inference": weights}
    return Costs.read(json.dumps({"threads": {"1": table}}))


def test_auto_chooses_the_cheapest_engine() -> None:
    """By each of the features. Packed is kept unless another is clearly cheaper, and if nothing is known."""
    stack = make_stack()
    for feature in FEATURES:
        for fast, slow in (("plain", "dense"), ("dense", "plain")):
            known = make_costs(packed={"call": 1e9}, **{fast: {feature: 1.0}, slow: {feature: 2.0}})
            assert choose_engine("auto", stack, known).name == fast
    assert choose_engine("auto", stack, make_costs(packed={"call": 1.0}, plain={"call": 0.92})).name == "packed"
    assert choose_engine("auto", stack, make_costs(packed={"call": 1.0}, plain={"call": 0.88})).name == "plain"
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
    known = Costs.read(json.dumps({"threads": {"1": {"lstm training": table}}}))
    assert choose_engine("auto", make_stack(), known).name == "packed"
    ragged = attrs.evolve(make_stack(), order=PackingOrder(torch.tensor([9, 9, 9, 8])), steps=torch.zeros(35, 3))
    assert choose_engine("auto", ragged, known).name == "plain"


def test_costs_of_the_nearest_number_of_threads_are_used() -> None:
    """So a machine with more or fewer threads than were measured has costs too."""
    table = {threads: {"lstm training": {"plain": {"call": float(threads)}}} for threads in (1, 8)}
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


def test_a_fit_reproduces_the_times() -> None:
    """With weights that are not negative."""
    truth = dict(zip(FEATURES, (50.0, 3.0, 0.0, 30.0, 40.0, 0.0, 900.0, 5.0), strict=True))
    points: list[fit_costs.Point] = []
    for rows, longest, read, hidden in product((1, 30), (3, 90), (9, 300), (16, 200, 512)):
        sizes = Sizes(
            "lstm", training=True, rows=rows, longest=longest, steps=rows * longest, features=read, hidden=hidden
        )
        row = compute_features("packed", sizes)
        points.append((row, sum(weight * number for weight, number in zip(truth.values(), row, strict=True))))
    fitted = fit_costs.fit(points)
    for row, taken in points:
        estimate = sum(fitted[name] * number for name, number in zip(FEATURES, row, strict=True))
        assert estimate == pytest.approx(taken, rel=0.05)
    assert min(fitted.values()) >= 0


def test_the_command_measures_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file can be read, and keeps the costs of other numbers of threads."""
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"threads": {"64": {"lstm training": {"packed": {"call": 5}}}}}))
    monkeypatch.setattr("sys.argv", ["fit_costs", "--seconds", "0", "--to", str(path)])

    def small(_: object) -> tuple[list[int], int, int, int]:
        return [3, 1], 2, 4, 2

    monkeypatch.setattr(fit_costs, "draw_batch", small)
    monkeypatch.setattr(fit_costs, "_ROUNDS", 9)
    fit_costs.main()
    known = Costs.read(path.read_text())
    assert set(known.by_threads) == {64, torch.get_num_threads()}
    assert {"packed", "dense", "plain"} <= known.weights(
        attrs.evolve(Sizes.of(make_stack(training=False)), family="gru"), torch.get_num_threads()
    ).keys()
