"""The inference kernels equal a loop over each row in float64, up to the rounding of their precision."""

import os
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from pipeline.extend import Carry, PackingOrder, Precision
from pipeline.native import SETS
from pipeline_recurrent.engines.engine import STATES, Cell
from pipeline_recurrent.engines.native_layout import CELLS
from pipeline_recurrent.frozen import FrozenStack
from pipeline_recurrent.native.library import available, load_kernels
from pipeline_recurrent.stack import read_weights
from pipeline_recurrent.torch_modules import TorchModule
from support.oracles import run_recurrent
from support.untyped import seed, to_list

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
MODULES: dict[Cell, Callable[..., TorchModule]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
RAGGED = [2, 0, 5, 3, 1, 5, 0, 4, 2]


@pytest.fixture(autouse=True)
def compiled() -> None:
    """Skip, with the reason, where there is no library; fail in the nox session that compiles it."""
    if reason := available():
        (pytest.fail if os.environ.get("PIPELINE_TESTS_NATIVE") == "1" else pytest.skip)(reason)


def list_sets() -> list[str]:
    """Return the instruction sets that this machine runs, also those that are too slow to be used."""
    if available() is not None:
        return []
    names = next(list(sets) for sets in SETS.values() if load_kernels().name in sets)
    return names[: names.index(load_kernels().name) + 1]


class Case(NamedTuple):
    """A stack and rows for it."""

    cell: Cell
    module: TorchModule
    rows: list[Tensor]
    initial: Carry | None

    @property
    def order(self) -> PackingOrder:
        """The packed order of the rows."""
        return PackingOrder(torch.tensor([len(row) for row in self.rows]))

    @property
    def steps(self) -> Tensor:
        """The steps in packed order."""
        places: list[list[int]] = to_list(self.order.locate_steps().T)
        return torch.stack([self.rows[row][time] for row, time in places])

    def freeze(self, precision: Precision = "float32", instruction_set: str | None = None) -> FrozenStack:
        """Arrange the weights."""
        return FrozenStack(self.cell, read_weights(self.module), precision, instruction_set=instruction_set)

    def run(self, stack: FrozenStack) -> list[Tensor]:
        """Return each row's output, and the carry of all rows."""
        output, ended = stack.run(self.steps, self.order, self.initial)
        by_row = [output[self.order.row_of_step == row] for row in range(len(self.rows))]
        return [*by_row, *ended]

    def loop(self) -> list[Tensor]:
        """Return the same by a loop over each row in float64."""
        outputs, ended = list[Tensor](), list[list[Tensor]]()
        for index, row in enumerate(self.rows):
            initial = self.initial and [state[:, index].double() for state in self.initial]
            steps, carry = run_recurrent(self.module.double(), row.double(), initial)
            outputs.append(torch.cat(steps, dim=1).detach())
            ended.append(carry)
        self.module.float()
        return [*outputs, *(torch.stack(states, dim=1).detach() for states in zip(*ended, strict=True))]


def make_case(
    cell: Cell, lengths: Sequence[int], hidden: int, *, initial: bool = False, size: int = 5, **options: object
) -> Case:
    """Draw weights as torch does, rows and initial states."""
    seed(11)
    module = MODULES[cell](size, hidden, **options)
    shape = (module.num_layers * (1 + module.bidirectional), len(lengths), hidden)
    states = tuple(torch.randn(shape) for _ in range(STATES[cell])) if initial else None
    return Case(cell, module, [torch.randn(length, size) for length in lengths], states)


def largest_error(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest difference."""
    differences = [(one - other).abs().max() for one, other in zip(ours, theirs, strict=True) if one.numel()]
    return float(torch.stack(differences).max())


@pytest.mark.parametrize("cell", MODULES)
def test_float32_equals_the_loop(cell: Cell) -> None:
    """With every instruction set, all kinds of options, and hidden sizes that fill no, one or several panels."""
    choices = product((1, 2), (True, False), (True, False), (True, False))
    sizes = [(RAGGED, 7), ([1], 16), ([4, 4], 70), (list(range(1, 14)), 33)]
    for number, (layers, both, bias, initial) in enumerate(choices):
        lengths, hidden = sizes[number % len(sizes)]
        case = make_case(cell, lengths, hidden, initial=initial, num_layers=layers, bidirectional=both, bias=bias)
        expected = case.loop()
        for name in list_sets():
            assert largest_error(case.run(case.freeze(instruction_set=name)), expected) < 2e-6


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_low_precision_is_within_its_bound_over_many_steps(precision: Precision) -> None:
    """The bound of a plain RNN, whose tanh changes no more than its argument does.

    A state after a step differs from that of the loop by at most e' = d + n e: n is the largest sum of a row's absolute
    recurrent weights, which carries the difference of the state before (e), and d is the rounding of this step's
    products. A product of a weight w and a number a, each rounded, is wrong by at most r_w |a| + r_a |w| + r_w r_a. With
    bfloat16, r_w = |w| / 256 (numbers keep 8 digits); with int8, r_w is 1 / 254 of the largest weight of the row,
    and r_a of the largest number of the step. For n < 1 the differences stay below d / (1 - n).
    """
    case = make_case("rnn_tanh", [40, 3, 17], 24)
    with torch.no_grad():
        for weight in case.module.parameters():
            weight.mul_(0.3)
    largest, rounding = 0.0, 0.0
    for weight, numbers in (
        (case.module.get_parameter("weight_ih_l0"), torch.cat(case.rows).abs().amax(0)),
        (case.module.get_parameter("weight_hh_l0"), torch.ones(24)),
    ):
        size = weight.detach().abs().double()
        of_weight = size / 256 if precision == "bfloat16" else size.amax(1, keepdim=True).expand_as(size) / 254
        of_number = (numbers / 256 if precision == "bfloat16" else numbers.amax().expand_as(numbers) / 254).double()
        products = of_weight * numbers + of_number * size + of_weight * of_number
        rounding += float(products.sum(1).max())
        largest = float(size.sum(1).max())
    assert largest < 0.9
    error = largest_error(case.run(case.freeze(precision)), case.loop())
    assert 1e-5 < error < rounding / (1 - largest) + 1e-6


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("cell", MODULES)
def test_low_precision_is_near_the_loop(cell: Cell, precision: Precision) -> None:
    """A hundredth or less for states between -1 and 1, in deep stacks too."""
    sets = [None, list_sets()[-1]]  # the best one with AMX if it exists, and without
    for initial, layers, name in product((False, True), (1, 2), sets):
        case = make_case(cell, RAGGED, 40, initial=initial, num_layers=layers, bidirectional=True)
        ours, theirs = case.run(case.freeze(precision, name)), case.loop()
        typical = torch.cat([(one - other).flatten() for one, other in zip(ours, theirs, strict=True)]).std()
        assert largest_error(ours, theirs) < (0.03 if initial or cell == "rnn_relu" else 0.01)
        assert float(typical) < (3e-3 if precision == "bfloat16" else 5e-3)


def round_bytes(numbers: Tensor) -> Tensor:
    """Round to 255 levels per row, as the kernels do; the scale is computed in float32."""
    single = numbers.float()
    largest = single.abs().amax(-1, keepdim=True)
    return (single * (127 / largest)).nan_to_num(0).round().double() * (largest / 127).double()


def test_int8_equals_a_loop_with_the_same_rounding() -> None:
    """One step of an LSTM with the weights and numbers rounded first, then computed in float64."""
    case = make_case("lstm", [1] * 50, 20, initial=True, size=9)
    assert case.initial is not None
    w_in, w_state, *biases = (weight.detach().double() for weight in case.module.parameters())
    gates = round_bytes(w_in) @ round_bytes(torch.cat(case.rows)).T + (biases[0] + biases[1]).unsqueeze(1)
    i, f, g, o = (gates + round_bytes(w_state) @ round_bytes(case.initial[0][0]).T).T.chunk(4, dim=1)
    c = f.sigmoid() * case.initial[1][0].double() + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    *_, last, cells = case.run(case.freeze("int8"))
    torch.testing.assert_close(last[0].double(), h, rtol=0, atol=2e-6)
    torch.testing.assert_close(cells[0].double(), c, rtol=0, atol=2e-6)


@pytest.mark.parametrize("cell", MODULES)
def test_int8_has_the_same_bits_with_every_instruction_set(cell: Cell) -> None:
    """Of those with a fused multiply-add; their integer sums are exact."""
    case = make_case(cell, RAGGED, 37, initial=True, num_layers=2, bidirectional=True)
    expected = case.run(case.freeze("int8"))
    for name in list_sets():
        if name != "sse2":
            assert all(map(torch.equal, case.run(case.freeze("int8", name)), expected)), name
    sums = case.run(case.freeze("int8", list_sets()[0]))
    assert largest_error(sums, expected) < 1e-2


@pytest.mark.parametrize("cell", MODULES)
def test_amx_gives_the_results_of_vectors(cell: Cell) -> None:
    """All bits in int8; in bfloat16 its sums have another order. Blocks of a few, 16 and 32 rows, and several panels."""
    if not load_kernels().amx:
        pytest.skip("this machine has no AMX, or its system does not allow it")
    case = make_case(cell, [*range(40), 1, 1], 150, initial=True, size=140, bidirectional=True)
    ours, vectors = (case.run(case.freeze("int8", name)) for name in (None, list_sets()[-1]))
    assert all(map(torch.equal, ours, vectors))
    ours, vectors = (case.run(case.freeze("bfloat16", name)) for name in (None, list_sets()[-1]))
    assert 0 < largest_error(ours, vectors) < 0.01


def test_zeros_and_numbers_of_any_size_are_rounded_well() -> None:
    """Rows of zeros, of tiny numbers and of huge ones: each step has a scale of its own."""
    case = make_case("lstm", [3, 3, 3, 3], 6)
    for row, size in zip(case.rows, (0.0, 1e-35, 1e-3, 1e4), strict=True):
        row.mul_(size)
    bounds: dict[Precision, float] = {"float32": 1e-6, "bfloat16": 5e-3, "int8": 5e-3}
    for precision, error in bounds.items():
        ours, theirs = case.run(case.freeze(precision)), case.loop()
        assert largest_error(ours[:3], theirs[:3]) < error
        assert largest_error(ours[3:4], theirs[3:4]) < (1.0 if precision == "int8" else 0.2)
    torch.testing.assert_close(case.run(case.freeze("int8"))[0].double(), case.loop()[0], rtol=0, atol=5e-3)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", MODULES)
def test_a_nan_stays_in_its_row(cell: Cell, precision: Precision) -> None:
    """From its step on; every other row keeps its bits."""
    case = make_case(cell, [4, 6, 5], 21)
    expected = case.run(case.freeze(precision))
    case.rows[1][2, 3] = float("nan")
    found = case.run(case.freeze(precision))
    assert all(torch.equal(found[row], expected[row]) for row in (0, 2))
    assert torch.equal(found[1][:2], expected[1][:2])
    assert found[1][2:].isnan().all()


def test_gates_saturate_without_overflow() -> None:
    """Infinite and huge numbers give states of the loop, not NaN, in float32."""
    for cell in CELLS[:3]:
        case = make_case(cell, [3, 2], 5)
        case.rows[0][0], case.rows[1][1] = 1e30, -1e6
        assert largest_error(case.run(case.freeze()), case.loop()) < 1e-6


def test_an_empty_batch_keeps_its_initial_states() -> None:
    """Without a step there is nothing to compute."""
    case = make_case("lstm", [0, 0], 4, initial=True)
    output, ended = case.freeze().run(torch.zeros(0, 5), case.order, case.initial)
    assert output.shape == (0, 4)
    assert case.initial is not None
    assert all(map(torch.equal, ended, case.initial))
    assert not torch.stack(case.freeze().run(torch.zeros(0, 5), case.order, None)[1]).any()
