"""The native engine in bfloat16 is as close to a loop in float64 as factors rounded to bfloat16 allow."""

import ctypes
import gc
import os
import weakref
from collections.abc import Sequence
from typing import Final

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from pipeline import Encoder, MaybeCausal, Padded, Vectors
from pipeline.extend import PackingOrder
from pipeline.laws.graphs import compiled_part_is_equal, exported_part_is_equal
from pipeline.testing import ENCODER_LAWS, Law
from pipeline_recurrent import GRU, LSTM, RNN
from pipeline_recurrent.engines import Cell, LayerInputs, StackInputs, Weights, choose, native
from pipeline_recurrent.engines.native import Native
from pipeline_recurrent.engines.native_layout import CELLS
from pipeline_recurrent.engines.torch_kernels import has_low_precision
from pipeline_recurrent.native.library import Kernels, available, describe_instructions, load_kernels, open_library
from pipeline_recurrent.recurrent import Recurrent
from support.layers import RAGGED, Case, case, run_loop, run_packed, with_gradients
from support.untyped import as_any

KINDS = (LSTM, GRU, RNN)
LONG = list(range(1, 24))
MANY = [*range(1, 30), 0, 29]

# Graphs are made of torch's operations, and take long to compile.
LAWS = [law for law in ENCODER_LAWS if law not in {exported_part_is_equal, compiled_part_is_equal}]

ROUNDING: Final = 2.0**-9
"""The largest relative error of a number that is rounded to bfloat16."""

VECTORS: Final = "avx512bf16"
"""The instruction set with products of bfloat16, without AMX."""

# In units of ROUNDING, relative to the largest number of a tensor. A gradient is rounded four times on its way: as a
# gate's gradient, as a factor's gradient, and with the input products and states that it was computed from. The state of
# an RNN is a factor at every step, so its errors add up over a row; measured are 5.3, and 3 for the other cells.
ALLOWED: Final = 7


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip, with the reason, where bfloat16 is computed in float32. Compute small layers in bfloat16, too."""
    if reason := available(torch.bfloat16):
        (pytest.fail if available() and os.environ.get("PIPELINE_TESTS_NATIVE") == "1" else pytest.skip)(reason)
    monkeypatch.setattr(native, "MIN_OPERATIONS_FOR_BFLOAT16", 0)
    monkeypatch.setattr(native, "MIN_WEIGHTS_FOR_BFLOAT16", 0)


def round_factors(given: Case) -> Case:
    """Round what the products multiply, so that engine and oracle start from the same numbers, in float32."""
    weights: list[Weights] = [
        (w_ih.bfloat16().float(), w_hh.bfloat16().float(), b_ih, b_hh) for w_ih, w_hh, b_ih, b_hh in given.weights
    ]
    return given._replace(x=given.x.bfloat16().float(), weights=weights)


def make(cell: Cell, lengths: Sequence[int] = RAGGED, hidden: int = 7, *, both: bool = True) -> Case:
    """Draw a layer. No unit of a ReLU layer is near 0, where rounding would switch its gradient on or off."""
    given = round_factors(case(cell, lengths, hidden, both=both, size=24))
    if cell != "rnn_relu":
        return given
    signs = torch.linspace(-4, 4, hidden).sign() * 4
    weights: list[Weights] = [(w_ih / 8, w_hh / 8, signs, signs) for w_ih, w_hh, *_ in given.weights]
    return given._replace(weights=weights)


def run_low(given: Case, instruction_set: str | None = None) -> list[Tensor]:
    """Return output and final states of the native engine in bfloat16."""
    output, ended = Native(instruction_set).run_low_layer(given.inputs, torch.bfloat16)
    return [output, *ended]


def assert_close(found: Sequence[Tensor], exact: Sequence[Tensor], allowed: int = ALLOWED) -> None:
    """Compare relative to the largest number of each tensor."""
    for one, other in zip(found, exact, strict=True):
        assert one.dtype is torch.float32
        torch.testing.assert_close(one.double(), other, rtol=0, atol=allowed * ROUNDING * float(other.abs().max()))


def assert_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Compare all bits."""
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("instruction_set", [None, VECTORS])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_it_equals_a_loop_over_rows(cell: Cell, both: bool, instruction_set: str | None) -> None:
    """Hidden vectors, final states and every gradient, up to the rounding of factors; with AMX if it exists, and without."""
    given = make(cell, both=both)
    one, other = given.to(torch.float32), given.to(torch.float64)
    assert_close(with_gradients(one, run_low(one, instruction_set)), with_gradients(other, run_loop(other)))


@pytest.mark.parametrize("cell", CELLS)
def test_amx_gives_the_results_of_vectors(cell: Cell) -> None:
    """Blocks of up to 16 and 32 rows, one and several panels, operands that zeros fill up, and others."""
    if not load_kernels().amx:
        pytest.skip("this machine has no AMX, or its system does not allow it")
    for lengths, hidden in (([*range(1, 51)], 40), ([3] * 17, 7), ([2] * 33, 96)):
        given = make(cell, lengths, hidden)
        ours, vectors = (
            with_gradients(one, run_low(one, name))
            for one, name in ((given.to(torch.float32), None), (given.to(torch.float32), VECTORS))
        )
        assert_close(ours, [part.double() for part in vectors])
        # It adds in another order, so that equal bits would show that it was not used.
        assert not all(map(torch.equal, ours, vectors))


def test_amx_is_used_beside_no_set_that_is_named() -> None:
    """So that a machine with AMX can compute as one without."""
    assert not load_kernels(VECTORS).amx
    assert describe_instructions() == VECTORS + " and amx" * load_kernels().amx


@pytest.mark.parametrize("hidden", [16, 33, 96])
@pytest.mark.parametrize("cell", CELLS)
def test_it_equals_torch_in_float64(cell: Cell, hidden: int) -> None:
    """With an odd number of units, which a product reads in pairs, and over longer rows."""
    # The states of this ReLU layer hardly change, so that each step adds the same rounding error.
    allowed = 2 * ALLOWED if cell == "rnn_relu" else ALLOWED
    for lengths in (LONG, [1], [4, 4], [1, 1, 0, 1]):
        given = make(cell, lengths, hidden)
        one, other = given.to(torch.float32), given.to(torch.float64)
        assert_close(with_gradients(one, run_low(one)), with_gradients(other, run_packed(other)), allowed)


@pytest.mark.parametrize("cell", CELLS)
def test_layers_without_biases(cell: Cell) -> None:
    """Biases are added by the kernel."""
    given = round_factors(case(cell, RAGGED, bias=False))._replace(initial=make(cell, RAGGED, 5).initial)
    exact = run_packed(given.to(torch.float64))
    assert_close([part.detach() for part in run_low(given)], [part.detach() for part in exact])


@pytest.mark.parametrize("cell", CELLS)
def test_default_dtype_does_not_matter(cell: Cell) -> None:
    """The zeros in place of a missing bias are float32, too."""
    given = make(cell)
    weights: list[Weights] = [(w_ih, w_hh, b_ih, None) for w_ih, w_hh, b_ih, _ in given.weights]
    given = given._replace(weights=weights)
    wanted = run_low(given)
    torch.set_default_dtype(torch.float64)
    try:
        found = run_low(given)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_equal(found, wanted)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_what_is_carried_is_not_rounded(cell: Cell) -> None:
    """A cell grows by 0.001 per step, which bfloat16 loses from 0.25 on."""
    gates = {"lstm": (20.0, 20.0, 0.001, 20.0), "gru": (0.0, 6.9, 1.0)}[cell]  # a GRU keeps 0.999 of its state
    bias = torch.tensor(gates)
    zeros = torch.zeros(len(gates), 1)
    initial = [torch.zeros(1, 1, 1)] * (2 if cell == "lstm" else 1)
    given = Case(
        cell, PackingOrder(torch.tensor([900])), torch.zeros(900, 1), [(zeros, zeros, bias, zeros[:, 0])], initial
    )
    for found, exact in zip(run_low(given), run_packed(given.to(torch.float64)), strict=True):
        torch.testing.assert_close(found.double(), exact.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [7, 16])
@pytest.mark.parametrize("cell", CELLS)
def test_a_module_in_bfloat16_gives_the_same_rounded(cell: Cell, hidden: int) -> None:
    """Results and gradients have its dtype, and are those of float32 tensors with the same numbers, rounded once."""
    given = make(cell, RAGGED, hidden).to(torch.bfloat16)
    wide = given.to(torch.float32)
    weighed = [torch.linspace(-1, 1, part.numel()).bfloat16().view(part.shape) for part in run_low(given)]
    found, expected = (
        [*results, *torch.autograd.grad(results, each.leaves(), [weight.to(results[0].dtype) for weight in weighed])]
        for each, results in ((given, run_low(given)), (wide, run_low(wide)))
    )
    assert {part.dtype for part in found} == {torch.bfloat16}
    assert_equal(found, [part.bfloat16() for part in expected])


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("hidden", [5, 16])
@pytest.mark.parametrize("cell", CELLS)
def test_nan_and_infinity_stay_in_their_row(cell: Cell, hidden: int, odd: float) -> None:
    """They appear where float64 has them, and change no bit of another row."""
    given = round_factors(case(cell, [4, 6, 5], hidden, both=False, size=1))
    shortest = given.order.row_of_step == 0
    x = given.x.masked_fill((shortest & (given.order.time_of_step == 1)).unsqueeze(1), odd)
    usual, one = given.to(torch.float32), given._replace(x=x).to(torch.float32)
    other = given._replace(x=x).to(torch.float64)
    exact = run_packed(other)
    found, before = with_gradients(one, run_low(one)), with_gradients(usual, run_low(usual))
    for mine, theirs in zip(found, exact, strict=False):
        assert torch.equal(mine.isfinite(), theirs.isfinite())
        assert torch.equal(mine.isnan(), theirs.isnan())
    assert torch.equal(found[0][~shortest], before[0][~shortest])
    assert torch.equal(found[1 + len(given.initial)][~shortest], before[1 + len(given.initial)][~shortest])
    if odd != odd:  # noqa: PLR0124 - NaN
        grads = zip(found, with_gradients(other, exact), strict=True)
        assert all(torch.equal(mine.isnan(), theirs.isnan()) for mine, theirs in grads)


@pytest.mark.parametrize("cell", CELLS)
def test_large_numbers_are_finite(cell: Cell) -> None:
    """Also those that are too large for float16, in which gates are kept: results and gradients."""
    given = make(cell)
    large = given._replace(initial=[state * 1e6 for state in given.initial]).to(torch.float32)
    assert all(bool(part.isfinite().all()) for part in with_gradients(large, run_low(large)))


@pytest.mark.parametrize("cell", CELLS)
def test_the_number_of_threads_changes_no_bit(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own products stay on one thread. The last number is of threads of our own."""
    given = make(cell, MANY, 72)
    every: list[list[Tensor]] = []
    for count in (1, 2, 3, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        one = given.to(torch.float32)
        every.append(with_gradients(one, run_low(one)))
    team = ctypes.cast(open_library().pipeline_team, ctypes.c_void_p).value
    own = load_kernels()._replace(team=team)

    def load_with_team(_: str | None) -> Kernels:
        return own

    monkeypatch.setattr(native, "load_kernels", load_with_team)
    one = given.to(torch.float32)
    every.append(with_gradients(one, run_low(one)))
    for other in every[1:]:
        assert_equal(other, every[0])


@pytest.mark.parametrize("cell", CELLS)
def test_a_row_has_the_same_bits_in_every_batch(cell: Cell) -> None:
    """Alone, in batches of other sizes, and in another order."""
    given = make(cell, LONG, 40)
    rows = [given.x[given.order.row_of_step == row] for row in range(len(LONG))]
    drawn = torch.Generator().manual_seed(1)
    expected: dict[int, list[Tensor]] = {}
    with torch.no_grad():
        for size in (len(LONG), 1, 2, 3, 7, 20, len(LONG)):
            chosen = [int(row) for row in torch.randperm(len(LONG), generator=drawn)[:size]]
            order = PackingOrder(torch.tensor([LONG[row] for row in chosen]))
            x = torch.empty_like(given.x[: order.steps])
            for place, row in enumerate(chosen):
                x[order.row_of_step == place] = rows[row]
            output, ended = Native().run_low_layer(LayerInputs(cell, order, x, given.weights), torch.bfloat16)
            for rank, place in enumerate(order.sorted_indices):
                row = chosen[int(place)]
                found = [output[order.row_of_step == place], *(state[:, rank] for state in ended)]
                assert_equal(found, expected.setdefault(row, found))


@pytest.mark.parametrize("cell", CELLS)
def test_inference_gives_the_bits_of_training(cell: Cell) -> None:
    """And its results need no gradients."""
    given = make(cell).to(torch.float32)
    trained = run_low(given)
    with torch.inference_mode():
        assert_equal(run_low(given), trained)
    assert all(part.requires_grad for part in trained)


@pytest.mark.parametrize("cell", CELLS)
def test_each_tensor_may_require_gradients_alone(cell: Cell) -> None:
    """The gradient is the same as with all others, also through transposed weights and a retained graph."""
    given = make(cell, hidden=16)
    whole = given.to(torch.float32)
    ended = run_low(whole)[1].square().sum()
    expected = torch.autograd.grad(ended, whole.leaves(), retain_graph=True)
    assert_equal(torch.autograd.grad(ended, whole.leaves()), expected)
    for place, gradient in enumerate(expected):
        alone = given.to(torch.float32, learning=False)
        turned: list[Weights] = [
            (w_ih, w_hh.t().contiguous().t(), b_ih, b_hh) for w_ih, w_hh, b_ih, b_hh in alone.weights
        ]
        alone = alone._replace(weights=turned)
        leaf = alone.leaves()[place].requires_grad_()
        (found,) = torch.autograd.grad(run_low(alone)[1].square().sum(), leaf)
        assert torch.equal(found, gradient)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_gradients_equal_torch(cell: Cell) -> None:
    """They are computed in float32, from first results and gradients that were rounded."""
    given = make(cell)
    both: list[list[Tensor]] = []
    for one, run in ((given.to(torch.float32), run_low), (given.to(torch.float64), run_packed)):
        first = torch.autograd.grad([part.square().sum() for part in run(one)], one.leaves(), create_graph=True)
        both.append(list(torch.autograd.grad([part.square().sum() for part in first], one.leaves())))
    assert_close(both[0], both[1], 4 * ALLOWED)


def test_results_are_freed_at_once() -> None:
    """There is no cycle that only the garbage collector would find."""
    given = make("gru", hidden=16).to(torch.float32)
    gc.disable()
    try:
        results = run_low(given)
        gone = [weakref.ref(part.grad_fn) for part in results] + [weakref.ref(part) for part in results]
        del results
        assert not any(ref() for ref in gone)
    finally:
        gc.enable()


@pytest.mark.parametrize("lengths", [[3, 0, 5], [4, 4]], ids=["ragged", "even"])
@pytest.mark.parametrize("steps_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_gives_the_dtype_of_torch(
    kind: type[LSTM] | type[GRU] | type[RNN], lengths: list[int], steps_dtype: torch.dtype
) -> None:
    """And is reported as the native engine; a backward pass under autocast gives the same gradients."""
    if not has_low_precision(torch.bfloat16):
        pytest.skip("torch's own LSTM raises an error here: the processor has no instructions for bfloat16")
    encoder: Recurrent[MaybeCausal] = as_any(kind)(3, 4, bidirectional=True, num_layers=2, engine="native")
    values = torch.randn(len(lengths), max(lengths), 3).to(steps_dtype)
    packed = pack_padded_sequence(values, torch.tensor(lengths).clamp(min=1), True, enforce_sorted=False)
    found: list[list[Tensor]] = []
    weights = list(encoder.rnn.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        states = encoder(Padded(Vectors, values, torch.tensor(lengths)))
        loss = states.final.float().square().sum()
        for inside in (True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=inside):
                found.append(list(torch.autograd.grad(loss, weights, retain_graph=True)))
        theirs = as_any(encoder.rnn)(packed)
    ended = theirs[1] if isinstance(theirs[1], tuple) else (theirs[1],)
    assert states.carry is not None
    dtypes = [tensor.dtype for tensor in (states.packed().values, states.final, *states.carry)]
    assert dtypes == [theirs[0].data.dtype, ended[0].dtype, *(each.dtype for each in ended)]
    assert states.report().engines == {"native": 1}
    assert_equal(*found)
    assert {grad.dtype for grad in found[0]} == {torch.float32}


def test_small_layers_under_autocast_are_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training that depends on the batch, in inference on the layer. A module in bfloat16 is not converted."""
    half = make("lstm", hidden=33).to(torch.bfloat16)
    given = half.to(torch.float32)
    exact, low = Native().run_layer(given.inputs)[0], run_low(given)[0]
    assert not torch.equal(exact, low)
    monkeypatch.setattr(native, "MIN_OPERATIONS_FOR_BFLOAT16", 2 * 4 * 33 * (24 + 33) * given.order.steps + 1)
    assert torch.equal(run_low(given)[0], exact)
    with torch.no_grad():
        assert torch.equal(run_low(given)[0], low)
        monkeypatch.setattr(native, "MIN_WEIGHTS_FOR_BFLOAT16", 4 * 33 * (24 + 33) + 1)
        assert torch.equal(run_low(given)[0], exact)
        assert torch.equal(run_low(half)[0], low.bfloat16())


@pytest.mark.parametrize("cell", CELLS)
def test_other_sets_and_float16_are_computed_in_float32(cell: Cell) -> None:
    """Rounded once, to the dtype of the weights."""
    narrower, given = Native("avx2"), make(cell)
    for engine, dtype in ((narrower, torch.bfloat16), (Native(), torch.float16)):
        half = given.to(dtype, learning=False)
        output, ended = engine.run_low_layer(half.inputs, dtype)
        exact, exact_ended = engine.run_layer(half.to(torch.float32, learning=False).inputs)
        assert_equal([output, *ended], [part.to(dtype) for part in (exact, *exact_ended)])


class NativeFirst:
    """A cost model that prefers the native engine."""

    @staticmethod
    def rank(_: StackInputs) -> list[str]:
        """Return the engines in this order."""
        return ["native", "packed"]


@pytest.mark.parametrize("law", LAWS)
def test_laws_hold(law: Law[Encoder[MaybeCausal]], monkeypatch: pytest.MonkeyPatch) -> None:
    """What laws compute in float64 is left to torch."""
    monkeypatch.setattr(choose, "load_costs", NativeFirst)
    law(lambda: LSTM(3, 4, num_layers=2, bidirectional=True, residual=True))
    law(lambda: GRU(3, 4, num_layers=2, layer_norm=True, bidirectional=True, merge="mean"))
    law(lambda: RNN(3, 4, bias=False))


def test_auto_takes_it_where_it_is_faster() -> None:
    """Under autocast and for modules in bfloat16."""
    module = nn.LSTM(100, 256, bidirectional=True)
    lengths = torch.arange(10, 42)
    encoder = LSTM(100, 256, bidirectional=True)
    encoder.load_torch(module)
    values = torch.randn(32, 41, 100)
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(Padded(Vectors, values, lengths)).engine == "native"
    assert encoder.bfloat16()(Padded(Vectors, values.bfloat16(), lengths)).engine == "native"
