"""Test that minGRU equals a plain loop over each row, and obeys the laws of every encoder."""

import pytest
import torch
from pipeline_mingru import MinGRU
from torch import Tensor

from pipeline.extend import Packed, Padded, ShapeError, Vectors
from pipeline.testing import ENCODER_LAWS, Law, adapt_encoder, check_against_oracle, make_batch

LENGTHS = [[5, 0, 1, 8], [1], [0], [0, 0], [4, 4], [2, 3, 16, 17]]


def draw_rows(lengths: list[int]) -> list[Tensor]:
    """Draw rows of random vectors with three features per step."""
    generator = torch.Generator().manual_seed(len(lengths))
    return [torch.randn(time, 3, generator=generator, dtype=torch.float64) for time in lengths]


def loop(encoder: MinGRU, row: Tensor, state: Tensor) -> Tensor:
    """Compute a row's states one by one, as the paper writes them, and append the final state."""
    states: list[Tensor] = []
    for step in row:
        gate = torch.sigmoid(encoder.gate.weight @ step + encoder.gate.bias)
        candidate = encoder.candidate.weight @ step + encoder.candidate.bias
        state = (1 - gate) * state + gate * candidate
        states.append(state)
    return torch.stack([*states, state])


@pytest.mark.parametrize("lengths", LENGTHS)
def test_equals_the_plain_loop(lengths: list[int]) -> None:
    """Values, and gradients of rows and weights, are compared."""
    encoder = MinGRU(3, 4).double()
    start = torch.zeros(4, dtype=torch.float64)
    check_against_oracle(
        adapt_encoder(encoder), lambda row: loop(encoder, row, start), draw_rows(lengths), tuple(encoder.parameters())
    )


@pytest.mark.parametrize("law", ENCODER_LAWS)
def test_obeys_the_laws(law: Law[MinGRU]) -> None:
    """All laws hold, those about declared attributes included."""
    law(lambda: MinGRU(3, 4))


def test_starts_from_the_initial_carry() -> None:
    """Each row starts from its own state, which gets its gradient; an empty row returns it."""
    encoder = MinGRU(3, 4).double()
    rows = draw_rows([5, 0, 2])
    batch = make_batch(rows)
    initial = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    states = encoder(Padded(Vectors, batch.values, batch.lengths, initial_carry=(initial,)))
    wanted = torch.stack([loop(encoder, row, initial[0, index])[-1] for index, row in enumerate(rows)])
    torch.testing.assert_close(states.final, wanted)
    assert torch.equal(states.final[1], initial[0, 1])
    weights = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    ours, plain = (torch.autograd.grad((final * weights).sum(), initial)[0] for final in (states.final, wanted))
    torch.testing.assert_close(ours, plain)


def test_saturated_gates_stay_finite() -> None:
    """If a gate is close to 0 or 1 for a long time, states and gradients equal those of the loop."""
    encoder = MinGRU(3, 4).double()
    rows = [60 * row for row in draw_rows([40, 3])]
    start = torch.zeros(4, dtype=torch.float64)
    check_against_oracle(
        adapt_encoder(encoder), lambda row: loop(encoder, row, start), rows, tuple(encoder.parameters())
    )


def test_rejects_the_carry_of_another_encoder() -> None:
    """The two tensors of an LSTM's carry are not silently cut to one."""
    state = torch.zeros(1, 1, 4)
    batch = Packed(Vectors, torch.ones(2, 3), torch.tensor([2]), initial_carry=(state, state))
    with pytest.raises(
        ShapeError, match=r"initial_carry must be one tensor of shape \(1, 1, 4\), got \[\(1, 1, 4\), \(1, 1, 4\)\]"
    ):
        MinGRU(3, 4)(batch)
