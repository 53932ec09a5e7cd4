"""Earlier steps in blocks: the plain loop's contexts and gradients, however the batch is cut, and for little memory."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline import AttendEarlier, States
from pipeline.data.order import ints
from pipeline.forecast.peak import peak_bytes
from pipeline.functional import causal_attention
from pipeline.functional.causal_attention import in_blocks, mixed_earlier
from pipeline.functional.longest_first import ranked, unranked
from pipeline_attention import Dot, General
from support.oracles import attend
from support.untyped import listed

LENGTHS = torch.tensor([3, 0, 11, 7, 11])


@pytest.fixture(params=["whole", "blocks", "rows"])
def _cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once; a few steps at a time; these, and few rows."""
    if request.param == "whole":
        return
    monkeypatch.setattr(causal_attention, "_WHOLE", 2)
    monkeypatch.setattr(causal_attention, "_BLOCK", (3, 3))
    if request.param == "rows":
        monkeypatch.setattr(causal_attention, "_CACHED", 2 * 8 * 3 * 11)


def rows(lengths: Tensor, count: int) -> list[Tensor]:
    """A few rectangles of numbers, no two alike; zeros in their padding."""
    generator = torch.Generator().manual_seed(4)
    real = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    drawn = [torch.randn(*real.shape, 3, dtype=torch.float64, generator=generator) for _ in range(count)]
    return [each.masked_fill(~real.unsqueeze(2), 0).requires_grad_() for each in drawn]


def plainly(query: Tensor, key: Tensor, values: Tensor, window: int | None) -> Tensor:
    """One row, a softmax at a time."""
    reach = len(query) if window is None else window
    return attend(query @ key.mT, values, [range(max(0, t - reach), t) or [0] for t in range(len(query))])


@pytest.mark.usefixtures("_cut")
@pytest.mark.parametrize("memory", [1, 2**26])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 30])
@pytest.mark.parametrize("shared", [True, False])
def test_blocks_equal_the_loop(window: int | None, memory: int, shared: bool) -> None:
    """Contexts, and gradients of queries, keys and values, also where these are one."""
    lengths = torch.tensor([11, 11, 7, 3])
    tensors = rows(lengths, 2 if shared else 3)
    query, key, values = tensors[0], tensors[1], tensors[-1]
    running = ints((torch.arange(11) < lengths.unsqueeze(1)).sum(0))
    found = mixed_earlier(query, key, values, running, window=window, memory=memory)
    mine = torch.cat([found[row, :n] for row, n in enumerate(ints(lengths))])
    loop = torch.cat([plainly(query[r, :n], key[r, :n], values[r, :n], window) for r, n in enumerate(ints(lengths))])
    torch.testing.assert_close(mine, loop)
    slopes = [torch.autograd.grad((each * each.detach().cos()).sum(), tensors) for each in (mine, loop)]
    torch.testing.assert_close(*slopes)


@pytest.mark.usefixtures("_cut")
@pytest.mark.parametrize("packed", [True, False])
def test_the_stage_leaves_out_what_has_ended(packed: bool) -> None:
    """Rows in any order, an empty one among them, in either layout."""
    (values,) = rows(LENGTHS, 1)
    attention = General(3).double()
    states = States.from_padded(values, LENGTHS)
    given = States(states.packed(), states.final) if packed else states
    found = AttendEarlier(attention)(given)
    assert type(found.steps) is type(given.steps)
    wanted = torch.zeros_like(values)
    for row, length in enumerate(ints(LENGTHS)):
        steps = values[row, :length]
        wanted[row, :length] = plainly(attention.linear(steps), steps, steps, None)
    torch.testing.assert_close(found.padded().values, wanted)
    tensors = [values, *attention.parameters()]
    slopes = [torch.autograd.grad(each.cos().sum(), tensors) for each in (found.padded().values, wanted)]
    torch.testing.assert_close(*slopes)


@pytest.mark.usefixtures("_cut")
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_gradients_have_gradients(window: int | None, shared: bool) -> None:
    """Without asking torch for another kernel; what no block holds gives none."""
    tensors = rows(torch.tensor([5, 2]), 2 if shared else 3)

    def contexts(*given: Tensor) -> Tensor:
        return mixed_earlier(given[0], given[1], given[-1], [2, 2, 1, 1, 1], window=window, memory=2**20)

    assert torch.autograd.gradcheck(contexts, tensors)
    assert torch.autograd.gradgradcheck(contexts, tensors)


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5), extra=st.integers(0, 2))
def test_ranked_rows_come_back(lengths: list[int], extra: int) -> None:
    """The longest first, nothing but zeros behind the others, and back in either layout."""
    given_lengths = torch.tensor(lengths)
    values = torch.randn(len(lengths), max(lengths) + extra, 2)
    states = States.from_padded(values, given_lengths)
    order = states.order
    if not order.steps:
        return
    for each in (states, States(states.packed(), states.final)):
        found = ranked(each)
        wanted = states.padded().values[order.rows[: order.occupied], : order.longest]
        assert torch.equal(found, wanted)
        back = unranked(found, each)
        assert type(back.steps) is type(each.steps)
        assert torch.equal(back.padded().values, states.padded().values)


def test_rows_of_one_length_are_not_copied() -> None:
    """In either layout: there is no padding to clear."""
    states = States.from_padded(torch.randn(3, 4, 2), torch.full((3,), 4))
    assert states.padded().values is states.steps.values
    for each in (states, States(states.packed(), states.final)):
        rectangle = ranked(each)
        assert rectangle.data_ptr() == each.steps.values.data_ptr()
        assert unranked(rectangle, each).steps.values.data_ptr() == rectangle.data_ptr()


def test_memory_is_linear_in_time_where_little_is_given() -> None:
    """Weights that do not fit are worked out again; those that do are kept."""
    dot = Dot(8)

    def train(steps: int, memory: int) -> int:
        values = torch.randn(2, steps, 8, requires_grad=True)
        states = States.from_padded(values, torch.full((2,), steps))
        stage = AttendEarlier(dot, memory=memory)
        return peak_bytes(lambda: torch.autograd.grad(stage(states).padded().values.sum(), values))

    assert train(2_000, 1) < 2.5 * train(1_000, 1)
    assert train(2_000, 1) < 6 * 2**20
    assert train(2_000, 2**26) > 2 * 2_000 * 2_000 / 2 * 4


@pytest.mark.parametrize(
    ("change", "right"),
    [(Tensor.float, True), (Tensor.double, True), (Tensor.half, False), (partial(Tensor.to, device="meta"), False)],
)
def test_other_ways_are_left_to_torch(change: Callable[[Tensor], Tensor], right: bool) -> None:
    """Half precision and other devices: torch's kernels add up in full, and make few calls."""
    assert in_blocks(change(torch.zeros(1))) == right
    with torch.autocast("cpu", torch.bfloat16):
        assert not in_blocks(torch.zeros(1))


def test_padding_is_filled_by_cells() -> None:
    """With any number, and its gradient is zero."""
    values = torch.full((3, 2, 1), torch.nan, requires_grad=True)
    states = States.from_padded(values, torch.tensor([1, 0, 2]))
    found = states.padded().values
    assert listed(found.isnan().squeeze(2)) == [[True, False], [False, False], [True, True]]
    (slope,) = torch.autograd.grad(found.sum(), values)
    assert listed(slope.squeeze(2)) == [[1, 0], [0, 0], [1, 1]]
