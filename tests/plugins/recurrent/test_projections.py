"""`proj_size` projects the h of an LSTM, as in torch's module."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from pipeline import Bucket, Classify, Embed, Encode, Example, FromIds, MaybeCausal, Pad, Padded, Pool, Vectors, load
from pipeline.errors import OptionError, ShapeError
from pipeline.registry import registry
from pipeline.testing import adapt_encoder, check_against_oracle, check_encoder
from pipeline_recurrent import LSTM
from support.oracles import merge_directions as merge_loop
from support.strategies import ragged_rows
from support.untyped import seed


def make(*, layers: int = 2, both: bool = True) -> LSTM[MaybeCausal]:
    """Return a small encoder in float64, the same at every call."""
    seed(4)
    return LSTM(3, 5, num_layers=layers, bidirectional=both, merge="sum" if both else "concat", proj_size=2).double()


def run_direction(rnn: nn.LSTM, row: Tensor, suffix: str) -> tuple[Tensor, Tensor]:
    """Return the hidden vectors of one direction of one layer over one row, and the last one."""
    w_in, w_state, b_in, b_state, project = (
        rnn.get_parameter(f"{name}_{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    )
    h, c = row.new_zeros(2), row.new_zeros(5)
    steps: list[Tensor] = []
    backward = suffix.endswith("reverse")
    for x in reversed(list(row)) if backward else list(row):
        i, f, g, o = (w_in @ x + b_in + w_state @ h + b_state).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = project @ (o.sigmoid() * c.tanh())
        steps.append(h)
    return torch.stack(steps[::-1] if backward else steps) if steps else row.new_zeros(0, 2), h


def run_loop(encoder: LSTM[MaybeCausal], row: Tensor) -> Tensor:
    """Return one row's hidden vectors and, below them, its final state."""
    rnn = encoder.rnn
    assert isinstance(rnn, nn.LSTM)
    x, halves, ends = row, list[Tensor](), list[Tensor]()
    for layer in range(encoder.num_layers):
        suffixes = [f"l{layer}", f"l{layer}_reverse"][: encoder.directions]
        found = [run_direction(rnn, x, suffix) for suffix in suffixes]
        halves, ends = [steps for steps, _ in found], [end for _, end in found]
        x = torch.cat(halves, 1)
    return torch.cat([merge_loop(halves, encoder.merge), merge_loop(ends, encoder.merge).unsqueeze(0)])


@pytest.mark.parametrize("both", [False, True])
@given(rows=ragged_rows())
def test_it_equals_the_loop(both: bool, rows: list[Tensor]) -> None:
    """Values and gradients, those of the projections too."""
    encoder = make(both=both)
    assert encoder.output_size == 2
    check_against_oracle(adapt_encoder(encoder), lambda row: run_loop(encoder, row), rows, list(encoder.parameters()))


def test_it_obeys_the_laws() -> None:
    """With options between layers too."""
    check_encoder(lambda: LSTM(3, 5, proj_size=2))
    check_encoder(lambda: LSTM(3, 5, num_layers=2, bidirectional=True, highway=True, layer_norm=True, proj_size=2))


def test_torch_modules_with_projections_go_there_and_back() -> None:
    """The encoder equals the module; the carry is of two sizes, as there."""
    module = nn.LSTM(3, 5, num_layers=2, proj_size=2, batch_first=True).eval()
    encoder = LSTM.from_torch(module)
    values = torch.randn(2, 4, 3)
    # Packed: on rows of one length torch warns that oneDNN has no projections.
    packed = pack_padded_sequence(values, torch.tensor([4, 4]), batch_first=True)
    output, (h, c) = module(packed)
    states = encoder(Padded(Vectors, values, torch.tensor([4, 4])))
    torch.testing.assert_close(states.packed().values, output.data)
    torch.testing.assert_close(states.carry, (h, c))
    again = encoder.to_torch()
    assert str(again.state_dict()) == str(module.state_dict())
    assert again.proj_size == 2


def test_only_torchs_kernels_have_projections() -> None:
    """Another engine by name is an error."""
    batch = Padded(Vectors, torch.zeros(1, 2, 3), torch.tensor([2]))
    assert LSTM(3, 5, proj_size=2)(batch).engine == "packed"
    with pytest.raises(OptionError, match="engine='plain' cannot run this batch, because it has no projections"):
        LSTM(3, 5, proj_size=2, engine="plain")(batch)


def test_a_pipe_with_projections_is_saved_and_loaded(tmp_path: Path) -> None:
    """Predictions after loading have the same bits; a pipe for inference gives equal ones."""
    seed(0)
    encode = Encode(LSTM(4, 6, proj_size=3))
    pipe = FromIds() >> Bucket(max_padded_steps=30) >> Pad() >> Embed(9, 4) >> encode >> Pool("max") >> Classify(2)
    rows = [[1, 2, 3], [], [4, 5], [6, 7, 8, 1]]
    pipe.fit([Example(row, target=at % 2) for at, row in enumerate(rows)], epochs=1, progress=False)
    pipe.save(tmp_path / "pipe")
    again = load(tmp_path / "pipe")
    assert str(list(again.predict(rows, scores=True))) == str(list(pipe.predict(rows, scores=True)))
    assert list(pipe.for_inference().predict(rows)) == list(pipe.predict(rows))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lstm", {"proj_size": 4}, "proj_size must be below hidden_size=4, or 0 for no projection, got 4"),
        ("lstm", {"proj_size": -1}, "proj_size must be an integer of at least 0, got -1"),
        ("gru", {"proj_size": 2}, "proj_size=2 projects the h of an LSTM"),
        ("lstm", {"proj_size": 2, "zoneout": 0.1}, "leave out zoneout or proj_size"),
    ],
)
def test_bad_options_are_rejected(name: str, options: dict[str, object], message: str) -> None:
    """The message has the rule, the value and the fix."""
    with pytest.raises(OptionError, match=message):
        registry().encoders.make(name, **{"input_size": 3, "hidden_size": 4, **options})


def test_initial_states_of_one_size_are_rejected() -> None:
    """H is smaller than c."""
    batch = Padded(Vectors, torch.zeros(1, 2, 3), torch.tensor([2]), initial_carry=(torch.zeros(1, 1, 5),) * 2)
    with pytest.raises(ShapeError, match=r"must be 2 tensor\(s\) of \(1, 1, 2\) and \(1, 1, 5\)"):
        LSTM(3, 5, proj_size=2)(batch)
