"""Tests of multi-head attention against a loop over rows, heads and steps."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from pipeline import Attend, AttendEarlier, Bucket, Embed, Encode, FromIds, NextToken, Pack, Pad, Shift, States, load
from pipeline.core.contexts import seeded
from pipeline.errors import OptionError
from pipeline.testing import adapt_attend, check_against_oracle
from pipeline_attention import Dot, MultiHead
from support.oracles import attend_by_softmax
from support.saved import compute_answers
from support.strategies import ragged_rows
from support.untyped import as_any, seed

HEADS = 2
SIZE = 4


def make_attention(heads: int = HEADS) -> MultiHead:
    """Return an attention in float64, the same at every call."""
    with seeded(3):
        return MultiHead(SIZE, num_heads=heads).double()


def attend_heads(attention: MultiHead, row: Tensor, allowed: list[Any]) -> Tensor:
    """Return the contexts of one row from the definition: each head by itself, then all side by side."""
    found: list[Tensor] = []
    for head in range(attention.num_heads):
        width = SIZE // attention.num_heads
        part = slice(head * width, (head + 1) * width)
        query, key, value = (
            torch.stack([layer.weight[part] @ step for step in row]) if len(row) else row.new_zeros(0, width)
            for layer in (attention.query, attention.key, attention.value)
        )
        scores = torch.stack([torch.stack([q @ k / math.sqrt(width) for k in key]) for q in query]) if len(row) else key
        found.append(attend_by_softmax(scores, value, allowed))
    return torch.cat(found, 1) @ attention.output.weight.T


@pytest.mark.parametrize("window", [None, 2])
@given(rows=ragged_rows(features=SIZE))
def test_earlier_steps_equal_the_loop(window: int | None, rows: list[Tensor]) -> None:
    """Values and all gradients."""
    attention = make_attention()

    def attend_row(row: Tensor) -> Tensor:
        reach = len(row) if window is None else window
        return attend_heads(attention, row, [range(max(0, t - reach), t) or [0] for t in range(len(row))])

    stage = AttendEarlier(attention, window=window)
    check_against_oracle(adapt_attend(stage), attend_row, rows, list(attention.parameters()))


@given(rows=ragged_rows(features=SIZE))
def test_whole_rows_equal_the_loop(rows: list[Tensor]) -> None:
    """Values and all gradients."""
    attention = make_attention()

    def attend_row(row: Tensor) -> Tensor:
        return attend_heads(attention, row, [range(len(row))] * len(row))

    check_against_oracle(adapt_attend(Attend(attention)), attend_row, rows, list(attention.parameters()))


def test_sparse_heads_equal_the_dense_path_of_each_head() -> None:
    """Each head has its own support; `weights` is the mean over the heads."""
    attention = make_attention()
    attention.normalize = "sparsemax"
    values = torch.randn(2, 5, SIZE, dtype=torch.float64)
    states = States.from_padded(values, torch.tensor([5, 3]))
    query, key = attention.project(values, values)
    heads = [
        Attend(Dot(2, normalize="sparsemax")).make_mask(states).expand(2, 5, 5),
    ]
    wanted = [
        Dot(2, normalize="sparsemax").weights(q, k, heads[0])
        for q, k in zip(query.chunk(2, -1), key.chunk(2, -1), strict=True)
    ]
    found = Attend(attention).weights(states)
    torch.testing.assert_close(found, torch.stack(wanted).mean(0).masked_fill(~states.mask.unsqueeze(-1), 0))
    contexts = torch.cat(
        [w @ v for w, v in zip(wanted, attention.project_values(states.padded().values).chunk(2, -1), strict=True)], -1
    )
    torch.testing.assert_close(
        Attend(attention)(states).padded().values,
        (contexts @ attention.output.weight.T).masked_fill(~states.mask.unsqueeze(-1), 0),
    )


def test_heads_that_do_not_divide_the_size_are_an_error() -> None:
    """It names both numbers."""
    with pytest.raises(OptionError, match="num_heads must divide input_size=4, got 3"):
        MultiHead(4, num_heads=3)


def test_deterministic_inference_needs_a_softmax() -> None:
    """Sparse weights are not offered there."""
    model = Pack() >> Embed(9, 4) >> Encode("gru", hidden_size=4, engine="plain")
    pipe = FromIds() >> Bucket(rows=2) >> Pad() >> model >> Attend("dot", normalize="sparsemax")
    with pytest.raises(OptionError, match="deterministic=True needs"):
        as_any(pipe).for_inference(deterministic=True)


@pytest.mark.parametrize(("name", "options"), [("multi_head", {"num_heads": 2}), ("concat", {"normalize": "entmax15"})])
def test_a_trained_pipe_is_saved_loaded_and_exported(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """With equal bits."""
    seed(0)
    encode = Encode("lstm", causal=True, hidden_size=4)
    attend = AttendEarlier(name, input_size=4, output="tanh", **options)
    model = Pack() >> Embed(9, 4) >> encode >> attend >> NextToken(9)
    pipe, rows = as_any(FromIds() >> Shift() >> Bucket(rows=2, seed=0) >> Pad() >> model), [[1, 2, 3, 4], [5, 6], [7]]
    pipe.fit(rows, epochs=1, seed=0, progress=False)
    pipe.save(tmp_path / "pipe")
    assert compute_answers(as_any(load(tmp_path / "pipe")), rows) == compute_answers(pipe, rows)
    assert model.export(tmp_path / "rows.pt2", batches=2).difference <= 1e-5
