"""Tests of attention in chunks and with torch's fused kernels: equal results, within the memory budget."""

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from typing_extensions import override

from pipeline import Attend, AttendEarlier, Attention, States
from pipeline.errors import OptionError
from pipeline.forecast.memory import measure_peak_bytes
from pipeline.functional.attention import causal_dot_product_attention, dot_product_attention
from pipeline.parts.attention import masked_softmax
from pipeline.stages.query_chunks import MEMORY
from pipeline.testing import adapt_attend, check_against_oracle
from pipeline_attention import Additive, Dot, General, ScaledDot
from support.needs import SLOW
from support.oracles import attend_by_softmax
from support.strategies import ragged_rows
from support.untyped import as_any, seed

MAKERS: dict[str, Callable[[], Attention]] = {
    "dot": lambda: Dot(3),
    "scaled_dot": lambda: ScaledDot(3),
    "general": lambda: General(3),
    "additive": lambda: Additive(3, hidden_size=2),
    "score only": lambda: ScoreOnly(),  # noqa: PLW0108 - the class is defined below
    "own weights": lambda: OwnWeights(3),
}


class ScoreOnly(Attention):
    """An attention that implements `score` only."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = 3

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return query @ key.transpose(1, 2) - key.square().sum(-1).unsqueeze(1) / 2


class OwnWeights(Attention):
    """An attention that declares an inner product, but overrides `weights`, which must be used."""

    inner_product = True

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return query @ key.transpose(1, 2)

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        return masked_softmax(2 * self.score(query, key), mask)


def make_attention(name: str) -> Attention:
    """Return a small attention in float64, the same at every call."""
    seed(3)
    return MAKERS[name]().double()


def compute_scores(attention: Attention, row: Tensor) -> Tensor:
    """Return the scores of a row, by `score`."""
    scores = attention.score(row.unsqueeze(0), row.unsqueeze(0))[0]
    return 2 * scores if isinstance(attention, OwnWeights) else scores


@pytest.mark.parametrize("memory", [pytest.param(1, marks=SLOW), 400, pytest.param(3_000, marks=SLOW), MEMORY])
@pytest.mark.parametrize("window", [None, 1, 2, pytest.param(9, marks=SLOW)])
@pytest.mark.parametrize("name", MAKERS)
@given(rows=ragged_rows())
def test_earlier_steps_in_chunks_equal_the_loop(name: str, window: int | None, memory: int, rows: list[Tensor]) -> None:
    """Values and all gradients, for every memory budget."""
    attention = make_attention(name)

    def attend_row(row: Tensor) -> Tensor:
        reach = len(row) if window is None else window
        return attend_by_softmax(
            compute_scores(attention, row), row, [range(max(0, step - reach), step) or [0] for step in range(len(row))]
        )

    stage = AttendEarlier(attention, window=window, memory=memory)
    check_against_oracle(adapt_attend(stage), attend_row, rows, list(attention.parameters()))


@pytest.mark.parametrize("memory", [1, 400, MEMORY])
@pytest.mark.parametrize("name", MAKERS)
@given(rows=ragged_rows())
def test_whole_rows_in_chunks_equal_the_loop(name: str, memory: int, rows: list[Tensor]) -> None:
    """Values and all gradients, for every memory budget."""
    attention = make_attention(name)

    def attend_row(row: Tensor) -> Tensor:
        return attend_by_softmax(compute_scores(attention, row), row, [range(len(row))] * len(row))

    check_against_oracle(adapt_attend(Attend(attention, memory=memory)), attend_row, rows, list(attention.parameters()))


@pytest.mark.parametrize("window", [None, 1, 40, 128, 200, 1_000])
@pytest.mark.parametrize("name", MAKERS)
def test_contexts_of_long_rows_are_weighted_sums(name: str, window: int | None) -> None:
    """For rows longer than a block, contexts and gradients are those of weights @ keys."""
    attention = make_attention(name)
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2, 300, 3, dtype=torch.float64, generator=generator).requires_grad_()
    states = States.from_padded(values, torch.tensor([300, 170]))
    stage = AttendEarlier(attention, window=window)
    wanted = stage.weights(states) @ states.padded().values
    found = stage(states).padded().values
    torch.testing.assert_close(found, wanted * states.mask.unsqueeze(-1))
    slopes = [torch.autograd.grad((each * each.detach().cos()).sum(), values)[0] for each in (found, wanted)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("stage", [Attend, AttendEarlier])
@pytest.mark.parametrize("name", MAKERS)
def test_weights_in_chunks_equal_whole_weights(name: str, stage: type[Attend] | type[AttendEarlier]) -> None:
    """Weights @ keys are the contexts."""
    states = States.from_padded(torch.randn(3, 5, 3).double(), torch.tensor([5, 0, 2]))
    whole, few = (stage(make_attention(name), memory=memory) for memory in (MEMORY, 1))
    torch.testing.assert_close(few.weights(states), whole.weights(states))
    torch.testing.assert_close(few.weights(states) @ states.padded().values, whole(states).padded().values)


@pytest.mark.parametrize("memory", [1, MEMORY])
@pytest.mark.parametrize("stage", [Attend, AttendEarlier])
@pytest.mark.parametrize("name", MAKERS)
def test_padding_and_batchmates_have_no_effect(
    name: str, stage: type[Attend] | type[AttendEarlier], memory: int
) -> None:
    """With NaN and 1e38 in padding, in float32, and a batchmate of NaN: equal bits, and equal, finite gradients."""
    attention = make_attention(name).float()
    attending = stage(attention, memory=memory)
    lengths = torch.tensor([4, 0, 1, 6])
    values = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(2))
    real = torch.arange(6) < lengths.unsqueeze(1)
    wanted: list[Tensor] = []
    for filling in (0.0, torch.nan, torch.inf, 1e38):
        filled = values.masked_fill(~real.unsqueeze(-1), filling).requires_grad_()
        found = attending(States.from_padded(filled, lengths)).padded().values
        (slope,) = torch.autograd.grad(found.square().sum(), filled)
        assert found.isfinite().all()
        assert slope.isfinite().all()
        assert not slope[~real].any()
        wanted = wanted or [found, slope]
        assert torch.equal(found, wanted[0])
        assert torch.equal(slope, wanted[1])
    other = values.clone()
    other[3] = torch.nan
    found = attending(States.from_padded(other, lengths)).padded().values
    assert torch.equal(found[:3], wanted[0][:3])


def test_masked_keys_may_hold_anything() -> None:
    """In a direct call in float32, keys that no query may attend to have no effect."""
    query, key = torch.randn(1, 2, 3), torch.randn(1, 4, 3)
    mask = torch.tensor([[[True, False, True, False], [True, False, False, False]]])
    wanted = Dot(3)(query, key, mask)
    for filling in (torch.nan, torch.inf, 1e38):
        other = key.clone()
        other[:, [1, 3]] = filling
        assert torch.equal(Dot(3)(query, other, mask), wanted)


@given(rows=ragged_rows(), times=st.integers(0, 5))
def test_both_fused_kernels_agree(rows: list[Tensor], times: int) -> None:
    """With torch's causal mask, as used on a GPU, and with an explicit mask."""
    values = torch.cat([*rows, torch.zeros(times, 3, dtype=torch.float64)]).unsqueeze(0)
    earlier = torch.ones(values.shape[1], values.shape[1], dtype=torch.bool).tril(-1)
    earlier[:1, :1] = True
    one = causal_dot_product_attention(values * 2, values, values)
    torch.testing.assert_close(one, dot_product_attention(values * 2, values, values, earlier.unsqueeze(0)))


@pytest.mark.parametrize("memory", [1, MEMORY])
@pytest.mark.parametrize("stage", [Attend, AttendEarlier])
@pytest.mark.parametrize("name", MAKERS)
def test_gradients_equal_finite_differences(name: str, stage: type[Attend] | type[AttendEarlier], memory: int) -> None:
    """First and second derivatives; the second ones without torch's fused kernel, which lacks them."""
    attending = stage(make_attention(name), memory=memory)
    values = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)

    def contexts(values: Tensor) -> Tensor:
        return attending(States.from_padded(values, torch.tensor([3, 2]))).padded().values

    assert torch.autograd.gradcheck(contexts, values)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(contexts, values)


def test_second_derivatives_of_the_fused_kernel_are_right() -> None:
    """Torch's kernel has none: they are those of all scores at once, for ragged rows as well."""
    values, lengths = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True), torch.tensor([3, 1])

    def attend(values: Tensor) -> Tensor:
        return Attend(Dot(3))(States.from_padded(values, lengths)).padded().values

    assert torch.autograd.gradgradcheck(attend, values)


@pytest.mark.parametrize("memory", [1, MEMORY])
@pytest.mark.parametrize("stage", [Attend, AttendEarlier])
@pytest.mark.parametrize("name", MAKERS)
def test_autocast_gives_nearly_the_same(name: str, stage: type[Attend] | type[AttendEarlier], memory: int) -> None:
    """In bfloat16, forward and backward."""
    attending = stage(make_attention(name).float(), memory=memory)
    values = torch.randn(2, 5, 3, requires_grad=True)
    states = States.from_padded(values, torch.tensor([5, 3]))
    wanted = attending(states).padded().values
    with torch.autocast("cpu", torch.bfloat16):
        found = attending(states).padded().values
    slopes = [torch.autograd.grad(each.float().sum(), values, retain_graph=True)[0] for each in (found, wanted)]
    torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.1)
    torch.testing.assert_close(*slopes, rtol=0.2, atol=0.2)


@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("memory", [2**20, 2**22])
def test_memory_stays_within_the_budget(memory: int, window: int | None) -> None:
    """In training, apart from values of the size of the steps: inputs and outputs of chunks, and their gradients."""
    attention = Additive(16)
    values = torch.randn(4, 200, 16, requires_grad=True)
    states = States.from_padded(values, torch.full((4,), 200))

    def train(stage: Attend | AttendEarlier) -> object:
        return torch.autograd.grad(stage(states).padded().values.sum(), [values, *attention.parameters()])

    for stage in (Attend(attention, memory=memory), AttendEarlier(attention, window=window, memory=memory)):
        other = 20 * values.numel() * values.element_size()
        assert measure_peak_bytes(partial(train, stage)) <= memory + other
    assert measure_peak_bytes(lambda: train(Attend(attention, memory=2**40))) > 6 * 2**22


def test_inner_products_take_memory_linear_in_time() -> None:
    """Twice the steps take about twice the memory: there is no square matrix of scores."""
    general = General(8)

    def train(steps: int) -> int:
        values = torch.randn(2, steps, 8, requires_grad=True)
        states = States.from_padded(values, torch.full((2,), steps))
        return measure_peak_bytes(
            lambda: torch.autograd.grad(AttendEarlier(general, window=50)(states).padded().values.sum(), values)
        )

    assert train(8_000) < 2.2 * train(4_000)


def test_invalid_memory_raises() -> None:
    """With the rule and the value."""
    for stage in (Attend, AttendEarlier):
        for memory in (0, 1e9, True, "64"):
            rule = f"an integer of at least 1, got {memory!r}; leave it out for 67108864 bytes"
            with pytest.raises(OptionError, match=f"memory must be {re.escape(rule)}"):
                as_any(stage)("dot", memory=memory)
