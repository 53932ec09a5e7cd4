"""Tests of the multiply-adds of stages."""

from collections.abc import Callable
from operator import methodcaller

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

from pipeline import (
    Attend,
    AttendEarlier,
    Classify,
    Embed,
    Encode,
    Encoder,
    Ids,
    MaybeCausal,
    ModuleStage,
    Pack,
    Padded,
    Pool,
    Pooled,
    Stage,
    States,
    Tag,
)
from pipeline.summary.work import Work, count_operations, get_multiply_adds
from pipeline_recurrent import GRU, LSTM
from support.summaries import Rectangular, small


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("encoder", "gates"), [(LSTM, 4), (GRU, 3)])
def test_work_of_a_recurrent_encoder(encoder: Callable[..., Encoder], gates: int, layers: int, *, both: bool) -> None:
    """One product with the input and one with the state, for each gate, direction and layer."""
    summary = (Pack() >> Embed(9, 5) >> Encode(encoder(5, 7, num_layers=layers, bidirectional=both))).check()
    directions = 2 if both else 1
    inputs = [5, *[7 * directions] * (layers - 1)]
    expected = sum(directions * gates * 7 * (size + 7) for size in inputs)
    assert [entry.work for entry in summary.entries] == [Work(), Work(), Work(step=expected)]


@pytest.mark.parametrize(
    ("stage", "step", "pair"),
    [
        (Attend("dot"), 0, 2 * 6),
        (Attend("general"), 6 * 6, 2 * 6),
        (Attend("additive", hidden_size=5), 2 * 6 * 5, 5 + 6),
        (Pool("attention"), 6 * 6 + 6, 0),
        (Tag(3), 6 * 3, 0),
    ],
)
def test_work_of_attention_grows_with_the_length(stage: Stage[States, object], step: int, pair: int) -> None:
    """Scores and contexts are products of each pair of steps of a row."""
    (*_, entry) = (small() >> stage).check().entries
    assert entry.work == Work(step=step, pair=pair)


def test_work_of_earlier_attention_leaves_out_the_first_step() -> None:
    """Of T steps, T - 1 are compared with T - 1."""
    (*_, entry) = (small() >> AttendEarlier("scaled_dot")).check().entries
    assert entry.work == Work(row=2 * 6, step=-2 * 2 * 6, pair=2 * 6)
    assert str(entry.work) == "12·time - 24 per step + 12 per row"


def test_work_equals_that_of_a_run() -> None:
    """For lengths that were not sampled, the multiply-adds equal those counted with data."""
    # Not a recurrent encoder: on a CPU, torch runs it as one operation, which the counter does not know.
    model = small(Encode(Rectangular(4, 6))) >> Attend("additive") >> Pool("attention") >> Classify(5)
    work = model.check().work
    assert work is not None
    for time in (5, 11):
        batch = Padded(Ids, torch.ones(3, time, dtype=torch.int64), torch.full((3,), time))
        with torch.no_grad(), count_operations() as counter:
            model(batch)
        assert 3 * work.of(time) == get_multiply_adds(counter)


def test_work_in_words() -> None:
    """There are terms per step and per row, and one that grows with the length."""
    assert str(Work()) == "0"
    assert str(Work(step=40_000)) == "40,000 per step"
    assert str(Work(row=7, step=5_120, pair=256)) == "5,120 + 256·time per step + 7 per row"
    assert str(Work(pair=0.5)) == "0.5·time per step"


class Squared(ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """A stage whose work grows with the cube of a row's length."""

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """Return the states."""
        square = torch.zeros(value.width, value.width, device=value.final.device)
        _ = square @ square
        return value


def test_work_of_a_higher_degree_is_unknown() -> None:
    """It is reported as unknown, not as a wrong number."""
    summary = (small() >> Squared()).check()
    assert summary.entries[-1].work is None
    assert summary.work is None
    assert str(summary).splitlines()[-2].split() == ["total", "324", "?"]


@torch.library.custom_op("test_summary::doubled", mutates_args=())
def doubled(values: Tensor) -> Tensor:
    """A custom operation."""
    return values * 2


methodcaller("register_fake", torch.empty_like)(doubled)


class Doubling(ModuleStage[Pooled, Pooled]):
    """A stage with a custom operation."""

    @override
    def forward(self, value: Pooled) -> Pooled:
        """Return the vectors, doubled."""
        return Pooled(doubled(value.values), metadata=value.metadata)


def test_a_custom_operation_may_register_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its formula is taken from torch's registry of flop formulas."""
    pipe = small() >> Pool("max") >> Doubling()
    assert pipe.check().entries[-1].work == Work()

    def formula(values: Tensor, **_: object) -> int:
        return 2 * 5 * len(values)

    monkeypatch.setitem(flop_registry, torch.ops.test_summary.doubled, formula)
    assert pipe.check().entries[-1].work == Work(row=5)
