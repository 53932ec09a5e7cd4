"""Tests of cross-attention against a loop over rows and steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline import (
    Bucket,
    Classify,
    CrossAttend,
    Embed,
    Encode,
    Example,
    FromIds,
    Ids,
    Labels,
    Pack,
    Pad,
    Padded,
    Pool,
    TextPair,
    TokenizePair,
    load,
)
from pipeline.core.contexts import seeded
from pipeline.data.states import States
from pipeline.errors import CompositionError, OptionError, ShapeError
from pipeline.stages.attend_across import AttendedSteps, attend_across
from pipeline_attention import Additive, General, MultiHead
from pipeline_recurrent import GRU
from support.saved import compute_answers
from support.untyped import as_any, seed

LENGTHS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=4)
MAKERS: dict[str, Any] = {
    "general": lambda: General(4),
    "additive": lambda: Additive(4, hidden_size=2),
    "multi-head": lambda: MultiHead(4, num_heads=2),
}


def draw_sides(lengths: Sequence[tuple[int, int]]) -> tuple[list[list[Tensor]], list[States[Any]]]:
    """Return the rows of both sides, and the states of both, with NaN in their padding."""
    generator = torch.Generator().manual_seed(len(lengths))
    rows: list[list[Tensor]] = []
    states: list[States[Any]] = []
    for side in zip(*lengths, strict=True):
        drawn = [torch.randn(n, 4, dtype=torch.float64, generator=generator).requires_grad_() for n in side]
        width = max(side)
        padded = torch.stack([torch.cat([row, row.new_full((width - len(row), 4), torch.nan)]) for row in drawn])
        rows.append(drawn)
        states.append(States.from_padded(padded, torch.tensor(side)))
    return rows, states


def attend_row(attention: Any, query: Tensor, key: Tensor) -> Tensor:
    """Return the contexts of one row alone, a query at a time."""
    if not len(key):
        return torch.zeros_like(query)
    mask = torch.ones(1, 1, len(key), dtype=torch.bool)
    contexts = [attention(step.view(1, 1, 4), key.unsqueeze(0), mask)[0, 0] for step in query]
    return torch.stack(contexts) if contexts else torch.zeros_like(query)


@pytest.mark.parametrize("memory", [1, 2**20])
@pytest.mark.parametrize("name", MAKERS)
@given(lengths=LENGTHS)
def test_contexts_equal_the_loop(name: str, memory: int, lengths: list[tuple[int, int]]) -> None:
    """Values and gradients; padding, empty rows and chunks have no effect."""
    with seeded(3):
        attention = MAKERS[name]().double()
    rows, (query, key) = draw_sides(lengths)
    found = attend_across(attention, query.padded().values, AttendedSteps.make(attention, key), memory=memory)
    wanted = [attend_row(attention, q, k) for q, k in zip(*rows, strict=True)]
    real = [row[: len(one)] for row, one in zip(found, wanted, strict=True)]
    both = [torch.cat(real), torch.cat(wanted)]
    torch.testing.assert_close(*both)
    inputs = [*rows[0], *rows[1], *attention.parameters()]
    slopes: list[Sequence[Tensor]] = []
    for contexts in both:
        factors = torch.arange(1.0, contexts.numel() + 1, dtype=contexts.dtype).view_as(contexts)
        slopes.append(torch.autograd.grad((contexts * factors).sum() + sum(each.sum() for each in inputs), inputs))
    for slope, other in zip(*slopes, strict=True):
        torch.testing.assert_close(slope, other)


def read() -> Any:
    """Return a branch's stages up to its states."""
    return Embed(9, 3) >> Encode(GRU(3, 4))


def make_pipe(**options: Any) -> Any:
    """Return a classifier of pairs, whose first side attends to the second."""
    seed(0)
    attend = CrossAttend(TextPair.first >> read(), TextPair.second >> read(), **options)
    data = TokenizePair(FromIds()) >> Bucket(TextPair, rows=2, seed=0) >> Pad(TextPair, labels=Labels(["no", "yes"]))
    return as_any(data >> Pack(TextPair) >> attend >> Pool("mean") >> Classify(Labels(["no", "yes"])))


PAIRS: list[tuple[list[int], list[int]]] = [([1, 2, 3], [4, 5]), ([6], []), ([], [7, 8])]


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "multi_head", "num_heads": 2, "output": "tanh"},
        {"attention": Additive(4), "output": "concat"},
    ],
)
def test_a_trained_pipe_is_saved_loaded_and_exported(options: dict[str, Any], tmp_path: Path) -> None:
    """With equal bits; and it learns from pairs."""
    pipe = make_pipe(**options)
    pipe.fit([Example(pair, target="yes") for pair in PAIRS], epochs=1, seed=0, progress=False)
    pipe.save(tmp_path / "pipe")
    assert compute_answers(as_any(load(tmp_path / "pipe")), PAIRS) == compute_answers(pipe, PAIRS)


def test_a_model_is_exported(tmp_path: Path) -> None:
    """With dynamic lengths of both sides."""
    attend = CrossAttend(TextPair.first >> read(), TextPair.second >> read(), "general", output="tanh")
    model = Pack(TextPair) >> attend >> Pool("max") >> Classify(2)
    assert model.export(tmp_path / "rows.pt2", batches=2).difference <= 1e-5


def test_weights_are_those_of_each_pair() -> None:
    """One per step of both sides, without padding."""
    found = list(make_pipe(attention="general").attention_weights(PAIRS))
    assert [tuple(each.weights["cross_attend"].shape) for each in found] == [(3, 2), (1, 0), (0, 2)]
    torch.testing.assert_close(found[0].weights["cross_attend"].sum(1), torch.ones(3))


def test_the_first_branch_determines_whether_the_output_is_causal() -> None:
    """And the size of the output."""
    encode = Embed(9, 3) >> Encode("bigru", hidden_size=2)
    for branch, causal in ((read(), True), (encode, False)):
        chain: Any = Pack(TextPair) >> CrossAttend(TextPair.first >> branch, TextPair.second >> encode, output="concat")
        (*_, entry) = chain.check().entries
        assert str(entry.output) == f"States{'[Causal]' if causal else ''} steps x 8"


def test_invalid_branches_raise() -> None:
    """Other sizes, no states, other words."""
    with pytest.raises(CompositionError, match="must have one size, but query has 4, key has 5"):
        _ = Pack(TextPair) >> CrossAttend(
            TextPair.first >> read(), TextPair.second >> Embed(9, 3) >> Encode("gru", hidden_size=5)
        )
    with pytest.raises(OptionError, match="output must be one of"):
        as_any(CrossAttend)(TextPair.first >> read(), TextPair.second >> read(), output="sum")
    embed = as_any(CrossAttend)(Embed(9, 4), Embed(9, 4), input_size=4)
    with pytest.raises(ShapeError, match="branch 'query' of CrossAttend must return states, got Padded"):
        embed(Padded(Ids, torch.ones(1, 2, dtype=torch.int64), torch.tensor([2])))


def test_selected_rows_attend_to_their_own_steps() -> None:
    """As the beams of a decoder do."""
    attention = General(4)
    states = States.from_padded(torch.randn(3, 5, 4), torch.tensor([5, 2, 0]))
    attended, rows = AttendedSteps.make(attention, states), torch.tensor([1, 1, 0])
    query = torch.randn(3, 2, 4)
    found = attend_across(attention, query, attended.select(rows))
    one = attend_across(
        attention,
        query[:2, :],
        AttendedSteps.make(attention, States.from_padded(states.padded().values[rows[:2]], states.lengths[rows[:2]])),
    )
    torch.testing.assert_close(found[:2], one)
    with pytest.raises(ShapeError, match="query must have the rows of the attended steps, 3, got 2"):
        attend_across(attention, query[:2], attended)
