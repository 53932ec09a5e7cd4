"""A row's results have the same bits alone and in any batch, in any order, with any number of threads.

`PIPELINE_TESTS_LONG=1` draws 10,000 batches for each precision instead of a hundred; the session `long` sets it.
"""

import os
from typing import Final

import pytest
import torch
from torch import Tensor, nn

from pipeline.extend import Carry, PackingOrder, Precision
from pipeline_recurrent.engines.engine import STATES, Cell, Weights
from pipeline_recurrent.engines.native_layout import CELLS
from pipeline_recurrent.frozen import FrozenStack
from pipeline_recurrent.native import threads
from pipeline_recurrent.native.library import available
from support.untyped import seed, to_list

ROWS, SIZE, LAYERS = 30, 6, 2
BATCHES: Final = 2_500 if os.environ.get("PIPELINE_TESTS_LONG") == "1" else 25
GATES: dict[Cell, int] = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@pytest.fixture(autouse=True)
def compiled() -> None:
    """Skip, with the reason, where there is no library; fail in the nox session that compiles it."""
    if reason := available():
        (pytest.fail if os.environ.get("PIPELINE_TESTS_NATIVE") == "1" else pytest.skip)(reason)


def draw_weights(cell: Cell, hidden: int) -> list[list[Weights]]:
    """Draw the weights of two layers in both directions, as large as those of trained ones."""

    def draw(inputs: int) -> Weights:
        rows = GATES[cell] * hidden
        one, other = (torch.randn(rows, size) * size**-0.5 for size in (inputs, hidden))
        return one, other, torch.randn(rows), torch.randn(rows)

    return [[draw(inputs) for _ in range(2)] for inputs in (SIZE, 2 * hidden)]


def run(frozen: FrozenStack, rows: list[Tensor], initial: Carry) -> list[Tensor]:
    """Return each row's output and final states, as one tensor."""
    order = PackingOrder(torch.tensor([len(row) for row in rows]))
    places: list[list[int]] = to_list(order.locate_steps().T)
    steps = torch.stack([rows[row][time] for row, time in places]) if places else rows[0]
    output, ended = frozen.run(steps, order, initial)
    return [
        torch.cat([output[order.row_of_step == row].flatten(), *(state[:, row].flatten() for state in ended)])
        for row in range(len(rows))
    ]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_keeps_its_bits_in_every_batch(cell: Cell, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 1 to 30 rows, empty ones among them; 1 to 4 threads; norms and residuals between layers."""
    seed(12)
    hidden, looks_up = 21, cell in {"lstm", "rnn_tanh"}
    weights = draw_weights(cell, hidden)
    tables = [torch.randn(9, GATES[cell] * hidden).T for _ in range(2)] if looks_up else []
    frozen = FrozenStack(cell, weights, precision, norms=[nn.LayerNorm(2 * hidden)], residual=True, tables=tables)
    lengths = torch.randint(0, 13, (ROWS,))
    rows = [torch.randint(0, 9, (n,)) if looks_up else torch.randn(n, SIZE) for n in to_list(lengths)]
    initial = tuple(torch.randn(LAYERS * 2, ROWS, hidden) for _ in range(STATES[cell]))
    # Threads even for little work, as for large batches.
    monkeypatch.setattr(threads, "MIN_OPERATIONS_FOR_THREADS", 0)
    alone = [run(frozen, [row], tuple(state[:, at : at + 1] for state in initial))[0] for at, row in enumerate(rows)]
    for batch in range(BATCHES):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=1 + batch % 4: threads)
        chosen: list[int] = to_list(torch.randperm(ROWS)[: int(torch.randint(1, ROWS + 1, ()))])
        found = run(frozen, [rows[row] for row in chosen], tuple(state[:, chosen] for state in initial))
        assert all(torch.equal(one, alone[row]) for one, row in zip(found, chosen, strict=True)), batch


@pytest.mark.parametrize(("precision", "hidden"), [("int8", 33), ("int8", 130), ("bfloat16", 33)])
def test_a_wide_batch_keeps_the_bits_of_its_parts(precision: Precision, hidden: int) -> None:
    """More rows than a block of input products, of one length and of several."""
    seed(13)
    frozen = FrozenStack("lstm", draw_weights("lstm", hidden), precision)
    rows = [torch.randn(3 + (row > 60), SIZE) for row in range(130)]
    initial = tuple(torch.zeros(LAYERS * 2, 130, hidden) for _ in range(2))
    whole = run(frozen, rows, initial)
    for low, high in ((0, 61), (61, 130), (40, 80), (9, 10)):
        part = run(frozen, rows[low:high], tuple(state[:, low:high] for state in initial))
        assert all(map(torch.equal, part, whole[low:high]))
