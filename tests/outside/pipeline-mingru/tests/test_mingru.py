"""minGRU gives what a plain loop over each row gives, and obeys the laws of every encoder."""

import pytest
import torch
from pipeline_mingru import MinGRU
from torch import Tensor

from pipeline import Packed, Padded, Vectors
from pipeline.errors import ShapeError
from pipeline.testing import ENCODER_LAWS, Law, encoded, equals_oracle, padded

LENGTHS = [[5, 0, 1, 8], [1], [0], [0, 0], [4, 4], [2, 3, 16, 17]]


def rows_of(lengths: list[int]) -> list[Tensor]:
    """Rows of random vectors, three features a step."""
    generator = torch.Generator().manual_seed(len(lengths))
    return [torch.randn(time, 3, generator=generator, dtype=torch.float64) for time in lengths]


def loop(encoder: MinGRU, row: Tensor, state: Tensor) -> Tensor:
    """A row's states, one step after another and as the paper writes them, and its final state below them."""
    states: list[Tensor] = []
    for step in row:
        gate = torch.sigmoid(encoder.gate.weight @ step + encoder.gate.bias)
        candidate = encoder.candidate.weight @ step + encoder.candidate.bias
        state = (1 - gate) * state + gate * candidate
        states.append(state)
    return torch.stack([*states, state])


@pytest.mark.parametrize("lengths", LENGTHS)
def test_equals_the_plain_loop(lengths: list[int]) -> None:
    """Values, and gradients of rows and weights."""
    encoder = MinGRU(3, 4).double()
    start = torch.zeros(4, dtype=torch.float64)
    equals_oracle(
        encoded(encoder), lambda row: loop(encoder, row, start), rows_of(lengths), tuple(encoder.parameters())
    )


@pytest.mark.parametrize("law", ENCODER_LAWS)
def test_obeys_the_laws(law: Law[MinGRU]) -> None:
    """Whatever it declares is true of it, and more."""
    law(lambda: MinGRU(3, 4))


def test_starts_from_the_initial_state() -> None:
    """Each row starts from its own state, which gets its gradient; a row without steps ends in it."""
    encoder = MinGRU(3, 4).double()
    rows = rows_of([5, 0, 2])
    batch = padded(rows)
    initial = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    states = encoder(Padded(Vectors, batch.values, batch.lengths, initial=(initial,)))
    wanted = torch.stack([loop(encoder, row, initial[0, index])[-1] for index, row in enumerate(rows)])
    torch.testing.assert_close(states.final, wanted)
    assert torch.equal(states.final[1], initial[0, 1])
    weights = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    ours, plain = (torch.autograd.grad((final * weights).sum(), initial)[0] for final in (states.final, wanted))
    torch.testing.assert_close(ours, plain)


def test_gates_that_are_shut_or_open_stay_finite() -> None:
    """Where a gate is as good as 0 or 1 for a long time, states and gradients are those of the loop."""
    encoder = MinGRU(3, 4).double()
    rows = [60 * row for row in rows_of([40, 3])]
    start = torch.zeros(4, dtype=torch.float64)
    equals_oracle(encoded(encoder), lambda row: loop(encoder, row, start), rows, tuple(encoder.parameters()))


def test_refuses_the_state_of_another_encoder() -> None:
    """The two tensors that an LSTM carries are not silently cut to one."""
    state = torch.zeros(1, 1, 4)
    batch = Packed(Vectors, torch.ones(2, 3), torch.tensor([2]), initial=(state, state))
    with pytest.raises(
        ShapeError, match=r"initial_carry must be one tensor of \(1, 1, 4\), but \[\(1, 1, 4\), \(1, 1, 4\)\]"
    ):
        MinGRU(3, 4)(batch)
