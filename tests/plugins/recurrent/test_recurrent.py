"""LSTM and GRU over packed rows equal a plain loop over each row, for any mix of lengths."""

import inspect
from typing import Literal

import attrs
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from pipeline import Encoder, MaybeCausal, Packed, Padded, Vectors
from pipeline.errors import OptionError, ShapeError
from pipeline.registry import registry
from pipeline.testing import adapt_encoder, check_against_oracle, make_batch
from pipeline_recurrent import GRU, LSTM, RNN, Merge, bigru, bilstm
from pipeline_recurrent.recurrent import Options, Recurrent
from support.oracles import merge_directions as merge_loop
from support.oracles import run_recurrent
from support.strategies import ragged_rows
from support.untyped import seed

MERGES: tuple[Merge, ...] = ("concat", "mean", "sum", "max", "mul")
Name = Literal["lstm", "gru"]


def make_encoder(
    name: Name, *, layers: int = 1, both: bool = False, merge: Merge = "concat"
) -> LSTM[MaybeCausal] | GRU[MaybeCausal]:
    """Return a small encoder in float64, the same at every call."""
    seed(7)
    kind = LSTM if name == "lstm" else GRU
    encoder = kind(3, 4, num_layers=layers, bidirectional=both, merge=merge)
    return encoder.double()


def run_loop(encoder: Recurrent[MaybeCausal], row: Tensor) -> Tensor:
    """Return one row's hidden vectors and, below them, its final state."""
    steps, carried = run_recurrent(encoder.rnn, row)
    last = carried[0].reshape(encoder.num_layers, -1, encoder.hidden_size)[-1]
    return torch.cat([merge_loop(steps, encoder.merge), merge_loop(list(last), encoder.merge).unsqueeze(0)])


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("name", ["lstm", "gru"])
@given(rows=ragged_rows())
def test_both_directions_equal_the_loop(name: Name, merge: Merge, rows: list[Tensor]) -> None:
    """Hidden vectors, final states and all gradients, for every way to merge the directions."""
    encoder = make_encoder(name, both=True, merge=merge)
    check_against_oracle(adapt_encoder(encoder), lambda row: run_loop(encoder, row), rows, list(encoder.parameters()))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru"])
@given(rows=ragged_rows())
def test_stacks_equal_the_loop(name: Name, both: bool, rows: list[Tensor]) -> None:
    """With several layers. Between layers the directions are concatenated, for every `merge`."""
    encoder = make_encoder(name, layers=3, both=both, merge="mean" if both else "concat")
    check_against_oracle(adapt_encoder(encoder), lambda row: run_loop(encoder, row), rows, list(encoder.parameters()))


@pytest.mark.parametrize("name", ["lstm", "gru"])
@given(rows=ragged_rows())
def test_initial_states_are_each_rows_own(name: Name, rows: list[Tensor]) -> None:
    """Every row starts from its own initial state and ends in its own; for an empty row they are equal."""
    encoder = make_encoder(name, layers=2, both=True)
    count = 2 if name == "lstm" else 1
    initial = tuple(torch.randn(4, len(rows), 4, dtype=torch.float64) for _ in range(count))
    batch = attrs.evolve(make_batch(rows, extra=1), initial_carry=initial)
    states = encoder(batch.packed())
    assert states.carry is not None
    for index, row in enumerate(rows):
        steps, carried = run_recurrent(encoder.rnn, row, [state[:, index] for state in initial])
        torch.testing.assert_close(states.padded().values[index, : len(row)], torch.cat(steps, dim=1))
        for ours, plain in zip(states.carry, carried, strict=True):
            torch.testing.assert_close(ours[:, index], plain)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_carry_continues_a_row(name: Name) -> None:
    """Two parts of rows, the second one started from the carry of the first, equal the whole rows."""
    encoder = make_encoder(name)
    whole = torch.randn(2, 6, 3, dtype=torch.float64)
    lengths = torch.tensor([6, 6])
    first = encoder(Padded(Vectors, whole[:, :2], torch.tensor([2, 2])).packed())
    second = Padded(Vectors, whole[:, 2:], torch.tensor([4, 4]), initial_carry=first.carry)
    parts = torch.cat([first.padded().values, encoder(second.packed()).padded().values], dim=1)
    torch.testing.assert_close(parts, encoder(Padded(Vectors, whole, lengths).packed()).padded().values)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_all_rows_may_be_empty(name: Name) -> None:
    """A batch of empty rows has no steps, and its final states are zeros."""
    states = make_encoder(name, both=True)(
        Padded(Vectors, torch.zeros(3, 2, 3).double(), torch.tensor([0, 0, 0])).packed()
    )
    assert states.packed().values.shape == (0, 8)
    assert states.final.shape == (3, 8)
    assert not states.final.any()
    assert states.padded().values.shape == (3, 2, 8)


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True, dropout=0.5),
        nn.LSTM(3, 4, bias=False),
        nn.GRU(3, 4, num_layers=2, bidirectional=True),
        nn.GRU(3, 4).double(),
    ],
)
def test_weights_come_from_a_torch_module(module: nn.LSTM | nn.GRU) -> None:
    """An encoder from a torch module equals the module, and has its own copy of the weights."""
    module.eval()
    encoder = LSTM.from_torch(module) if isinstance(module, nn.LSTM) else GRU.from_torch(module)
    rows = torch.randn(1, 5, 3, dtype=next(module.parameters()).dtype)
    wanted = module(rows if module.batch_first else rows.transpose(0, 1))[0].reshape(5, -1)
    found = encoder.eval()(Packed(Vectors, rows[0], torch.tensor([5]))).packed().values
    torch.testing.assert_close(found, wanted)
    ours, theirs = encoder.rnn.state_dict(), module.state_dict()
    theirs["weight_hh_l0"].zero_()
    assert ours["weight_hh_l0"].any()
    assert ours.keys() == theirs.keys()


def test_weights_of_another_module_are_rejected() -> None:
    """Neither another kind of module nor one with other projections is accepted."""
    lstm: Recurrent[MaybeCausal] = LSTM(3, 4)
    with pytest.raises(OptionError, match=r"module must be an nn.LSTM without projections, got GRU\(3, 4\)"):
        lstm.load_torch(nn.GRU(3, 4))
    with pytest.raises(OptionError, match="without projections"):
        lstm.load_torch(nn.LSTM(3, 4, proj_size=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be an integer of at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be an integer of at least 1, got 0"),
        ({"dropout": 1.0, "num_layers": 2}, "dropout must be a probability, 0 <= dropout < 1, got 1.0"),
        ({"dropout": 0.5}, "dropout=0.5 acts between layers, but num_layers is 1; use the Dropout stage around Encode"),
        ({"merge": "average"}, "merge must be concat, mean, sum, max or mul, got 'average'"),
        ({"merge": "mean"}, "merge='mean' joins two directions, but bidirectional is False; leave merge out"),
    ],
)
def test_bad_options_are_rejected(options: dict[str, object], message: str) -> None:
    """The message has the rule, the value and the fix."""
    with pytest.raises(OptionError, match=message):
        registry().encoders.make("lstm", **{"input_size": 3, "hidden_size": 4, **options})


def test_values_of_another_dtype_are_rejected() -> None:
    """A float64 batch is not silently multiplied by float32 weights."""
    batch = Packed(Vectors, torch.ones(2, 3, dtype=torch.float64), torch.tensor([2]))
    with pytest.raises(ShapeError, match=r"values are torch.float64 on cpu, but LSTM is torch.float32 on cpu"):
        LSTM(3, 4)(batch)


def test_initial_states_that_do_not_fit_are_rejected() -> None:
    """Those of another encoder, or of other rows."""
    rows = torch.ones(2, 3)
    batch = Packed(Vectors, rows, torch.tensor([2]), initial_carry=(torch.zeros(1, 1, 5),))
    with pytest.raises(ShapeError, match=r"initial_carry must be 1 tensor\(s\) of \(1, 1, 4\).*got \(1, 1, 5\)"):
        GRU(3, 4)(batch)
    with pytest.raises(ShapeError, match=r"initial_carry\[0\] must be layers x batch x size with a batch of 1"):
        Packed(Vectors, rows, torch.tensor([2]), initial_carry=(torch.zeros(1, 2, 4),))


def test_dropout_acts_between_layers_only_in_training() -> None:
    """Two runs differ in training, and are equal in evaluation."""
    encoder: Encoder[MaybeCausal] = LSTM(3, 4, num_layers=2, dropout=0.5)
    batch = Packed(Vectors, torch.ones(9, 3), torch.tensor([9]))
    assert not torch.equal(encoder(batch).packed().values, encoder(batch).packed().values)
    encoder.eval()
    assert torch.equal(encoder(batch).packed().values, encoder(batch).packed().values)


def test_signatures_show_the_shared_options() -> None:
    """With their defaults, which the registry reads there; type checkers read the same names from `Options`."""
    base = inspect.signature(Recurrent.__init__).parameters
    shared = {name: base[name].default for name in Options.__annotations__}
    assert {*shared, "bidirectional"} == {name for name in base if base[name].kind is inspect.Parameter.KEYWORD_ONLY}
    own: dict[str, object] = {"input_size": inspect.Parameter.empty, "hidden_size": inspect.Parameter.empty}
    for factory, options in (
        (LSTM, {"bidirectional": False}),
        (GRU, {"bidirectional": False}),
        (RNN, {"nonlinearity": "tanh", "bidirectional": False}),
        (bilstm, {}),
        (bigru, {}),
    ):
        shown = {name: option.default for name, option in inspect.signature(factory).parameters.items()}
        assert shown == {**own, **options, **shared}
