"""Causal attention in blocks equals the loop over steps: contexts and gradients, for any division, and in little memory."""

from collections.abc import Callable
from functools import partial
from operator import attrgetter

import pytest
import torch
from torch import Tensor

from pipeline import AttendEarlier, States
from pipeline.data.tensors import to_ints
from pipeline.forecast.memory import measure_peak_bytes
from pipeline.functional import earlier_attention as blocks
from pipeline.functional.attention import causal_dot_product_attention, dot_product_attention
from pipeline.functional.earlier_attention import attend_earlier_in_blocks, supports_blocks
from pipeline_attention import Dot, General
from support.oracles import attend_by_softmax

LENGTHS = torch.tensor([3, 0, 11, 7, 11])


@pytest.fixture(params=["single", "steps", "rows"])
def _division(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide a batch into one block; into blocks of a few steps; into blocks of a few steps and rows."""
    if request.param == "single":
        return
    # Without the blocks of earlier tests, which are kept.
    monkeypatch.setattr(blocks, "_get_blocks", attrgetter("_Blocks")(blocks))
    monkeypatch.setattr(blocks, "_UNDIVIDED_STEPS", 2)
    monkeypatch.setattr(blocks, "_BLOCK_STEPS", (3, 3))
    if request.param == "rows":
        monkeypatch.setattr(blocks, "_BLOCK_BYTES", 2 * 8 * 3 * 11)


def make_rectangles(lengths: Tensor, count: int) -> list[Tensor]:
    """Return rectangles of distinct numbers with zeros in the padding."""
    generator = torch.Generator().manual_seed(4)
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    values = [torch.randn(*mask.shape, 3, dtype=torch.float64, generator=generator) for _ in range(count)]
    return [each.masked_fill(~mask.unsqueeze(2), 0).requires_grad_() for each in values]


def attend_by_loop(query: Tensor, key: Tensor, values: Tensor, window: int | None) -> Tensor:
    """Return the contexts of one row, with one softmax per step."""
    reach = len(query) if window is None else window
    return attend_by_softmax(query @ key.mT, values, [range(max(0, t - reach), t) or [0] for t in range(len(query))])


@pytest.mark.usefixtures("_division")
@pytest.mark.parametrize("memory", [1, 2**26])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 30])
@pytest.mark.parametrize("shared", [True, False])
def test_blocks_equal_the_loop(window: int | None, memory: int, shared: bool) -> None:
    """Contexts and gradients are equal, also if keys and values are one tensor."""
    compare_with_loop([11, 11, 7, 3], window, memory, shared=shared)


@pytest.mark.usefixtures("_division")
@pytest.mark.parametrize("memory", [1, 2**26])
@pytest.mark.parametrize("counts", [[1, 1], [3, 2, 2], [7, 7]])
def test_few_keys_equal_the_loop(counts: list[int], memory: int) -> None:
    """Scores of fewer keys than a vector holds are stored by column, in any division into blocks."""
    for window, shared in ((None, True), (2, True), (None, False)):
        compare_with_loop(counts, window, memory, shared=shared)


def compare_with_loop(counts: list[int], window: int | None, memory: int, *, shared: bool) -> None:
    """Compare contexts and gradients of rows with these numbers of steps, the longest first, with those of the loop."""
    lengths = torch.tensor(counts)
    tensors = make_rectangles(lengths, 2 if shared else 3)
    query, key, values = tensors[0], tensors[1], tensors[-1]
    batch_sizes = to_ints((torch.arange(counts[0]) < lengths.unsqueeze(1)).sum(0))
    found = attend_earlier_in_blocks(query, key, values, batch_sizes, window=window, memory=memory)
    mine = torch.cat([found[row, :n] for row, n in enumerate(to_ints(lengths))])
    loop = torch.cat(
        [attend_by_loop(query[r, :n], key[r, :n], values[r, :n], window) for r, n in enumerate(to_ints(lengths))]
    )
    torch.testing.assert_close(mine, loop)
    slopes = [torch.autograd.grad((each * each.detach().cos()).sum(), tensors) for each in (mine, loop)]
    torch.testing.assert_close(*slopes)


def test_gradients_with_a_graph_equal_those_without() -> None:
    """If queries, keys and values are one tensor, or one is computed from another."""
    (x,) = make_rectangles(torch.tensor([5, 3]), 1)
    mask = torch.rand(2, 5, 5) > 0.3
    functions: list[Callable[[], Tensor]] = [
        lambda: dot_product_attention(x, x, x, mask),
        lambda: causal_dot_product_attention(x, x * 2, x),
        lambda: attend_earlier_in_blocks(x, x, x, [2, 2, 2, 1, 1], memory=2**20),
        lambda: attend_earlier_in_blocks(x * 2, x, x * 3, [2, 2, 2, 1, 1], memory=2**20),
    ]
    for function in functions:
        found = [
            torch.autograd.grad(function().square().sum(), x, create_graph=create_graph)[0]
            for create_graph in (False, True)
        ]
        torch.testing.assert_close(found[0], found[1])


@pytest.mark.usefixtures("_division")
@pytest.mark.parametrize("packed", [True, False])
def test_stage_equals_loop_for_unsorted_rows(packed: bool) -> None:
    """`AttendEarlier` sorts rows and restores their order, with an empty row, in both layouts."""
    (values,) = make_rectangles(LENGTHS, 1)
    attention = General(3).double()
    states = States.from_padded(values, LENGTHS)
    given = States(states.packed(), states.final) if packed else states
    found = AttendEarlier(attention)(given)
    assert type(found.steps) is type(given.steps)
    wanted = torch.zeros_like(values)
    for row, length in enumerate(to_ints(LENGTHS)):
        steps = values[row, :length]
        wanted[row, :length] = attend_by_loop(attention.linear(steps), steps, steps, None)
    torch.testing.assert_close(found.padded().values, wanted)
    tensors = [values, *attention.parameters()]
    slopes = [torch.autograd.grad(each.cos().sum(), tensors) for each in (found.padded().values, wanted)]
    torch.testing.assert_close(*slopes)


@pytest.mark.usefixtures("_division")
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_second_derivatives(window: int | None, shared: bool) -> None:
    """They exist without another choice of kernel; positions in no block contribute none."""
    tensors = make_rectangles(torch.tensor([5, 2]), 2 if shared else 3)

    def contexts(*given: Tensor) -> Tensor:
        return attend_earlier_in_blocks(given[0], given[1], given[-1], [2, 2, 1, 1, 1], window=window, memory=2**20)

    assert torch.autograd.gradcheck(contexts, tensors)
    assert torch.autograd.gradgradcheck(contexts, tensors)


def test_memory_limit_decides_whether_weights_are_saved() -> None:
    """Below the limit memory is linear in time, because weights are computed again; above, it is quadratic."""
    dot = Dot(8)

    def train(steps: int, memory: int) -> int:
        values = torch.randn(2, steps, 8, requires_grad=True)
        states = States.from_padded(values, torch.full((2,), steps))
        stage = AttendEarlier(dot, memory=memory)
        return measure_peak_bytes(lambda: torch.autograd.grad(stage(states).padded().values.sum(), values))

    assert train(2_000, 1) < 2.5 * train(1_000, 1)
    assert train(2_000, 1) < 6 * 2**20
    assert train(2_000, 2**26) > 2 * 2_000 * 2_000 / 2 * 4


@pytest.mark.parametrize(
    ("change", "right"),
    [(Tensor.float, True), (Tensor.double, True), (Tensor.half, False), (partial(Tensor.to, device="meta"), False)],
)
def test_supports_blocks_only_for_float32_and_float64_on_cpu(change: Callable[[Tensor], Tensor], right: bool) -> None:
    """In half precision torch's kernels accumulate in float32; on a device they need fewer calls."""
    assert supports_blocks(change(torch.zeros(1))) == right
    with torch.autocast("cpu", torch.bfloat16):
        assert not supports_blocks(torch.zeros(1))
