"""Every engine equals a loop over each row: hidden vectors, final states and all gradients."""

import copy
import pickle
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from pipeline import Classify, Encode, Encoder, MaybeCausal, Packed, Padded, Pool, Report, States, Vectors
from pipeline.errors import OptionError
from pipeline.extend import Carry, PackingOrder
from pipeline.registry import registry
from pipeline.testing import ENCODER_LAWS, Law
from pipeline_recurrent import GRU, LSTM, RNN, EngineName
from pipeline_recurrent.engines import ENGINES, StackInputs, Weights, plain
from pipeline_recurrent.native import available, library
from pipeline_recurrent.recurrent import Recurrent
from support.oracles import run_recurrent
from support.untyped import compile_graph, seed, untyped

Name = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
CELLS: tuple[Name, ...] = ("lstm", "gru", "rnn_tanh", "rnn_relu")
EVERYWHERE: tuple[EngineName, ...] = ("packed", "dense", "plain")
COMPILED: tuple[EngineName, ...] = () if available() else ("native",)
LENGTHS = (3, 0, 5, 1, 5)
EVEN = ((4, 4, 4), (5,))


class Case(NamedTuple):
    """A stack and how it is run."""

    cell: Name
    directions: int
    layers: int
    bias: bool
    initial: bool
    lengths: Sequence[int] = LENGTHS


CASES = [
    *(Case(*options) for options in product(CELLS, (1, 2), (1, 2), (True, False), (True, False))),
    # Rows of one length keep their order when they are packed, so states are not reordered.
    *(
        Case(cell, directions, 2, bias=True, initial=initial, lengths=lengths)
        for cell, directions, initial, lengths in product(CELLS, (1, 2), (True, False), EVEN)
    ),
]


def make_encoder(case: Case, engine: EngineName = "auto") -> Recurrent[MaybeCausal]:
    """Return a small encoder in float64, the same at every call."""
    seed(7)
    both = case.directions == 2
    if case.cell == "lstm":
        return LSTM(3, 4, num_layers=case.layers, bias=case.bias, bidirectional=both, engine=engine).double()
    if case.cell == "gru":
        return GRU(3, 4, num_layers=case.layers, bias=case.bias, bidirectional=both, engine=engine).double()
    activation: Literal["tanh", "relu"] = "tanh" if case.cell == "rnn_tanh" else "relu"
    return RNN(
        3, 4, nonlinearity=activation, num_layers=case.layers, bias=case.bias, bidirectional=both, engine=engine
    ).double()


def draw(case: Case) -> tuple[list[Tensor], Carry | None]:
    """Draw rows, one of them empty, and a different initial state for each row."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randn(time, 3, dtype=torch.float64, generator=generator, requires_grad=True) for time in case.lengths]
    if not case.initial:
        return rows, None
    shape, states = (case.layers * case.directions, len(rows), 4), 2 if case.cell == "lstm" else 1
    initial = [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(states)]
    return rows, tuple(initial)


def sum_weighted(results: Sequence[Tensor]) -> Tensor:
    """Return a weighted sum that changes if any two numbers are swapped."""
    flat = torch.cat([result.flatten() for result in results])
    return (flat * torch.linspace(-1, 2, len(flat), dtype=flat.dtype)).sum()


def gradients(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of all results, final states included, by all inputs."""
    found = torch.autograd.grad(sum_weighted(results), inputs, allow_unused=True, materialize_grads=True)
    return [gradient.detach() for gradient in found]


@cache
def run_loop(case: Case) -> list[Tensor]:
    """Return the loop's hidden vectors of each row, its carry, and the gradients of both."""
    module, (rows, initial) = make_encoder(case).rnn, draw(case)
    states: list[Tensor] = []
    ended: list[list[Tensor]] = []
    for index, row in enumerate(rows):
        steps, carried = run_recurrent(module, row, initial and [state[:, index] for state in initial])
        states.append(torch.cat(steps, dim=1))
        ended.append(carried)
    results = [*states, *(torch.stack(each, dim=1) for each in zip(*ended, strict=True))]
    return [*results, *gradients(results, [*rows, *(initial or ()), *module.parameters()])]


def run_encoder(encoder: Recurrent[MaybeCausal], case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Return an encoder's results in the order of `run_loop`."""
    encoder.to(dtype)
    rows, initial = draw(case)
    values = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(dtype)
    started = initial and tuple(state.to(dtype) for state in initial)
    states = encoder(Padded(Vectors, values, torch.tensor(case.lengths), initial_carry=started))
    assert states.carry is not None
    padded = states.padded().values
    results = [*(padded[index, :time] for index, time in enumerate(case.lengths)), *states.carry]
    return [*results, *gradients(results, [*rows, *(initial or ()), *encoder.rnn.parameters()])]


def explain_unsupported(engine: EngineName, dtype: torch.dtype) -> str | None:
    """Return why an engine cannot run on this machine."""
    weights: Weights = (torch.zeros(4, 1), torch.zeros(4, 1), None, None)
    stack = StackInputs("lstm", torch.zeros(1, 1, dtype=dtype), PackingOrder(torch.tensor([1])), [[weights]])
    return ENGINES[engine].unsupported_reason(stack)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("engine", [*EVERYWHERE, "native"])
def test_an_engine_equals_the_loop(engine: EngineName, case: Case) -> None:
    """Hidden vectors, final states and every gradient, in float64 and float32, for each cell and form of a stack."""
    tried = 0
    for dtype, rounding in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        if explain_unsupported(engine, dtype) is None:
            ours = run_encoder(make_encoder(case, engine), case, dtype)
            for one, other in zip(ours, run_loop(case), strict=True):
                torch.testing.assert_close(one.double(), other, rtol=rounding, atol=rounding)
            tried += 1
    if not tried:
        pytest.skip(f"{engine}: {explain_unsupported(engine, torch.float32)}")


@pytest.mark.parametrize("case", [case for case in CASES if case.initial and case.layers == 2], ids=str)
@pytest.mark.parametrize("engine", EVERYWHERE)
def test_inference_gives_the_same_as_training(engine: EngineName, case: Case) -> None:
    """Nothing is saved for a backward pass, and the results are equal."""
    encoder, (rows, initial) = make_encoder(case, engine), draw(case)
    batch = Padded(
        Vectors, nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(case.lengths), initial_carry=initial
    )
    with torch.inference_mode():
        states = encoder(batch)
        assert states.carry is not None
        ours = [*(states.padded().values[index, :time] for index, time in enumerate(case.lengths)), *states.carry]
    torch.testing.assert_close(ours, [result.detach() for result in run_loop(case)[: len(ours)]])


@pytest.mark.parametrize("cell", CELLS)
def test_directions_scanned_one_by_one_give_the_same(cell: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with recurrent weights that are too large for the cache."""
    monkeypatch.setattr(plain, "MAX_HIDDEN_TOGETHER", 0)
    case = Case(cell, 2, 2, bias=True, initial=True)
    torch.testing.assert_close(run_encoder(make_encoder(case, "plain"), case, torch.float64), run_loop(case))


@pytest.mark.parametrize("engine", EVERYWHERE)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_equal_finite_differences(engine: EngineName, cell: Name) -> None:
    """First derivatives, and second ones, for which an engine's own backward pass does not suffice."""
    case = Case(cell, 2, 1, bias=True, initial=True)
    encoder, (rows, initial) = make_encoder(case, engine), draw(case)
    values = torch.cat(rows[2:]).detach()

    def outcome(values: Tensor, *initial: Tensor) -> tuple[Tensor, ...]:
        states = encoder(Packed(Vectors, values, torch.tensor([5, 1, 5]), initial_carry=initial))
        return states.packed().values, states.final, *(states.carry or ())

    inputs = [values, *(state[:, 2:].detach() for state in initial or ())]
    tried = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(outcome, tried, fast_mode=True)
    assert torch.autograd.gradgradcheck(outcome, tried, fast_mode=True)


@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives_agree_in_float32(cell: Name) -> None:
    """In float32 torch prefers oneDNN's kernels, which must have second derivatives too."""
    case = Case(cell, 2, 1, bias=True, initial=False)
    every: list[list[Tensor]] = []
    for engine in (*EVERYWHERE, *COMPILED):
        encoder = make_encoder(case, engine).float()
        values = torch.cat(draw(case)[0]).detach().float().requires_grad_()
        # Rows of one length: torch's packed function calls its dense kernel.
        steps = encoder(Packed(Vectors, values, torch.tensor([7, 7]))).packed().values
        (first,) = torch.autograd.grad(steps.square().sum(), values, create_graph=True)
        every.append(list(torch.autograd.grad(first.square().sum(), [values, *encoder.rnn.parameters()])))
    for other in every[1:]:
        torch.testing.assert_close(other, every[0], rtol=1e-4, atol=1e-4)


def list_factories(engine: EngineName) -> list[Callable[[], Encoder[MaybeCausal]]]:
    """Return factories of encoders that together use every feature of an engine."""
    return [
        lambda: LSTM(3, 4, num_layers=2, bidirectional=True, residual=True, engine=engine),
        lambda: GRU(3, 4, num_layers=2, layer_norm=True, bidirectional=True, merge="mean", engine=engine),
        lambda: RNN(3, 4, bias=False, engine=engine),
    ]


@pytest.mark.parametrize("law", ENCODER_LAWS)
@pytest.mark.parametrize("engine", EVERYWHERE)
def test_laws_hold(engine: EngineName, law: Law[Encoder[MaybeCausal]]) -> None:
    """Every law of encoders, with each engine."""
    for make in list_factories(engine):
        law(make)


@pytest.mark.parametrize("engine", EVERYWHERE)
def test_norms_and_residuals_act_between_layers(engine: EngineName) -> None:
    """A stack equals its layers in sequence, with norms between them and inputs added to outputs."""
    encoder = LSTM(3, 4, num_layers=2, bidirectional=True, layer_norm=True, residual=True, engine=engine).double()
    one, two = (LSTM(size, 4, bidirectional=True).double() for size in (3, 8))
    names = encoder.rnn.state_dict()
    one.rnn.load_state_dict({name: names[name] for name in one.rnn.state_dict()})
    two.rnn.load_state_dict({name: names[name.replace("l0", "l1")] for name in two.rnn.state_dict()})
    batch = Packed(Vectors, torch.randn(9, 3, dtype=torch.float64), torch.tensor([3, 0, 6]))
    assert encoder.norms is not None
    first = encoder.norms[0](one(batch).packed().values)
    steps = first + two(Packed(Vectors, first, batch.lengths)).packed().values
    ours = encoder(batch)
    torch.testing.assert_close(ours.packed().values, steps)
    padded = ours.padded().values
    torch.testing.assert_close(
        ours.final,
        torch.stack(
            [torch.cat([row[max(n - 1, 0), :4], row[0, 4:]]) for row, n in zip(padded, (3, 0, 6), strict=True)]
        ),
    )


@pytest.mark.parametrize("engine", EVERYWHERE)
def test_dropout_acts_between_layers(engine: EngineName) -> None:
    """Only in training, and not after the last layer."""
    encoder: Recurrent[MaybeCausal] = LSTM(3, 4, num_layers=2, dropout=0.5, engine=engine)
    batch = Packed(Vectors, torch.ones(9, 3), torch.tensor([9]))
    first, second = encoder(batch), encoder(batch)
    assert first.carry is not None
    assert second.carry is not None
    assert torch.equal(first.carry[0][0], second.carry[0][0])
    assert not torch.equal(first.final, second.final)
    encoder.eval()
    assert torch.equal(encoder(batch).final, encoder(batch).final)


def test_an_engine_that_cannot_run_is_an_error_with_the_reason() -> None:
    """The message has the option, the reason and the fix. So do errors about options."""
    batch = Packed(Vectors, torch.ones(2, 3), torch.tensor([2]))
    with pytest.raises(
        OptionError,
        match=r"engine='cudnn' cannot run this batch, because it runs on a GPU, but the values are on cpu; choose another, or engine='auto'",
    ):
        LSTM(3, 4, engine="cudnn")(batch)
    with pytest.raises(
        OptionError, match="engine must be one of auto, packed, dense, plain, native, cudnn, got 'fast'"
    ):
        registry().encoders.make("lstm", input_size=3, hidden_size=4, engine="fast")
    for option in ("layer_norm", "residual"):
        with pytest.raises(OptionError, match=f"{option}=True acts between layers, but num_layers is 1"):
            registry().encoders.make("gru", input_size=3, hidden_size=4, **{option: True})
    with pytest.raises(OptionError, match="nonlinearity must be tanh or relu, got 'sigmoid'"):
        registry().encoders.make("rnn", input_size=3, hidden_size=4, nonlinearity="sigmoid")


def test_without_a_compiled_library_other_engines_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The native engine gives the reason, and nothing else fails."""
    caches = (library.open_library, library.load_kernels, library.explain_unavailable)
    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "kernels.so")
    for cached in caches:
        cached.cache_clear()
    batch = Packed(Vectors, torch.ones(2, 3), torch.tensor([2]))
    try:
        with pytest.raises(OptionError, match="because it is not compiled: there is no .*kernels.so"):
            LSTM(3, 4, engine="native")(batch)
        assert LSTM(3, 4)(batch).engine != "native"
    finally:
        for cached in caches:
            cached.cache_clear()


def test_engines_are_counted() -> None:
    """On the encoder and in the report of its states; the reports of an epoch add up."""
    encoder: Recurrent[MaybeCausal] = LSTM(3, 4, engine="plain")
    batch = Packed(Vectors, torch.ones(5, 3), torch.tensor([2, 3]))
    model = Encode(encoder)
    first = model(batch)
    encoder.engine = "dense"
    reports = [first.report(), model(batch).report(), model(batch).report()]
    assert encoder.engines == {"plain": 1, "dense": 2}
    total = sum(reports, start=Report())
    assert (total.batches, total.engines) == (3, {"plain": 1, "dense": 2})
    assert str(total).endswith("by dense: 2, plain: 1")
    empty = encoder(Packed(Vectors, torch.ones(0, 3), torch.tensor([0])))
    assert empty.report().engines == {}
    assert States.from_padded(torch.ones(1, 2, 3), torch.tensor([2])).report().engines == {}


@pytest.mark.parametrize("pool", ["final", "first", "last", "max", "mean", "sum"])
@pytest.mark.parametrize("engine", [*EVERYWHERE, *COMPILED])
@pytest.mark.filterwarnings("ignore:.* this direction has read one step only")
def test_a_batch_can_be_trained_on_after_prediction(engine: EngineName, pool: str) -> None:
    """A batch caches indices that were computed in inference mode; autograd can save them all the same."""
    model = Encode(LSTM(3, 4, bidirectional=True, engine=engine)) >> Pool(pool)
    batch = Padded(Vectors, torch.randn(5, max(LENGTHS), 3), torch.tensor(LENGTHS)).packed()
    with torch.inference_mode():
        before = model(batch).values
    after = model(batch).values
    torch.testing.assert_close(after, before)
    torch.autograd.backward(after.sum())


@pytest.mark.parametrize("engine", [*EVERYWHERE, *COMPILED])
def test_copies_keep_their_engine(engine: EngineName) -> None:
    """Both deep copies and pickles."""
    encoder: Recurrent[MaybeCausal] = GRU(3, 4, engine=engine)
    batch = Packed(Vectors, torch.ones(5, 3), torch.tensor([2, 3]))
    for copied in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert copied(batch).engine == engine


@pytest.mark.parametrize("engine", [*EVERYWHERE, "auto"])
def test_a_model_around_it_compiles(engine: EngineName) -> None:
    """The graph breaks at the engine; results and gradients are the same."""
    model = Encode(LSTM(3, 4, num_layers=2, bidirectional=True, engine=engine)) >> Pool("max") >> Classify(2)
    compiled = compile_graph(model, backend="eager")
    weights = list(model.parameters())
    for lengths in ([2, 3], [4, 0, 1]):
        batch = Packed(Vectors, torch.randn(5, 3), torch.tensor(lengths))
        with warnings.catch_warnings():
            # Torch's own warnings while it traces a graph.
            warnings.simplefilter("ignore")
            ours, eager = untyped(compiled)(batch), model(batch)
        assert isinstance(ours, type(eager))
        torch.testing.assert_close(ours.values, eager.values)
        torch.testing.assert_close(
            torch.autograd.grad(ours.values.square().sum(), weights),
            torch.autograd.grad(eager.values.square().sum(), weights),
        )
    torch.compiler.reset()


def test_the_packed_engine_under_autocast_gives_the_same_as_torch() -> None:
    """In dtype and values."""
    encoder: Recurrent[MaybeCausal] = GRU(3, 4, engine="packed")
    values = torch.randn(5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = encoder(Packed(Vectors, values, torch.tensor([5]))).packed().values
        theirs = encoder.rnn(nn.utils.rnn.pack_sequence([values]))[0].data
    assert ours.dtype is theirs.dtype
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("engine", ["plain", *COMPILED])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lengths", [(3, 0, 5, 1), (1,)])
def test_a_retained_graph_can_be_differentiated_again(lengths: tuple[int, ...], cell: Name, engine: EngineName) -> None:
    """Twice with the same gradients, though the last pass overwrites saved buffers; and not after that."""
    encoder = make_encoder(Case(cell, 2 if len(lengths) > 1 else 1, 1, bias=True, initial=False), engine).float()
    weights = list(encoder.parameters())
    batch = Packed(Vectors, torch.randn(sum(lengths), 3), torch.tensor(lengths))
    loss = sum_weighted([encoder(batch).packed().values])
    first, second = (torch.autograd.grad(loss, weights, retain_graph=True) for _ in range(2))
    last = torch.autograd.grad(loss, weights)
    for one, two, three in zip(first, second, last, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    encoder.engine = "packed"
    expected = torch.autograd.grad(sum_weighted([encoder(batch).packed().values]), weights)
    torch.testing.assert_close(last, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, weights)


@pytest.mark.parametrize("cell", CELLS)
def test_no_two_gradients_share_memory(cell: Name) -> None:
    """Those of the two biases are equal, but scaling one in place must not scale the other."""
    encoder = make_encoder(Case(cell, 2, 1, bias=True, initial=False), "plain")
    values = torch.randn(9, 3, dtype=torch.float64)
    torch.autograd.backward(encoder(Packed(Vectors, values, torch.tensor([5, 4]))).final.sum())
    places = [weight.grad.untyped_storage().data_ptr() for weight in encoder.parameters() if weight.grad is not None]
    assert len(set(places)) == len(list(encoder.parameters()))


def test_frozen_weights_get_no_gradient() -> None:
    """Nor does the input if it does not require one; the others get theirs."""
    case = Case("lstm", 2, 1, bias=True, initial=False)
    encoder = make_encoder(case, "plain")
    for name, weight in encoder.rnn.named_parameters():
        weight.requires_grad_("weight_hh" in name)
    batch = Packed(Vectors, torch.cat(draw(case)[0][2:]).detach(), torch.tensor([5, 1, 5]))
    torch.autograd.backward(encoder(batch).packed().values.square().sum())
    ours = {name: weight.grad for name, weight in encoder.rnn.named_parameters()}
    encoder.engine = "packed"
    encoder.zero_grad()
    torch.autograd.backward(encoder(batch).packed().values.square().sum())
    torch.testing.assert_close(ours, {name: weight.grad for name, weight in encoder.rnn.named_parameters()})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN needs a GPU, and there is none here")
def test_cudnn_is_chosen_on_a_gpu() -> None:
    """With the same results as on the CPU."""
    encoder: Recurrent[MaybeCausal] = LSTM(3, 4, num_layers=2, bidirectional=True)
    batch = Packed(Vectors, torch.randn(9, 3), torch.tensor([3, 0, 6]))
    on_cpu = encoder(batch)
    ours = encoder.to("cuda")(batch.to("cuda"))
    assert ours.engine == "cudnn"
    torch.testing.assert_close(ours.packed().values.cpu(), on_cpu.packed().values)
    torch.testing.assert_close(ours.final.cpu(), on_cpu.final)
