"""Weight dropout, zoneout, dropout per row and highways equal a loop over the steps of each row, with every engine."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from pipeline import (
    Bucket,
    Causal,
    Classify,
    Embed,
    Encode,
    Example,
    FromIds,
    MaybeCausal,
    Pad,
    Padded,
    Pool,
    Vectors,
    load,
)
from pipeline.errors import OptionError
from pipeline.registry import registry
from pipeline.testing import adapt_encoder, check_against_oracle, check_encoder
from pipeline_recurrent import GRU, LSTM, RNN, EngineName
from pipeline_recurrent.native import available
from pipeline_recurrent.recurrent import Recurrent
from support.needs import mark_slow
from support.oracles import get_weights, gru_step, lstm_step, rnn_step, run_direction
from support.strategies import ragged_rows
from support.untyped import count_distinct_rows, seed, to_list

Kind = type[LSTM[MaybeCausal]] | type[GRU[MaybeCausal]] | type[RNN[MaybeCausal]]
EVERY_KIND = pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
ENGINES: tuple[EngineName, ...] = ("packed", "dense", "plain", *(() if available() else ("native",)))
EVERY_ENGINE = pytest.mark.parametrize("engine", ENGINES)
LENGTHS = torch.tensor([5, 3, 0, 1])


def draw(dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw values of rows of `LENGTHS`."""
    return torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)


def take_step(rnn: nn.LSTM | nn.GRU | nn.RNN, x: Tensor, state: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Return the next state."""
    if isinstance(rnn, nn.LSTM):
        return list(lstm_step(x, state[0], state[1], weights))
    return [gru_step(x, state[0], weights) if isinstance(rnn, nn.GRU) else rnn_step(x, state[0], weights, "tanh")]


def run_zoneout(encoder: Recurrent[MaybeCausal], row: Tensor) -> Tensor:
    """Return one row's hidden vectors in evaluation with zoneout, and below them its final state."""
    rnn, shares = encoder.rnn, (encoder.zoneout, encoder.zoneout_cell)
    halves: list[Tensor] = []
    ends: list[Tensor] = []
    for backward in (False, True):
        weights = get_weights(rnn, 0, backward=backward)
        state = [row.new_zeros(4)] * (2 if isinstance(rnn, nn.LSTM) else 1)
        steps: list[Tensor] = []
        for x in reversed(list(row)) if backward else list(row):
            new = take_step(rnn, x, state, weights)
            state = [share * old + (1 - share) * now for share, old, now in zip(shares, state, new, strict=False)]
            steps.append(state[0])
        halves.append(torch.stack(steps[::-1] if backward else steps) if steps else row.new_zeros(0, 4))
        ends.append(state[0])
    return torch.cat([torch.cat(halves, 1), torch.cat(ends).unsqueeze(0)])


@EVERY_KIND
@given(rows=ragged_rows())
def test_zoneout_is_a_mean_in_evaluation(kind: Kind, rows: list[Tensor]) -> None:
    """Values and gradients equal the loop."""
    seed(3)
    cell = 0.4 if kind is LSTM else 0.0
    encoder = kind(3, 4, bidirectional=True, zoneout=0.3, zoneout_cell=cell).double().eval()
    check_against_oracle(
        adapt_encoder(encoder), lambda row: run_zoneout(encoder, row), rows, list(encoder.parameters())
    )


@EVERY_KIND
def test_zoneout_keeps_some_numbers_in_training(kind: Kind) -> None:
    """Each number of h is the one before or a new one, and it keeps about as many as it should."""
    seed(3)
    encoder = kind(3, 50, zoneout=0.3).train()
    steps = encoder(Padded(Vectors, torch.randn(4, 30, 3), torch.full((4,), 30))).padded().values
    kept = (steps[:, 1:] == steps[:, :-1]).float().mean()
    assert float(kept) == pytest.approx(0.3, abs=0.03)
    assert encoder.engines == {"plain": 1}


def test_zoneout_needs_an_engine_that_has_it() -> None:
    """Another engine by name is an error, also one that a plugin offers."""
    encoder = LSTM(3, 4, zoneout=0.1, engine="dense")
    with pytest.raises(OptionError, match="engine='dense' cannot run this batch, because it has no zoneout"):
        encoder(Padded(Vectors, draw(), LENGTHS))
    assert not encoder.exportable


@EVERY_ENGINE
@EVERY_KIND
def test_weight_dropout_is_one_mask_for_all_steps(kind: Kind, engine: EngineName) -> None:
    """In training the encoder equals one whose recurrent weights were dropped before; gradients reach kept ones only."""
    seed(3)
    encoder = kind(3, 4, weight_dropout=0.5, engine=engine).train()
    batch = Padded(Vectors, draw(), LENGTHS)
    seed(8)
    steps = encoder(batch).packed().values
    torch.autograd.backward([steps.square().sum()])
    weight = encoder.rnn.get_parameter("weight_hh_l0")
    seed(8)
    dropped = torch.dropout(weight.detach(), 0.5, train=True)
    assert 0 < int((dropped == 0).sum()) < dropped.numel()
    other = kind(3, 4, engine=engine)
    other.load_state_dict({**encoder.state_dict(), "rnn.weight_hh_l0": dropped})
    torch.testing.assert_close(steps, other(batch).packed().values)
    assert weight.grad is not None
    assert not bool(weight.grad[dropped == 0].any())
    plain = kind(3, 4)
    plain.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder.eval()(batch).packed().values, plain(batch).packed().values)


@EVERY_ENGINE
def test_dropout_per_row_is_one_mask_for_all_steps_of_a_row(engine: EngineName) -> None:
    """A feature that is dropped at one step is dropped at all, in some rows only."""
    seed(3)
    encoder = RNN(3, 8, num_layers=2, dropout=0.5, dropout_per="row", nonlinearity="relu", engine=engine).train()
    with torch.no_grad():
        # The first layer returns ones, and the second one what it reads.
        for name, weight in encoder.rnn.named_parameters():
            weight.zero_()
            if name == "weight_ih_l1":
                weight.copy_(torch.eye(8))
            elif name == "bias_ih_l0":
                weight.fill_(1)
    steps = encoder(Padded(Vectors, torch.randn(6, 5, 3), torch.tensor([5, 3, 1, 5, 5, 2])))
    rows = [steps.padded().values[row, :length] for row, length in enumerate([5, 3, 1, 5, 5, 2])]
    assert [count_distinct_rows(row) for row in rows] == [1] * 6
    assert count_distinct_rows(torch.stack([row[0] for row in rows])) > 1
    assert set(to_list(steps.packed().values.flatten())) == {0.0, 2.0}


def run_highway(encoder: Recurrent[MaybeCausal], row: Tensor) -> Tensor:
    """Return one row's hidden vectors with highways between its layers, and below them its final state."""
    rnn, zeros = encoder.rnn, [row.new_zeros(4)] * (2 if isinstance(encoder.rnn, nn.LSTM) else 1)
    x = row
    for layer in range(encoder.num_layers):
        halves = [run_direction(rnn, x, layer, backward=back, initial=zeros)[0] for back in (False, True)]
        output = torch.cat(halves, 1)
        if layer:
            assert encoder.highways is not None
            weight, bias = (encoder.highways[layer - 1].get_parameter(name) for name in ("weight", "bias"))
            gate = torch.sigmoid(x @ weight.t() + bias)
            output = gate * output + (1 - gate) * x
        x = output
    end = torch.cat([x[-1:, :4], x[:1, 4:]], 1) if len(x) else x.new_zeros(1, 8)
    return torch.cat([x, end])


@EVERY_ENGINE
@EVERY_KIND
@given(rows=ragged_rows())
def test_highways_equal_the_loop(kind: Kind, engine: EngineName, rows: list[Tensor]) -> None:
    """Values and gradients, those of the gates too. The native engine computes in float32."""
    seed(3)
    encoder = kind(3, 4, num_layers=3, bidirectional=True, highway=True, engine=engine)
    if engine != "native":
        encoder.double()
        parameters = list(encoder.parameters())
        check_against_oracle(adapt_encoder(encoder), lambda row: run_highway(encoder, row), rows, parameters)
        return
    for row in rows:
        states = encoder(Padded(Vectors, row.float().unsqueeze(0), torch.tensor([len(row)])))
        found = torch.cat([states.packed().values, states.final])
        torch.testing.assert_close(found, run_highway(encoder, row.float()), atol=1e-5, rtol=1e-4)


LAWFUL: dict[str, Callable[[], LSTM[Causal] | GRU[MaybeCausal]]] = {
    "zoneout": lambda: LSTM(3, 4, zoneout=0.2, zoneout_cell=0.3),
    "others": lambda: GRU(
        3, 4, num_layers=2, bidirectional=True, highway=True, dropout=0.2, dropout_per="row", weight_dropout=0.3
    ),
}


@pytest.mark.parametrize("name", mark_slow(LAWFUL, quick={"zoneout"}))
def test_laws_hold_with_these_options(name: str) -> None:
    """Those of graphs too, where there are graphs."""
    check_encoder(LAWFUL[name])


@pytest.mark.parametrize(
    "options",
    [{"zoneout": 0.2, "zoneout_cell": 0.1}, {"num_layers": 2, "highway": True}, {"weight_dropout": 0.4}],
    ids=["zoneout", "highway", "weight dropout"],
)
def test_a_pipe_with_these_options_is_trained_saved_and_loaded(options: dict[str, object], tmp_path: Path) -> None:
    """Predictions after loading have the same bits, and those for inference are equal."""
    seed(0)
    encode = Encode(registry().encoders.make("lstm", **{"input_size": 4, "hidden_size": 6, **options}))
    pipe = FromIds() >> Bucket(max_padded_steps=30) >> Pad() >> Embed(9, 4) >> encode >> Pool("max") >> Classify(2)
    rows = [[1, 2, 3], [], [4, 5], [6, 7, 8, 1]]
    pipe.fit([Example(row, target=at % 2) for at, row in enumerate(rows)], epochs=1, progress=False)
    pipe.save(tmp_path / "pipe")
    again = load(tmp_path / "pipe")
    assert str(list(again.predict(rows, scores=True))) == str(list(pipe.predict(rows, scores=True)))
    assert list(pipe.for_inference().predict(rows)) == list(pipe.predict(rows))


def test_a_graph_has_highways_and_drops_in_training() -> None:
    """A compiled encoder in training draws one mask per row, and its weights are dropped."""
    seed(0)
    encoder = GRU(3, 4, num_layers=2, highway=True, weight_dropout=0.5, dropout=0.5, dropout_per="row").train()

    def run(values: Tensor) -> Tensor:
        return encoder(Padded(Vectors, values, LENGTHS)).padded().values

    compiled: Callable[[Tensor], Tensor] = getattr(torch, "compile")(run, fullgraph=True, backend="eager")  # noqa: B009
    try:
        assert not torch.equal(compiled(draw()), compiled(draw()))
        encoder.eval()
        mask = torch.arange(5) < LENGTHS.unsqueeze(1)
        torch.testing.assert_close(compiled(draw())[mask], run(draw())[mask])
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lstm", {"zoneout": 1.0}, "zoneout must be a probability, 0 <= zoneout < 1, got 1.0"),
        ("gru", {"zoneout_cell": 0.1}, "zoneout_cell=0.1 keeps cells, which only an LSTM has; use zoneout"),
        ("lstm", {"weight_dropout": -0.1}, "weight_dropout must be a probability"),
        ("lstm", {"dropout_per": "batch"}, "dropout_per must be step or row, got 'batch'"),
        ("lstm", {"highway": True}, "highway=True acts between layers, but num_layers is 1"),
        ("lstm", {"highway": True, "residual": True, "num_layers": 2}, "choose one"),
    ],
)
def test_bad_options_are_rejected(name: str, options: dict[str, object], message: str) -> None:
    """The message has the rule, the value and the fix."""
    with pytest.raises(OptionError, match=message):
        registry().encoders.make(name, **{"input_size": 3, "hidden_size": 4, **options})


@pytest.mark.parametrize("options", [{"zoneout": 0.1}, {"weight_dropout": 0.1}, {"highway": True, "num_layers": 2}])
def test_they_cannot_become_a_torch_module(options: dict[str, object]) -> None:
    """Torch's modules lack them."""
    encoder = registry().encoders.make("lstm", **{"input_size": 3, "hidden_size": 4, **options})
    assert isinstance(encoder, LSTM)
    with pytest.raises(OptionError, match="cannot become torch's module"):
        encoder.to_torch()
