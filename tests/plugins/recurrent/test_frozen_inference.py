"""Encoders in pipes for inference: the kernels compute where they can, and the ordinary engines elsewhere."""

import copy
import os
import pickle
import warnings
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pipeline import Classify, Embed, Encode, Ids, Pack, Packed, Padded, Pool, Vectors, set_checks
from pipeline.errors import OptionError, ShapeError
from pipeline.extend import InferenceOptions, MaybeCausal, Precision, States
from pipeline_recurrent import GRU, LSTM, RNN, precompute
from pipeline_recurrent.native.library import available
from pipeline_recurrent.precompute import PrecomputeInputs
from pipeline_recurrent.recurrent import Recurrent
from support.untyped import as_any, seed, untyped

LENGTHS = torch.tensor([3, 0, 5, 1, 5])
ERRORS: dict[Precision, float] = {"float32": 2e-6, "bfloat16": 2e-2, "int8": 3e-2}
"""The largest difference from the ordinary engines, for states between -1 and 1."""


@pytest.fixture(autouse=True)
def compiled() -> None:
    """Skip, with the reason, where there is no library; fail in the nox session that compiles it."""
    if reason := available():
        (pytest.fail if os.environ.get("PIPELINE_TESTS_NATIVE") == "1" else pytest.skip)(reason)


def make_rows(initial: tuple[Tensor, ...] | None = None) -> Padded[Vectors]:
    """Return rows of vectors, one of them empty, with NaN in the padding."""
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(5, 6, 4, generator=generator)
    values[torch.arange(6) >= LENGTHS.unsqueeze(1)] = float("nan")
    return Padded(Vectors, values, LENGTHS, initial_carry=initial)


def prepare(
    encoder: Recurrent[MaybeCausal], precision: Precision = "float32", *, deterministic: bool = False
) -> Recurrent[MaybeCausal]:
    """Return a copy for inference."""
    made = copy.deepcopy(encoder) if encoder.explain_not_exportable() is None else encoder
    made.requires_grad_(requires_grad=False).eval()
    made.prepare_for_inference(InferenceOptions(precision, deterministic))
    return made


def list_tensors(states: States[MaybeCausal]) -> list[Tensor]:
    """Return all that an encoder returns."""
    return [states.packed().values, states.final, *(states.carry or ())]


def assert_near(one: States[MaybeCausal], other: States[MaybeCausal], error: float) -> None:
    """Compare all that an encoder returns."""
    for ours, theirs in zip(list_tensors(one), list_tensors(other), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=error)


def get_table_stage(pipe: nn.Module) -> PrecomputeInputs[MaybeCausal]:
    """Return the stage that looks up."""
    stages: list[PrecomputeInputs[MaybeCausal]] = [
        as_any(each) for each in pipe.modules() if type(each).__name__ == "PrecomputeInputs"
    ]
    return stages[0]


def test_all_options_give_the_results_of_the_ordinary_engines() -> None:
    """Layers, norms, residuals, merges, biases and initial states, in every precision, from both layouts."""
    seed(1)
    stacked: list[Recurrent[MaybeCausal]] = [
        LSTM(4, 7, num_layers=3, bidirectional=True, layer_norm=True, residual=True, dropout=0.4, merge="mean"),
        LSTM(4, 16, num_layers=2, residual=True, bias=False),
        GRU(4, 33, num_layers=2, bidirectional=True, layer_norm=True, merge="mul"),
        GRU(4, 5, bidirectional=True),
        RNN(4, 9, num_layers=2, bidirectional=True, residual=True, merge="max"),
        RNN(4, 70, nonlinearity="relu"),
    ]
    for encoder, (precision, error), begun in product(stacked, ERRORS.items(), (False, True)):
        encoder.eval()
        shape = (encoder.num_layers * encoder.directions, 5, encoder.hidden_size)
        rows = make_rows(tuple(torch.randn(2 if encoder.cell == "lstm" else 1, *shape)) if begun else None)
        made = prepare(encoder, precision)
        with torch.no_grad():
            expected, found = encoder(rows), made(rows)
        assert_near(found, expected, error)
        assert torch.equal(made(rows.packed()).final, found.final)
        assert found.engine == ("native" if precision == "float32" else f"native {precision}")


def test_int8_is_nearer_to_float32_than_torchs_quantization() -> None:
    """Its weights have a scale per output channel, and its inputs one per row and step; torch's have one each."""
    seed(7)
    encoder, rows = LSTM(100, 64, bidirectional=True).eval(), torch.randn(240, 100)
    batch = Packed(Vectors, rows, torch.full((12,), 20))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will replace this function
        theirs = as_any(torch).ao.quantization.quantize_dynamic(encoder, {nn.LSTM}, dtype=torch.qint8)(batch)
    with torch.no_grad():
        expected, ours = encoder(batch), prepare(encoder, "int8")(batch)
    errors = [(found.packed().values - expected.packed().values).abs().mean() for found in (ours, theirs)]
    assert float(errors[0]) < 0.6 * float(errors[1])


def test_the_carry_continues_a_row_with_the_same_bits() -> None:
    """A row in two halves equals the whole row."""
    seed(2)
    values = torch.randn(2, 6, 4)
    for precision in ("float32", "bfloat16", "int8"):
        made = prepare(GRU(4, 12, num_layers=2), precision)
        whole = made(Padded(Vectors, values, torch.tensor([6, 6])))
        first = made(Padded(Vectors, values[:, :4], torch.tensor([4, 4])))
        second = made(Padded(Vectors, values[:, 4:], torch.tensor([2, 2]), initial_carry=first.carry))
        halves = torch.cat([first.padded().values, second.padded().values], dim=1)
        assert torch.equal(halves, whole.padded().values)
        assert torch.equal(second.final, whole.final)


def test_no_rows_with_steps() -> None:
    """Final states are the initial ones."""
    nothing = prepare(LSTM(4, 3))(Packed(Vectors, torch.zeros(0, 4), torch.tensor([0, 0])))
    assert (nothing.engine, nothing.packed().values.shape) == (None, (0, 3))
    assert not nothing.final.any()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_changed_weights_are_arranged_again(precision: Precision) -> None:
    """After load_state_dict, an in-place change, a new parameter; in copies and pickles of an encoder too."""
    seed(3)
    one, other = (LSTM(4, 6, bidirectional=True, num_layers=2, layer_norm=True) for _ in range(2))
    assert other.norms is not None
    nn.init.normal_(next(other.norms.parameters()))
    made, expected = prepare(one, precision), prepare(other, precision)(make_rows())
    before = made(make_rows())
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert_near(copied(make_rows()), before, 0)
        copied.load_state_dict(other.state_dict())
        assert_near(copied(make_rows()), expected, 0)
    assert_near(made(make_rows()), before, 0)
    made.load_state_dict({**made.state_dict(), **{f"norms.{k}": v for k, v in other.norms.state_dict().items()}})
    for name, weight in other.rnn.named_parameters():
        made.rnn.register_parameter(name, nn.Parameter(weight.detach().clone(), requires_grad=False))
    assert_near(made(make_rows()), expected, 0)
    made.rnn.get_parameter("weight_hh_l0").mul_(0.5)
    assert not torch.equal(made(make_rows()).final, expected.final)
    with torch.inference_mode():
        assert_near(prepare(other, precision)(make_rows()), expected, 0)


def test_an_encoder_that_is_moved_to_another_dtype_is_left_to_the_engines() -> None:
    """And computed by the kernels again when it comes back."""
    made = prepare(LSTM(4, 6), "int8")
    before = made(make_rows())
    wide = made.double()(Packed(Vectors, make_rows().packed().values.double(), LENGTHS))
    assert (wide.final.dtype, wide.engine != "native int8") == (torch.float64, True)
    with pytest.raises(ShapeError, match="values are torch.float32"):
        made(make_rows())
    assert_near(made.float()(make_rows()), before, 0)


def test_an_encoder_that_the_kernels_cannot_compute_is_left_to_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason; and rejected where results must be deterministic."""
    seed(4)
    pruned, normed = LSTM(4, 3), LSTM(4, 3, num_layers=2, layer_norm=True)
    as_any(prune).l1_unstructured(pruned.rnn, "weight_hh_l0", 0.5)
    assert normed.norms is not None
    normed.norms[0] = nn.Identity()
    reasons: list[tuple[Recurrent[MaybeCausal], str]] = [
        (pruned, "its rnn has hooks"),
        (normed, "a norm between its layers is not an affine LayerNorm"),
        (LSTM(4, 3, engine="packed"), "engine='packed' was set"),
        (LSTM(4, 3).double(), "its weights are torch.float64, and the kernels read torch.float32"),
    ]
    for encoder, reason in reasons:
        rows = make_rows().packed()
        rows = Packed(Vectors, rows.values.to(next(encoder.parameters()).dtype), LENGTHS)
        made = prepare(encoder.eval(), "int8")
        assert made.inference is not None
        assert reason in str(made.inference.reason)
        assert_near(made(rows), encoder(rows), 1e-6)
        with pytest.raises(OptionError, match=f"deterministic=True needs the compiled .* because {reason}"):
            prepare(encoder, deterministic=True)
    monkeypatch.setenv("PIPELINE_NATIVE", "0")
    made = prepare(LSTM(4, 3), "int8")
    assert made.inference is not None
    assert made.inference.reason == "it is switched off by PIPELINE_NATIVE=0"
    assert "native" not in str(made(make_rows()).engine)


def test_a_batch_that_the_kernels_cannot_compute_is_left_to_the_engines() -> None:
    """Gradients of initial states, training mode, hooks that were added later."""
    seed(5)
    made, strict = prepare(LSTM(4, 3)), prepare(LSTM(4, 3), deterministic=True)
    rows = make_rows(tuple(torch.zeros(2, 1, 5, 3, requires_grad=True)))
    assert made(rows).final.requires_grad
    assert "native" in str(made(make_rows()).engine)
    with pytest.raises(OptionError, match="because gradients are needed"):
        strict(rows)
    calls = list[object]()
    for encoder in (made, strict):
        as_any(encoder.rnn).register_forward_hook(untyped(lambda *given: calls.append(given)))
    made(make_rows())
    assert calls
    with pytest.raises(OptionError, match="because its rnn has hooks"):
        strict(make_rows())
    with pytest.raises(OptionError, match="because the pipe is in training mode"):
        strict.train()(make_rows())


def test_wrong_batches_are_rejected_as_by_the_engines() -> None:
    """Another dtype, another number of features, wrong initial states."""
    made = prepare(LSTM(4, 3))
    with pytest.raises(ShapeError, match="values are torch.float64"):
        made(Packed(Vectors, torch.zeros(2, 4, dtype=torch.float64), torch.tensor([2])))
    with pytest.raises(ShapeError, match="values have 5 features per step, but the encoder reads 4"):
        made(Packed(Vectors, torch.zeros(2, 5), torch.tensor([2])))
    with pytest.raises(ShapeError, match="initial_carry must be 2"):
        made(make_rows((torch.zeros(1, 5, 3),)))


def test_embed_is_folded_into_a_table() -> None:
    """Equal to the pipe with Embed, from both layouts."""
    seed(6)
    ids = torch.randint(0, 7, (5, 6)).where(torch.arange(6) < LENGTHS.unsqueeze(1), 999)
    rows = Padded(Ids, ids, LENGTHS)
    for encoder in (LSTM(3, 21, bidirectional=True), GRU(3, 4, num_layers=2), RNN(3, 70, bidirectional=True)):
        pipe = Pack() >> Embed(7, 3) >> Encode(as_any(encoder)) >> Pool("max") >> Classify(2)
        pipe.eval()
        for precision, error in ERRORS.items():
            made = pipe.for_inference(precision=precision)
            assert repr(made).startswith("Pack >> PrecomputeInputs >> Pool >> Classify")
            torch.testing.assert_close(made(rows).values, pipe(rows).values, rtol=0, atol=error)
            assert "native" in str(get_table_stage(made)(rows.packed()).engine)


def test_ids_out_of_range_and_large_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such ids are rejected even if checks are off; a table above the limit is not made."""
    pipe = Embed(7, 3) >> Encode(RNN(3, 70, bidirectional=True)) >> Pool("max") >> Classify(2)
    wrong = Packed(Ids, torch.tensor([1, 7]), torch.tensor([2]))
    with set_checks(False), pytest.raises(IndexError, match="an id is out of range"):
        get_table_stage(pipe.for_inference(deterministic=True))(wrong)
    monkeypatch.setattr(precompute, "MAX_TABLE_BYTES", 7 * 70 * 2 * 4)
    assert "PrecomputeInputs" in repr(pipe.for_inference())
    monkeypatch.setattr(precompute, "MAX_TABLE_BYTES", 7 * 70 * 2 * 4 - 1)
    assert "Embed >> Encode" in repr(pipe.for_inference())


@pytest.mark.parametrize("precision", ERRORS)
def test_default_dtype_and_device_do_not_matter(precision: Precision) -> None:
    """The kernels write float32 on the CPU, whatever torch's defaults are."""
    seed(0)
    encoder, rows = prepare(LSTM(4, 20, bias=False, bidirectional=True), precision), make_rows()
    wanted = encoder(rows)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = encoder(rows)
    finally:
        torch.set_default_dtype(torch.float32)
        as_any(torch).set_default_device(None)
    assert_near(found, wanted, 0.0)
