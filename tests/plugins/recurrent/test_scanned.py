"""minGRU, minLSTM and LRU equal a loop over the steps of each row, obey the laws, and are saved and exported."""

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.nn.functional import gelu, glu

from pipeline import (
    BPTTWindows,
    Bucket,
    Classify,
    Embed,
    Encode,
    Example,
    FromIds,
    NextToken,
    Pack,
    Packed,
    Pad,
    Padded,
    Pool,
    Shift,
    Vectors,
    load,
)
from pipeline.data.states import MaybeCausal
from pipeline.errors import OptionError, ShapeError
from pipeline.registry import registry
from pipeline.testing import ENCODER_LAWS, Law, adapt_encoder, check_against_oracle, make_batch
from pipeline_recurrent import LRU, MinGRU, MinLSTM
from support.strategies import ragged_rows
from support.untyped import seed

ENCODERS: dict[str, Callable[[], MinGRU | MinLSTM | LRU]] = {
    "min_gru": lambda: MinGRU(3, 4),
    "min_gru of two layers": lambda: MinGRU(
        3, 4, num_layers=2, bidirectional=True, residual=True, layer_norm=True, merge="sum"
    ),
    "min_lstm": lambda: MinLSTM(3, 4, candidate="positive"),
    "min_lstm of two layers": lambda: MinLSTM(3, 4, num_layers=2, bidirectional=True),
    "lru": lambda: LRU(3, 4, state_size=5),
    "lru of two layers": lambda: LRU(
        3, 4, num_layers=2, bidirectional=True, residual=True, mix="mlp", merge="mean", max_phase=1.0
    ),
    "lru without a mix": lambda: LRU(3, 4, mix="none", min_radius=0.5),
}
EVERY_ENCODER = pytest.mark.parametrize("name", ENCODERS)


def make(name: str) -> MinGRU | MinLSTM | LRU:
    """Return an encoder in float64, the same at every call."""
    seed(5)
    return ENCODERS[name]().double()


def read_part(module: nn.Module, name: str) -> Tensor:
    """Return a parameter by its name."""
    return module.get_parameter(name)


def apply(module: nn.Module, name: str, x: Tensor) -> Tensor:
    """Apply a linear layer by its name, if it has no bias as well."""
    weights = dict(module.named_parameters())
    product = weights[f"{name}.weight"] @ x
    return product + weights[f"{name}.bias"] if f"{name}.bias" in weights else product


def step(encoder: MinGRU | MinLSTM | LRU, layer: nn.Module, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next state and the output of one step, by the formulas of the papers."""
    if isinstance(encoder, LRU):
        factor = torch.exp(-read_part(layer, "nu").exp() + 1j * read_part(layer, "theta").exp())
        real, imaginary = apply(layer, "into", x).chunk(2)
        state = factor * state + read_part(layer, "log_gamma").exp() * (real + 1j * imaginary)
        weight, other = read_part(layer, "out.weight").chunk(2, dim=1)
        y = ((weight - 1j * other) @ state).real + apply(layer, "skip", x)
        if encoder.mix == "glu":
            y = glu(apply(layer, "mixer.0", gelu(y)), dim=0)
        elif encoder.mix == "mlp":
            y = apply(layer, "mixer.1", gelu(apply(layer, "mixer.0", y)))
        return state, y
    gates = apply(layer, "linear", x)
    if isinstance(encoder, MinGRU):
        z, candidate = gates.chunk(2)
        keep, take = 1 - z.sigmoid(), z.sigmoid()
    else:
        f, i, candidate = gates.chunk(3)
        keep, take = f.sigmoid() / (f.sigmoid() + i.sigmoid()), i.sigmoid() / (f.sigmoid() + i.sigmoid())
    if encoder.candidate == "positive":
        candidate = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
    state = keep * state + take * candidate
    return state, state


def run_loop(encoder: MinGRU | MinLSTM | LRU, row: Tensor) -> Tensor:
    """Return one row's hidden vectors and, below them, its final state."""
    merges: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "concat": lambda one, two: torch.cat([one, two], -1),
        "sum": torch.add,
        "mean": lambda one, two: (one + two) / 2,
    }
    x, layers = row, list(encoder.layers)
    halves: list[Tensor] = []
    for number in range(encoder.num_layers):
        halves = []
        for direction in range(encoder.directions):
            layer = layers[number * encoder.directions + direction]
            kind = torch.complex128 if isinstance(encoder, LRU) else torch.float64
            state = torch.zeros(int(getattr(layer, "state_size")), dtype=kind)  # noqa: B009
            outputs: list[Tensor] = []
            for each in reversed(x) if direction else x:
                state, output = step(encoder, layer, each, state)
                outputs.append(output)
            if outputs:
                halves.append(torch.stack(outputs[::-1] if direction else outputs))
            else:
                halves.append(x.new_zeros(0, encoder.hidden_size))
        output = torch.cat(halves, -1)
        x = output + x if encoder.residual and number else output
        if number < encoder.num_layers - 1 and encoder.norms is not None:
            x = encoder.norms[number](x)
    halves = list(x.chunk(encoder.directions, -1))
    ends = [half[-1:] if not direction else half[:1] for direction, half in enumerate(halves)]
    ends = [end if len(end) else end.new_zeros(1, encoder.hidden_size) for end in ends]
    if encoder.directions == 1:
        return torch.cat([halves[0], ends[0]])
    merge = merges[encoder.merge]
    return torch.cat([merge(*halves), merge(*ends)])


@EVERY_ENCODER
@given(rows=ragged_rows())
def test_it_equals_the_loop(name: str, rows: list[Tensor]) -> None:
    """Hidden vectors, final states and all gradients."""
    encoder = make(name)
    check_against_oracle(adapt_encoder(encoder), lambda row: run_loop(encoder, row), rows, list(encoder.parameters()))


@EVERY_ENCODER
@pytest.mark.parametrize("law", ENCODER_LAWS)
def test_it_obeys_the_laws(law: Law[MinGRU | MinLSTM | LRU], name: str) -> None:
    """Every law of encoders, among them those of graphs, precision and torch's transforms."""
    law(ENCODERS[name])


@pytest.mark.parametrize("name", ["min_gru", "min_lstm", "lru"])
def test_the_carry_continues_a_row(name: str) -> None:
    """One step after another, each from the carry of the one before, equals the whole rows."""
    encoder = make(name)
    whole = torch.randn(2, 5, 3, dtype=torch.float64)
    carry = None
    steps: list[Tensor] = []
    for time in range(5):
        states = encoder(Padded(Vectors, whole[:, time : time + 1], torch.tensor([1, 1]), initial_carry=carry))
        carry = states.carry
        steps.append(states.padded().values)
    wanted = encoder(Padded(Vectors, whole, torch.tensor([5, 5])))
    torch.testing.assert_close(torch.cat(steps, dim=1), wanted.padded().values)
    assert carry is not None
    assert wanted.carry is not None
    torch.testing.assert_close(carry, wanted.carry)


@EVERY_ENCODER
def test_a_graph_starts_from_initial_states(name: str) -> None:
    """A compiled encoder equals the eager one, with an initial state per row, an empty row among them."""
    encoder = make(name)
    batch = make_batch([torch.randn(time, 3, dtype=torch.float64) for time in (3, 0, 5)], extra=1)
    carry = encoder(batch).carry
    assert carry is not None
    batch = attrs.evolve(batch, initial_carry=tuple(torch.randn_like(state) for state in carry))

    def run(values: Tensor, *initial: Tensor) -> tuple[Tensor, ...]:
        states = encoder(Padded(Vectors, values, batch.lengths, initial_carry=initial))
        assert states.carry is not None
        return (states.padded().values, states.final, *states.carry)

    compiled: Callable[..., tuple[Tensor, ...]] = getattr(torch, "compile")(run, fullgraph=True, backend="eager")  # noqa: B009
    assert batch.initial_carry is not None
    try:
        (steps, *others), (wanted_steps, *wanted) = (
            each(batch.values, *batch.initial_carry) for each in (compiled, run)
        )
    finally:
        torch.compiler.reset()
    torch.testing.assert_close(steps[batch.mask], wanted_steps[batch.mask])
    torch.testing.assert_close(others, wanted)


@pytest.mark.parametrize("name", ["min_gru", "min_lstm", "lru"])
def test_a_pipe_with_it_is_trained_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """It is made by its name, and its predictions after loading have the same bits."""
    seed(0)
    encode = Encode(name, hidden_size=6, num_layers=2, layer_norm=True)
    pipe = FromIds() >> Bucket(max_padded_steps=30) >> Pad() >> Embed(9, 4) >> encode >> Pool("max") >> Classify(2)
    rows = [[1, 2, 3], [], [4, 5], [6, 7, 8, 1]]
    pipe.fit([Example(row, target=at % 2) for at, row in enumerate(rows)], epochs=1, progress=False)
    pipe.save(tmp_path / "pipe")
    again = load(tmp_path / "pipe")
    assert str(list(again.predict(rows, scores=True))) == str(list(pipe.predict(rows, scores=True)))


@pytest.mark.parametrize("name", ["min_gru", "min_lstm", "lru"])
def test_windows_carry_its_states(name: str) -> None:
    """The loss of windows with carried states is that of whole rows; `step` generates from them."""
    seed(0)
    model = Pack() >> Embed(9, 4) >> Encode(name, causal=True, hidden_size=6) >> NextToken(9)
    rows = [[at % 7 for at in range(23)], [at % 5 for at in range(17)]]
    windows = FromIds() >> Shift() >> BPTTWindows(rows=2, steps=5) >> Pad() >> model
    whole = FromIds() >> Shift() >> Bucket(max_padded_steps=200) >> Pad() >> model
    assert windows.evaluate(rows).loss == pytest.approx(whole.evaluate(rows).loss, rel=1e-5)
    assert len(list(whole.generate(rows, max_new_tokens=3, seed=0))) == 2


def test_results_do_not_depend_on_batchmates_in_deterministic_pipes() -> None:
    """No bit of a prediction changes with the batch."""
    seed(0)
    model = Embed(9, 4) >> Encode(MinGRU(4, 5)) >> Pool("max") >> Classify(3)
    pipe = FromIds() >> Bucket(max_padded_steps=999) >> Pad() >> model
    rows = [[at % 9 for at in range(150)], [1, 2], [3] * 90]
    fixed = pipe.for_inference(deterministic=True)
    together = [scored.scores for scored in fixed.predict(rows, scores=True)]
    alone = [next(iter(fixed.predict([row], scores=True))).scores for row in rows]
    assert str(together) == str(alone)


@pytest.mark.parametrize("name", ["gru", "lstm", "positive", "glu", "mlp"])
def test_states_have_the_same_bits_in_every_batch_of_deterministic_pipes(name: str) -> None:
    """With every nonlinearity, in two layers and both directions, for rows of many lengths."""
    seed(0)
    encoders: dict[str, MinGRU[MaybeCausal] | MinLSTM[MaybeCausal] | LRU[MaybeCausal]] = {
        "gru": MinGRU(5, 7, num_layers=2, bidirectional=True),
        "lstm": MinLSTM(5, 7, num_layers=2, bidirectional=True),
        "positive": MinLSTM(5, 7, num_layers=2, candidate="positive"),
        "glu": LRU(5, 7, num_layers=2, bidirectional=True),
        "mlp": LRU(5, 7, num_layers=2, mix="mlp"),
    }
    pipe = (
        FromIds() >> Bucket(rows=40) >> Pad() >> Embed(9, 5) >> Encode(encoders[name]) >> Pool("final") >> Classify(3)
    )
    fixed = pipe.for_inference(deterministic=True)
    rows = [[(3 * at + number) % 9 for at in range(number)] for number in range(40)]
    together, alone = list(fixed.vectors(rows)), [next(iter(fixed.vectors([row]))) for row in rows]
    assert torch.equal(torch.stack(together), torch.stack(alone))
    torch.testing.assert_close(torch.stack(together), torch.stack(list(pipe.vectors(rows))))


def test_a_linear_recurrence_remembers_for_long() -> None:
    """The factors lie on the ring that was asked for, also after training that changed them without limits."""
    seed(0)
    encoder = LRU(2, 3, state_size=400, min_radius=0.9, max_radius=0.99, max_phase=0.3)
    layer = encoder.layers[0]
    factors = torch.exp(-read_part(layer, "nu").exp() + 1j * read_part(layer, "theta").exp())
    assert 0.9 <= float(factors.abs().min().detach()) < float(factors.abs().max().detach()) <= 0.99
    assert 0 <= float(factors.angle().min().detach()) < float(factors.angle().max().detach()) <= 0.3
    with torch.no_grad():
        read_part(layer, "nu").fill_(-30)
    long = encoder(Packed(Vectors, torch.ones(3000, 2), torch.tensor([3000])))
    assert bool(long.final.isfinite().all())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("min_gru", {"hidden_size": 0}, "hidden_size must be an integer of at least 1, got 0"),
        ("min_gru", {"candidate": "tanh"}, "candidate must be linear or positive, got 'tanh'"),
        ("min_lstm", {"dropout": 0.5}, "acts between layers, but num_layers is 1"),
        ("min_lstm", {"residual": True}, "residual=True acts between layers"),
        ("min_gru", {"dropout": 1.0, "num_layers": 2}, "dropout must be a probability"),
        ("min_lstm", {"merge": "mean"}, "merge='mean' joins two directions"),
        ("lru", {"merge": "most"}, "merge must be concat, mean, sum, max or mul"),
        ("lru", {"mix": "max"}, "mix must be none, glu or mlp, got 'max'"),
        ("lru", {"state_size": 0}, "state_size must be an integer of at least 1, got 0"),
        ("lru", {"min_radius": 1.0}, "radii must be 0 <= min_radius < max_radius <= 1"),
        ("lru", {"max_phase": 7.0}, "max_phase must be an angle"),
    ],
)
def test_bad_options_are_rejected(name: str, options: dict[str, object], message: str) -> None:
    """The message has the rule, the value and the fix."""
    with pytest.raises(OptionError, match=message):
        registry().encoders.make(name, **{"input_size": 3, "hidden_size": 4, **options})


def test_wrong_values_and_states_are_rejected() -> None:
    """Another number of features or another dtype, and a carry of another shape."""
    encoder = MinGRU(3, 4)
    with pytest.raises(ShapeError, match="values have 2 features per step, but the encoder reads 3"):
        encoder(Packed(Vectors, torch.zeros(1, 2), torch.tensor([1])))
    with pytest.raises(ShapeError, match=r"values are torch.float64 on cpu, but the encoder is torch.float32"):
        encoder(Packed(Vectors, torch.zeros(1, 3).double(), torch.tensor([1])))
    batch = Packed(Vectors, torch.zeros(1, 3), torch.tensor([1]), initial_carry=(torch.zeros(1, 1, 5),))
    with pytest.raises(ShapeError, match=r"initial_carry must be 1 tensor\(s\) of \(1, 1, 4\)"):
        encoder(batch)
