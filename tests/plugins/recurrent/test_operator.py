"""The operator of a recurrent layer: the results and gradients of the engines, and what graphs know of its shapes."""

from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from pipeline import MaybeCausal, Padded, Vectors
from pipeline.errors import OptionError
from pipeline_recurrent import GRU, LSTM, RNN
from pipeline_recurrent.operator import run_layer
from pipeline_recurrent.recurrent import Recurrent
from support.untyped import as_any, compile_graph, seed

KINDS = pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
LENGTHS = torch.tensor([6, 0, 3, 1, 6])


def make_case(kind: type[Recurrent[MaybeCausal]], *, both: bool, bias: bool) -> tuple[Recurrent[MaybeCausal], Tensor]:
    """Return an encoder of one layer, and vectors that require gradients."""
    seed(0)
    encoder: Recurrent[MaybeCausal] = as_any(kind)(3, 4, bidirectional=both, bias=bias).double()
    return encoder, torch.randn(5, 6, 3, dtype=torch.float64, requires_grad=True)


def make_initial(encoder: Recurrent[MaybeCausal]) -> tuple[Tensor, ...]:
    """Return initial states that require gradients."""
    count = 2 if encoder.cell == "lstm" else 1
    shape = (encoder.directions, 5, 4)
    return tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(count))


@KINDS
@pytest.mark.parametrize(("both", "bias"), [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize("starts", [False, True])
def test_it_gives_the_results_and_gradients_of_the_engines(
    kind: type[Recurrent[MaybeCausal]], *, both: bool, bias: bool, starts: bool
) -> None:
    """From padded rows, with empty ones, from zeros or given states."""
    encoder, values = make_case(kind, both=both, bias=bias)
    initial = make_initial(encoder) if starts else ()
    states = encoder(Padded(Vectors, values, LENGTHS, initial_carry=initial or None))
    assert states.carry is not None
    wanted = [states.padded().values, *states.carry]
    output, ended = run_layer(values, LENGTHS, encoder.weights()[0], initial, encoder.cell, "auto")
    torch.testing.assert_close([output, *ended], wanted)
    inputs = [values, *encoder.parameters(), *initial]
    gradients = [torch.randn_like(each) for each in wanted]
    torch.testing.assert_close(
        torch.autograd.grad([output, *ended], inputs, gradients), torch.autograd.grad(wanted, inputs, gradients)
    )


@KINDS
def test_it_takes_packed_steps_too(kind: type[Recurrent[MaybeCausal]]) -> None:
    """And returns packed hidden vectors."""
    encoder, values = make_case(kind, both=True, bias=True)
    batch = Padded(Vectors, values, LENGTHS)
    output, _ = run_layer(batch.packed().values, LENGTHS, encoder.weights()[0], (), encoder.cell, "plain")
    torch.testing.assert_close(output, encoder(batch).packed().values)


@KINDS
def test_rows_without_steps_have_their_initial_states(kind: type[Recurrent[MaybeCausal]]) -> None:
    """Also if all rows are empty; gradients pass through."""
    encoder, values = make_case(kind, both=True, bias=True)
    initial = make_initial(encoder)
    output, ended = run_layer(values, torch.zeros_like(LENGTHS), encoder.weights()[0], initial, encoder.cell, "auto")
    assert not output.any()
    torch.testing.assert_close(ended, initial)
    (gradient,) = torch.autograd.grad(ended[0].sum(), [initial[0]])
    assert (gradient == 1).all()


@KINDS
def test_torch_finds_no_fault_in_it(kind: type[Recurrent[MaybeCausal]]) -> None:
    """By its own checks of an operator's schema, shapes and registration."""
    encoder, values = make_case(kind, both=True, bias=True)
    weights = [weight.detach() for weight in encoder.rnn.parameters()]
    arguments: tuple[object, ...] = (values.detach(), LENGTHS, weights, [], encoder.cell, True, "auto")
    check = as_any(torch.library).opcheck
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    assert set(check(as_any(torch.ops).pipeline.recurrent_layer.default, arguments, test_utils=tests).values()) == {
        "SUCCESS"
    }


def _replace_module(encoder: GRU) -> None:
    encoder.rnn = nn.GRU(3, 4)


def _replace_module_as_tools_do(encoder: GRU) -> None:
    as_any(encoder)._modules["rnn"] = nn.GRU(3, 4)


def _replace_weight(encoder: GRU) -> None:
    as_any(encoder.rnn).weight_hh_l0 = nn.Parameter(torch.randn(12, 4))


def _load_weights(encoder: GRU) -> None:
    encoder.rnn.load_state_dict(nn.GRU(3, 4).state_dict())


def _compile_final(encoder: GRU, *, whole: bool) -> Callable[[Padded[Vectors]], Tensor]:
    """Return a compiled function that returns an encoder's final states."""
    torch.compiler.reset()

    def get_final(batch: Padded[Vectors]) -> Tensor:
        return encoder(batch).final

    compiled: Callable[[Padded[Vectors]], Tensor] = as_any(
        compile_graph(get_final, fullgraph=whole, dynamic=True, backend="eager")
    )
    return compiled


@pytest.mark.parametrize("change", [_replace_module, _replace_module_as_tools_do, _replace_weight, _load_weights])
def test_a_compiled_encoder_has_the_weights_of_now(change: Callable[[GRU], None]) -> None:
    """Not those of its module when it was compiled."""
    seed(0)
    encoder = GRU(3, 4)
    graph, batch = _compile_final(encoder, whole=True), Padded(Vectors, torch.randn(5, 6, 3), LENGTHS)
    before = graph(batch)
    change(encoder)
    found = graph(batch)
    torch.testing.assert_close(found, encoder(batch).final)
    assert not torch.allclose(found, before), "the change must count"


@pytest.mark.filterwarnings("ignore")  # torch's own ones, while it traces
def test_pruning_is_seen_by_a_compiled_encoder() -> None:
    """A hook then computes its weights, so that the graph is no longer whole."""
    seed(0)
    encoder = GRU(3, 4)
    graph, batch = _compile_final(encoder, whole=False), Padded(Vectors, torch.randn(5, 6, 3), LENGTHS)
    graph(batch)
    as_any(import_module("torch.nn.utils.prune")).l1_unstructured(encoder.rnn, "weight_hh_l0", amount=0.5)
    torch.testing.assert_close(graph(batch), encoder(batch).final)


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
def test_to_torch_is_the_inverse_of_from_torch(kind: type[Recurrent[MaybeCausal]]) -> None:
    """A plain module with the weights, the options and the frozen parameters."""
    seed(0)
    encoder = as_any(kind)(3, 4, num_layers=2, bidirectional=True, dropout=0.5).eval()
    encoder.rnn.weight_hh_l1.requires_grad_(requires_grad=False)
    module = encoder.to_torch(batch_first=True)
    assert as_any(type)(module) in {nn.LSTM, nn.GRU, nn.RNN}
    assert module.mode.lower() == encoder.cell
    assert not module.weight_hh_l1.requires_grad
    assert not module.training
    values = torch.randn(2, 5, 3)
    states = encoder(Padded(Vectors, values, torch.tensor([5, 5])))
    torch.testing.assert_close(module(values)[0], states.padded().values)
    again = as_any(kind).from_torch(module)
    torch.testing.assert_close(again.rnn.state_dict(), encoder.rnn.state_dict())


def test_an_activation_is_kept_by_to_torch() -> None:
    """Of a plain RNN."""
    assert as_any(RNN(3, 4, nonlinearity="relu").to_torch()).nonlinearity == "relu"


def test_norms_and_residuals_cannot_become_a_torch_module() -> None:
    """Torch's modules lack them."""
    with pytest.raises(OptionError, match="cannot become torch's module, because its layers have norms"):
        LSTM(3, 4, num_layers=2, layer_norm=True).to_torch()
