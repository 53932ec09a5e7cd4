"""Every engine of the recurrent encoders gives what a loop over each row gives: states, final ones, all gradients."""

import copy
import json
import pickle
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import attrs
import pytest
import torch
from torch import Tensor, nn

from pipeline import Classify, Encode, Encoder, MaybeCausal, Packed, Padded, Pool, Report, States, Vectors
from pipeline.data.batches import Carry
from pipeline.data.order import Order
from pipeline.errors import OptionError
from pipeline.registry import registry
from pipeline.testing import ENCODER_LAWS, Law
from pipeline_recurrent import GRU, LSTM, RNN, EngineName
from pipeline_recurrent.engines import ENGINES, Run, Weights, chosen, fit
from pipeline_recurrent.engines.costs import FEATURES, Costs, Family, Sizes, costs, features
from pipeline_recurrent.engines.scan import layer
from pipeline_recurrent.native import available
from pipeline_recurrent.recurrent import Recurrent
from support.oracles import recurrent
from support.untyped import graphed, loosely, seed

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
    # Rows of one length keep their order when they are packed, and nothing is moved.
    *(
        Case(cell, directions, 2, bias=True, initial=initial, lengths=lengths)
        for cell, directions, initial, lengths in product(CELLS, (1, 2), (True, False), EVEN)
    ),
]


def made(case: Case, engine: EngineName = "auto") -> Recurrent[MaybeCausal]:
    """A small encoder in float64, the same at every call."""
    seed(7)
    both = case.directions == 2
    if case.cell == "lstm":
        return LSTM(3, 4, num_layers=case.layers, bias=case.bias, bidirectional=both, engine=engine).double()
    if case.cell == "gru":
        return GRU(3, 4, num_layers=case.layers, bias=case.bias, bidirectional=both, engine=engine).double()
    squash: Literal["tanh", "relu"] = "tanh" if case.cell == "rnn_tanh" else "relu"
    return RNN(
        3, 4, nonlinearity=squash, num_layers=case.layers, bias=case.bias, bidirectional=both, engine=engine
    ).double()


def drawn(case: Case) -> tuple[list[Tensor], Carry | None]:
    """Rows, one of them empty, and initial states that are each row's own."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randn(time, 3, dtype=torch.float64, generator=generator, requires_grad=True) for time in case.lengths]
    if not case.initial:
        return rows, None
    shape, states = (case.layers * case.directions, len(rows), 4), 2 if case.cell == "lstm" else 1
    drawn = [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(states)]
    return rows, tuple(drawn)


def weighed(results: Sequence[Tensor]) -> Tensor:
    """A sum in which no two numbers may be swapped."""
    flat = torch.cat([result.flatten() for result in results])
    return (flat * torch.linspace(-1, 2, len(flat), dtype=flat.dtype)).sum()


def gradients(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Of all results, final states among them, by all inputs."""
    found = torch.autograd.grad(weighed(results), inputs, allow_unused=True, materialize_grads=True)
    return [gradient.detach() for gradient in found]


@cache
def wanted(case: Case) -> list[Tensor]:
    """What the loop gives: each row's states, what is carried, and the gradients of both."""
    module, (rows, initial) = made(case).rnn, drawn(case)
    states: list[Tensor] = []
    ended: list[list[Tensor]] = []
    for index, row in enumerate(rows):
        steps, carried = recurrent(module, row, initial and [state[:, index] for state in initial])
        states.append(torch.cat(steps, dim=1))
        ended.append(carried)
    results = [*states, *(torch.stack(each, dim=1) for each in zip(*ended, strict=True))]
    return [*results, *gradients(results, [*rows, *(initial or ()), *module.parameters()])]


def found(encoder: Recurrent[MaybeCausal], case: Case, dtype: torch.dtype) -> list[Tensor]:
    """What an engine gives, in the same order."""
    encoder.to(dtype)
    rows, initial = drawn(case)
    values = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(dtype)
    started = initial and tuple(state.to(dtype) for state in initial)
    states = encoder(Padded(Vectors, values, torch.tensor(case.lengths), initial_carry=started))
    assert states.carry is not None
    padded = states.padded().values
    results = [*(padded[index, :time] for index, time in enumerate(case.lengths)), *states.carry]
    return [*results, *gradients(results, [*rows, *(initial or ()), *encoder.rnn.parameters()])]


def refusal(engine: EngineName, dtype: torch.dtype, device: str = "cpu") -> str | None:
    """Why an engine cannot run on this machine."""
    weights: Weights = (torch.zeros(4, 1), torch.zeros(4, 1), None, None)
    run = Run("lstm", torch.zeros(1, 1, dtype=dtype, device=device), Order(torch.tensor([1])), [[weights]])
    return ENGINES[engine].refusal(run)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("engine", [*EVERYWHERE, "native"])
def test_an_engine_equals_the_loop(engine: EngineName, case: Case) -> None:
    """States, final states and every gradient, in float64 and float32, of each cell, in each form of a stack."""
    tried = 0
    for dtype, rounding in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        if refusal(engine, dtype) is None:
            ours = found(made(case, engine), case, dtype)
            for one, other in zip(ours, wanted(case), strict=True):
                torch.testing.assert_close(one.double(), other, rtol=rounding, atol=rounding)
            tried += 1
    if not tried:
        pytest.skip(f"{engine}: {refusal(engine, torch.float32)}")


@pytest.mark.parametrize("case", [case for case in CASES if case.initial and case.layers == 2], ids=str)
@pytest.mark.parametrize("engine", EVERYWHERE)
def test_without_gradients_it_is_the_same(engine: EngineName, case: Case) -> None:
    """In inference, where nothing need be kept."""
    encoder, (rows, initial) = made(case, engine), drawn(case)
    batch = Padded(
        Vectors, nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(case.lengths), initial_carry=initial
    )
    with torch.inference_mode():
        states = encoder(batch)
        assert states.carry is not None
        ours = [*(states.padded().values[index, :time] for index, time in enumerate(case.lengths)), *states.carry]
    torch.testing.assert_close(ours, [result.detach() for result in wanted(case)[: len(ours)]])


@pytest.mark.parametrize("cell", CELLS)
def test_directions_scanned_one_by_one_are_the_same(cell: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are where the recurrent weights are too large for the cache."""
    monkeypatch.setattr(layer, "TOGETHER", 0)
    case = Case(cell, 2, 2, bias=True, initial=True)
    torch.testing.assert_close(found(made(case, "plain"), case, torch.float64), wanted(case))


@pytest.mark.parametrize("engine", EVERYWHERE)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_those_of_finite_differences(engine: EngineName, cell: Name) -> None:
    """The first ones, and the second ones, for which no engine's own backward pass is enough."""
    case = Case(cell, 2, 1, bias=True, initial=True)
    encoder, (rows, initial) = made(case, engine), drawn(case)
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
    """Where torch prefers oneDNN's kernels, which must have them too."""
    case = Case(cell, 2, 1, bias=True, initial=False)
    every: list[list[Tensor]] = []
    for engine in (*EVERYWHERE, *COMPILED):
        encoder = made(case, engine).float()
        values = torch.cat(drawn(case)[0]).detach().float().requires_grad_()
        # Rows of one length: torch's packed call takes its dense way.
        steps = encoder(Packed(Vectors, values, torch.tensor([7, 7]))).packed().values
        (first,) = torch.autograd.grad(steps.square().sum(), values, create_graph=True)
        every.append(list(torch.autograd.grad(first.square().sum(), [values, *encoder.rnn.parameters()])))
    for other in every[1:]:
        torch.testing.assert_close(other, every[0], rtol=1e-4, atol=1e-4)


def law_abiding(engine: EngineName) -> list[Callable[[], Encoder[MaybeCausal]]]:
    """Encoders that together use all that an engine does."""
    return [
        lambda: LSTM(3, 4, num_layers=2, bidirectional=True, residual=True, engine=engine),
        lambda: GRU(3, 4, num_layers=2, layer_norm=True, bidirectional=True, merge="mean", engine=engine),
        lambda: RNN(3, 4, bias=False, engine=engine),
    ]


@pytest.mark.parametrize("law", ENCODER_LAWS)
@pytest.mark.parametrize("engine", EVERYWHERE)
def test_laws_hold(engine: EngineName, law: Law[Encoder[MaybeCausal]]) -> None:
    """Every law of encoders, whichever engine is forced."""
    for make in law_abiding(engine):
        law(make)


@pytest.mark.parametrize("engine", EVERYWHERE)
def test_norms_and_residuals_stand_between_layers(engine: EngineName) -> None:
    """A stack is what its layers are one after the other, its norms between them, what came in added."""
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
    """In training alone, and not behind the last layer."""
    encoder: Recurrent[MaybeCausal] = LSTM(3, 4, num_layers=2, dropout=0.5, engine=engine)
    batch = Packed(Vectors, torch.ones(9, 3), torch.tensor([9]))
    first, second = encoder(batch), encoder(batch)
    assert first.carry is not None
    assert second.carry is not None
    assert torch.equal(first.carry[0][0], second.carry[0][0])
    assert not torch.equal(first.final, second.final)
    encoder.eval()
    assert torch.equal(encoder(batch).final, encoder(batch).final)


def test_a_forced_engine_says_why_it_cannot() -> None:
    """With what was forced, why not, and what to do."""
    batch = Packed(Vectors, torch.ones(2, 3), torch.tensor([2]))
    with pytest.raises(
        OptionError,
        match=r"engine='cudnn' cannot run this batch, because it runs on a GPU, but the values are on cpu; choose another, or engine='auto'",
    ):
        LSTM(3, 4, engine="cudnn")(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(OptionError, match="because autocast is on"):
        LSTM(3, 4, engine="plain")(batch)
    halves = Packed(Vectors, torch.ones(2, 3, dtype=torch.bfloat16), torch.tensor([2]))
    with pytest.raises(OptionError, match="in float32 and float64, but the values are torch.bfloat16"):
        LSTM(3, 4, engine="dense").bfloat16()(halves)
    with pytest.raises(
        OptionError, match="engine must be one of auto, packed, dense, plain, native, cudnn, but 'fast' arrived"
    ):
        registry().encoders.make("lstm", input_size=3, hidden_size=4, engine="fast")
    for option in ("layer_norm", "residual"):
        with pytest.raises(OptionError, match=f"{option}=True acts between layers, but there is one"):
            registry().encoders.make("gru", input_size=3, hidden_size=4, **{option: True})
    with pytest.raises(OptionError, match="nonlinearity must be tanh or relu, but 'sigmoid' arrived"):
        registry().encoders.make("rnn", input_size=3, hidden_size=4, nonlinearity="sigmoid")


def test_a_missing_library_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was compiled, the native engine says so, and nothing else fails."""
    monkeypatch.setitem(__import__("sys").modules, "pipeline_recurrent.native", None)
    batch = Packed(Vectors, torch.ones(2, 3), torch.tensor([2]))
    with pytest.raises(OptionError, match="because it was not compiled when this library was installed"):
        LSTM(3, 4, engine="native")(batch)
    assert LSTM(3, 4)(batch).engine != "native"


def a_run(*, learning: bool = True, dtype: torch.dtype = torch.float32, rows: int = 4, time: int = 9) -> Run:
    """An LSTM's run."""
    weights: Weights = (torch.zeros(16, 3, requires_grad=learning), torch.zeros(16, 4), None, None)
    return Run("lstm", torch.zeros(rows * time, 3, dtype=dtype), Order(torch.full((rows,), time)), [[weights]])


def told(**weights: dict[str, float]) -> Costs:
    """A cost file in which engines cost what is said, in training and inference alike."""
    if "packed" in weights:
        weights["packed, even"] = weights["packed"]
    table = {"lstm training": weights, "lstm inference": weights}
    return Costs.read(json.dumps({"threads": {"1": table}}))


def test_auto_picks_what_the_cost_file_says() -> None:
    """The cheapest, by each of the features; torch's own where nothing promises clearly more, or nothing is known."""
    run = a_run()
    for feature in FEATURES:
        for fast, slow in (("plain", "dense"), ("dense", "plain")):
            known = told(packed={"call": 1e9}, **{fast: {feature: 1.0}, slow: {feature: 2.0}})
            assert chosen("auto", run, known).name == fast
    assert chosen("auto", run, told(packed={"call": 1.0}, plain={"call": 0.92})).name == "packed"
    assert chosen("auto", run, told(packed={"call": 1.0}, plain={"call": 0.88})).name == "plain"
    assert chosen("auto", run, told()).name == "packed"


def test_auto_passes_over_what_cannot_run() -> None:
    """The next in price is taken; float64 is not oneDNN's."""
    known = told(packed={"call": 9.0}, dense={"call": 1.0}, plain={"call": 2.0}, cudnn={"call": 0.0})
    assert chosen("auto", a_run(), known).name == "dense"
    assert chosen("auto", a_run(dtype=torch.float64), known).name == "plain"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert chosen("auto", a_run(), known).name == "packed"
    meta = attrs.evolve(a_run(), steps=torch.zeros(36, 3, device="meta"))
    assert chosen("auto", meta, known).name == "packed"


def test_torchs_packed_lstm_has_two_costs() -> None:
    """It goes the dense way where all rows are of one length, and only there."""
    table = {"packed": {"call": 9.0}, "packed, even": {"call": 1.0}, "plain": {"call": 2.0}}
    known = Costs.read(json.dumps({"threads": {"1": {"lstm training": table}}}))
    assert chosen("auto", a_run(), known).name == "packed"
    ragged = attrs.evolve(a_run(), order=Order(torch.tensor([9, 9, 9, 8])), steps=torch.zeros(35, 3))
    assert chosen("auto", ragged, known).name == "plain"


def test_costs_are_those_of_the_nearest_number_of_threads() -> None:
    """A machine of another size than those that were measured is not without an answer."""
    table = {threads: {"lstm training": {"plain": {"call": float(threads)}}} for threads in (1, 8)}
    known = Costs.read(json.dumps({"threads": table}))
    sizes = Sizes.of(a_run())
    assert [known.microseconds("plain", sizes, threads) for threads in (1, 2, 7, 64)] == [1, 1, 8, 8]


def test_the_shipped_costs_know_what_is_fast() -> None:
    """Long rows train by the plain engine; the file has weights for every kind of cell."""
    sizes = Sizes("lstm", learning=True, rows=32, longest=600, steps=7_000, features=100, hidden=128, directions=2)
    for family, learning in product(get_args(Family), (True, False)):
        own = attrs.evolve(sizes, family=family, learning=learning)
        assert {"packed", "dense", "plain"} <= costs().of(own, threads=1).keys()
        if learning:
            times = {engine: costs().microseconds(engine, own, threads=1) for engine in ("packed", "plain")}
            assert times["plain"] < times["packed"] / 2


def test_a_fit_finds_the_weights_that_made_the_times() -> None:
    """None of them below zero."""
    truth = dict(zip(FEATURES, (50.0, 3.0, 0.0, 30.0, 40.0, 0.0, 900.0, 5.0), strict=True))
    points: list[fit.Point] = []
    for rows, longest, read, hidden in product((1, 30), (3, 90), (9, 300), (16, 200, 512)):
        sizes = Sizes(
            "lstm", learning=True, rows=rows, longest=longest, steps=rows * longest, features=read, hidden=hidden
        )
        row = features("packed", sizes)
        points.append((row, sum(weight * number for weight, number in zip(truth.values(), row, strict=True))))
    fitted = fit.fitted(points)
    for row, taken in points:
        again = sum(fitted[name] * number for name, number in zip(FEATURES, row, strict=True))
        assert again == pytest.approx(taken, rel=0.05)
    assert min(fitted.values()) >= 0


def test_the_command_measures_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written can be read, and keeps what was known for other numbers of threads."""
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"threads": {"64": {"lstm training": {"packed": {"call": 5}}}}}))
    monkeypatch.setattr("sys.argv", ["fit", "--seconds", "0", "--to", str(path)])

    def small(_: object) -> tuple[list[int], int, int, int]:
        return [3, 1], 2, 4, 2

    monkeypatch.setattr(fit, "drawn", small)
    monkeypatch.setattr(fit, "_ROUNDS", 9)
    fit.main()
    known = Costs.read(path.read_text())
    assert set(known.by_threads) == {64, torch.get_num_threads()}
    assert {"packed", "dense", "plain"} <= known.of(
        attrs.evolve(Sizes.of(a_run(learning=False)), family="gru"), torch.get_num_threads()
    ).keys()


def test_engines_are_counted() -> None:
    """On the encoder, and on the report of what it gave, through attention; an epoch's is the sum."""
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
def test_a_batch_that_was_predicted_from_can_be_trained_on(engine: EngineName, pool: str) -> None:
    """What a batch keeps of its order was worked out in inference mode, and is saved for gradients all the same."""
    model = Encode(LSTM(3, 4, bidirectional=True, engine=engine)) >> Pool(pool)
    batch = Padded(Vectors, torch.randn(5, max(LENGTHS), 3), torch.tensor(LENGTHS)).packed()
    with torch.inference_mode():
        before = model(batch).values
    after = model(batch).values
    torch.testing.assert_close(after, before)
    torch.autograd.backward(after.sum())


@pytest.mark.parametrize("engine", [*EVERYWHERE, *COMPILED])
def test_copies_keep_their_engine(engine: EngineName) -> None:
    """Pickled, or copied."""
    encoder: Recurrent[MaybeCausal] = GRU(3, 4, engine=engine)
    batch = Packed(Vectors, torch.ones(5, 3), torch.tensor([2, 3]))
    for again in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert again(batch).engine == engine


@pytest.mark.parametrize("engine", [*EVERYWHERE, "auto"])
def test_a_model_around_it_compiles(engine: EngineName) -> None:
    """The graph breaks at the engine; answers and gradients are the same."""
    model = Encode(LSTM(3, 4, num_layers=2, bidirectional=True, engine=engine)) >> Pool("max") >> Classify(2)
    compiled = graphed(model, backend="eager")
    weights = list(model.parameters())
    for lengths in ([2, 3], [4, 0, 1]):
        batch = Packed(Vectors, torch.randn(5, 3), torch.tensor(lengths))
        with warnings.catch_warnings():
            # What torch warns of while it makes a graph is not ours.
            warnings.simplefilter("ignore")
            ours, plain = loosely(compiled)(batch), model(batch)
        assert isinstance(ours, type(plain))
        torch.testing.assert_close(ours.values, plain.values)
        torch.testing.assert_close(
            torch.autograd.grad(ours.values.square().sum(), weights),
            torch.autograd.grad(plain.values.square().sum(), weights),
        )
    torch.compiler.reset()


def test_autocast_gives_what_torch_gives() -> None:
    """In dtype and values: no other engine than torch's own is picked."""
    encoder: Recurrent[MaybeCausal] = GRU(3, 4)
    values = torch.randn(5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = encoder(Packed(Vectors, values, torch.tensor([5]))).packed().values
        theirs = encoder.rnn(nn.utils.rnn.pack_sequence([values]))[0].data
    assert ours.dtype is theirs.dtype
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("engine", ["plain", *COMPILED])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lengths", [(3, 0, 5, 1), (1,)])
def test_a_graph_that_is_kept_can_be_gone_through_again(
    lengths: tuple[int, ...], cell: Name, engine: EngineName
) -> None:
    """Twice with the same gradients, though the last pass writes over what was kept; and not after that."""
    encoder = made(Case(cell, 2 if len(lengths) > 1 else 1, 1, bias=True, initial=False), engine).float()
    weights = list(encoder.parameters())
    batch = Packed(Vectors, torch.randn(sum(lengths), 3), torch.tensor(lengths))
    loss = weighed([encoder(batch).packed().values])
    first, second = (torch.autograd.grad(loss, weights, retain_graph=True) for _ in range(2))
    last = torch.autograd.grad(loss, weights)
    for one, two, three in zip(first, second, last, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    encoder.engine = "packed"
    wanted = torch.autograd.grad(weighed([encoder(batch).packed().values]), weights)
    torch.testing.assert_close(last, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, weights)


@pytest.mark.parametrize("cell", CELLS)
def test_no_two_gradients_are_one(cell: Name) -> None:
    """The biases' are equal, but who scales one in place does not scale the other."""
    encoder = made(Case(cell, 2, 1, bias=True, initial=False), "plain")
    values = torch.randn(9, 3, dtype=torch.float64)
    torch.autograd.backward(encoder(Packed(Vectors, values, torch.tensor([5, 4]))).final.sum())
    places = [weight.grad.untyped_storage().data_ptr() for weight in encoder.parameters() if weight.grad is not None]
    assert len(set(places)) == len(list(encoder.parameters()))


def test_frozen_weights_get_no_gradient() -> None:
    """Nor does what comes in, where nobody asks; the others get theirs."""
    case = Case("lstm", 2, 1, bias=True, initial=False)
    encoder = made(case, "plain")
    for name, weight in encoder.rnn.named_parameters():
        weight.requires_grad_("weight_hh" in name)
    batch = Packed(Vectors, torch.cat(drawn(case)[0][2:]).detach(), torch.tensor([5, 1, 5]))
    torch.autograd.backward(encoder(batch).packed().values.square().sum())
    ours = {name: weight.grad for name, weight in encoder.rnn.named_parameters()}
    encoder.engine = "packed"
    encoder.zero_grad()
    torch.autograd.backward(encoder(batch).packed().values.square().sum())
    torch.testing.assert_close(ours, {name: weight.grad for name, weight in encoder.rnn.named_parameters()})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN needs a GPU, and there is none here")
def test_on_a_gpu_it_is_cudnn() -> None:
    """With the numbers that the CPU gives."""
    encoder: Recurrent[MaybeCausal] = LSTM(3, 4, num_layers=2, bidirectional=True)
    batch = Packed(Vectors, torch.randn(9, 3), torch.tensor([3, 0, 6]))
    plain = encoder(batch)
    ours = encoder.to("cuda")(batch.to("cuda"))
    assert ours.engine == "cudnn"
    torch.testing.assert_close(ours.packed().values.cpu(), plain.packed().values)
    torch.testing.assert_close(ours.final.cpu(), plain.final)
