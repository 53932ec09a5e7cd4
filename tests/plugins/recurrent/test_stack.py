"""`encoder.rnn` is the module that runs: whatever torch's tools do to it acts as on an nn.LSTM, or is an error."""

import copy
import pickle
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pipeline import Classify, Embed, Encode, MaybeCausal, Packed, Padded, Pool, Vectors
from pipeline.data.kinds import Ids
from pipeline.errors import OptionError, ShapeError
from pipeline_recurrent import GRU, LSTM, RNN, precompute_inputs
from pipeline_recurrent.recurrent import Recurrent
from support.untyped import as_any, seed, train_step

LENGTHS = torch.tensor([6, 3, 1])
UTILS = as_any(nn).utils
"""Torch leaves the types of these open."""


def pickle_twice(encoder: Recurrent[MaybeCausal]) -> Recurrent[MaybeCausal]:
    """Return an encoder that was written and read again."""
    copied: Recurrent[MaybeCausal] = pickle.loads(pickle.dumps(encoder))
    return copied


def make_pair() -> tuple[LSTM[MaybeCausal], nn.LSTM]:
    """Return an encoder and torch's module with the same weights."""
    seed(0)
    encoder = LSTM(4, 5, bidirectional=True)
    module = nn.LSTM(4, 5, bidirectional=True, batch_first=True)
    module.load_state_dict(encoder.rnn.state_dict())
    return encoder, module


def run(encoder: Recurrent[MaybeCausal], values: Tensor) -> Tensor:
    """Return the hidden vectors of rows of one length."""
    return encoder(Padded(Vectors, values, torch.full((len(values),), values.shape[1]))).padded().values


def train(module: nn.Module, call: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Train a few steps; return all weights, and then the output."""
    seed(1)
    values = torch.randn(3, 6, 4)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(4):
        train_step(call(values).square().sum(), optimizer)
    return [*(weight.detach().clone() for weight in module.parameters()), call(values).detach()]


def prune_weights(module: nn.Module) -> None:
    """Prune half of the recurrent weights."""
    as_any(prune).l1_unstructured(module, "weight_hh_l0", amount=0.5)


def log(calls: list[str], word: str, *_: object) -> None:
    """Note that a hook ran."""
    calls.append(word)


def norm_weights(module: nn.Module) -> None:
    """Parametrize weights by their direction and norm."""
    UTILS.parametrizations.weight_norm(module, "weight_hh_l0")


def hook_outputs(module: nn.Module) -> None:
    """Register a forward hook."""
    as_any(module).register_forward_hook(print)


def hook_gradients(module: nn.Module) -> None:
    """Register a hook on a weight."""
    as_any(module).weight_hh_l0.register_hook(abs)


def drop_weights(module: nn.Module) -> None:
    """Scale a weight before each forward pass, as weight drop does (here without randomness)."""
    raw = nn.Parameter(module.get_parameter("weight_hh_l0").detach().clone())
    del module.weight_hh_l0
    module.register_parameter("raw", raw)

    def scale(owner: nn.Module, _: object) -> None:
        setattr(owner, "weight_hh_l0", owner.get_parameter("raw") * 0.5)  # noqa: B010

    module.register_forward_pre_hook(scale)


def old_norm(name: str) -> Callable[[nn.Module], object]:
    """Return the hook form of a normalization, which torch has deprecated."""

    def apply(module: nn.Module) -> None:
        seed(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(UTILS, name)(module, "weight_hh_l0")

    return apply


HOOKS = [prune_weights, drop_weights, old_norm("weight_norm"), old_norm("spectral_norm")]


@pytest.mark.parametrize("change", HOOKS)
def test_hook_based_weights_train_as_in_torch(change: Callable[[nn.Module], object]) -> None:
    """Weights that a forward pre-hook computes: all steps equal torch's, and so does a copy that loads them."""
    encoder, module = make_pair()
    change(encoder.rnn)
    change(module)
    with warnings.catch_warnings():
        # Torch's module: weights computed by hooks are not in one piece of memory.
        warnings.simplefilter("ignore")
        theirs = train(module, lambda values: module(values)[0])
    torch.testing.assert_close(train(encoder, lambda values: run(encoder, values)), theirs, rtol=1e-4, atol=1e-5)
    loaded, _ = make_pair()
    change(loaded.rnn)
    loaded.load_state_dict(encoder.state_dict())
    values = torch.randn(2, 3, 4)
    torch.testing.assert_close(run(loaded.eval(), values), run(encoder.eval(), values))


@pytest.mark.parametrize("norm", [UTILS.parametrizations.weight_norm, UTILS.parametrizations.spectral_norm])
def test_parametrized_weights_are_the_ones_that_run(norm: Callable[..., object]) -> None:
    """The result is that of torch's module with the computed weight, and its parameters are trained."""
    encoder, module = make_pair()
    norm(encoder.rnn, "weight_hh_l0")
    encoder.eval()
    module.load_state_dict({name: getattr(encoder.rnn, name) for name in module.state_dict()})
    values = torch.randn(3, 6, 4)
    torch.testing.assert_close(run(encoder, values), module(values)[0])
    before = [weight.detach().clone() for weight in encoder.parameters()]
    after = train(encoder, lambda values: run(encoder, values))[:-1]
    assert not any(torch.equal(one, two) for one, two in zip(before, after, strict=True))


@pytest.mark.parametrize("engine", ["auto", "plain", "packed", "dense"])
def test_hooks_run_once_per_batch(engine: str) -> None:
    """Forward hooks see the output of real steps and can change it; backward hooks run too."""
    encoder: Recurrent[MaybeCausal] = LSTM(4, 5, engine=as_any(engine))
    calls: list[str] = []
    as_any(encoder.rnn).register_forward_pre_hook(partial(log, calls, "before"))

    def clear(_: object, __: object, result: tuple[Tensor, object]) -> tuple[Tensor, object]:
        calls.append("after")
        return result[0] * 0, result[1]

    as_any(encoder.rnn).register_forward_hook(clear)
    as_any(encoder.rnn).register_full_backward_hook(partial(log, calls, "backward"))
    values = torch.randn(3, 6, 4, requires_grad=True)
    states = encoder(Padded(Vectors, values, LENGTHS))
    assert not states.packed().values.any()
    torch.autograd.backward(states.packed().values.sum())
    assert calls == ["before", "after", "backward"]


def test_the_training_mode_of_rnn_decides_on_dropout() -> None:
    """In both directions: Monte Carlo dropout in evaluation, and a frozen layer in training."""
    encoder: Recurrent[MaybeCausal] = LSTM(4, 5, num_layers=2, dropout=0.5)
    values = torch.randn(3, 6, 4)
    encoder.eval()
    for module in encoder.modules():
        if isinstance(module, nn.LSTM):
            module.train()
    assert not torch.equal(run(encoder, values), run(encoder, values))
    encoder.train()
    encoder.rnn.eval()
    assert torch.equal(run(encoder, values), run(encoder, values))


@pytest.mark.parametrize("kind", [LSTM, GRU])
@pytest.mark.parametrize("both", [False, True])
def test_dynamic_quantization_quantizes(kind: type[LSTM[MaybeCausal]], both: bool) -> None:
    """The quantized module computes, near the original result; in a pipe as well, for batches with empty rows."""
    encoder = kind(4, 16, bidirectional=both, num_layers=2)
    model = Embed(9, 4) >> Encode(encoder) >> Pool("max") >> Classify(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = as_any(torch).ao.quantization.quantize_dynamic(model, {nn.LSTM, nn.GRU}, dtype=torch.qint8)
        batch = Padded(Ids, torch.randint(1, 9, (4, 6)), torch.tensor([6, 0, 3, 1]))
        ours, exact = small(batch).values, model(batch).values
    assert "quantized" in type(as_any(small).get_submodule("encode.encoder.rnn")).__module__
    assert not torch.equal(ours, exact)
    torch.testing.assert_close(ours, exact, rtol=0.1, atol=0.05)
    assert encoder.engines.keys() != {"quantized"}


def test_quantized_stacks_reject_what_they_lack() -> None:
    """Options between layers, engines, and precomputed inputs."""
    for options, message in (
        ({"layer_norm": True}, "has no layer_norm"),
        ({"residual": True}, "has no residual"),
        ({"engine": "plain"}, "engine='plain' cannot run a quantized LSTM"),
    ):
        encoder: Recurrent[MaybeCausal] = as_any(LSTM)(4, 8, num_layers=2, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = as_any(torch).ao.quantization.quantize_dynamic(encoder, {nn.LSTM}, dtype=torch.qint8)
            with pytest.raises(OptionError, match=message):
                run(small, torch.randn(2, 3, 4))


def test_precomputed_inputs_need_plain_weights() -> None:
    """A table of pruned or normalized weights would be out of date."""
    for change in (prune_weights, norm_weights):
        encoder = LSTM(4, 5)
        change(encoder.rnn)
        with pytest.raises(OptionError, match="precompute_inputs needs plain weights"):
            precompute_inputs(Embed(9, 4) >> Encode(encoder) >> Pool("max"))


def test_a_module_in_the_place_of_rnn_runs() -> None:
    """Torch's own, or a wrapper around it; another module is an error."""
    encoder, module = make_pair()
    values = torch.randn(3, 6, 4)
    wanted = run(encoder, values)

    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: object) -> object:
            return self.inner(*args)

    encoder.rnn = module
    torch.testing.assert_close(run(encoder, values), wanted)
    as_any(encoder).rnn = Wrapper(nn.LSTM(4, 5, bidirectional=True))
    assert run(encoder, values).shape == wanted.shape
    as_any(encoder).rnn = nn.Linear(4, 5)
    with pytest.raises(OptionError, match=r"encoder.rnn must be torch's LSTM, GRU or RNN"):
        run(encoder, values)


def test_a_forward_of_its_own_in_the_place_of_rnn_is_rejected() -> None:
    """The engines would ignore it; a parametrized module inherits torch's, in a subclass that torch makes."""

    def double(module: nn.LSTM, *args: Tensor) -> object:
        return as_any(nn.LSTM).forward(module, *args)

    encoder, module = make_pair()
    values = torch.randn(3, 6, 4)
    wanted = run(encoder, values)
    norm_weights(module)
    encoder.rnn = module
    torch.testing.assert_close(run(encoder, values), wanted)
    as_any(encoder).rnn = as_any(type)("Doubled", (nn.LSTM,), {"forward": double})(4, 5, bidirectional=True)
    with pytest.raises(OptionError, match="but Doubled has its own, which the engines would ignore"):
        run(encoder, values)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickle_twice])
def test_copies_compute_with_their_own_weights(
    duplicate: Callable[[Recurrent[MaybeCausal]], Recurrent[MaybeCausal]],
) -> None:
    """After use, and after the original has changed."""
    encoder, _ = make_pair()
    values = torch.randn(3, 6, 4)
    wanted = run(encoder, values)
    other = duplicate(encoder)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
    assert torch.equal(run(other, values), wanted)
    assert not run(encoder, values).any()
    assert torch.equal(
        other.rnn(values.transpose(0, 1))[0].transpose(0, 1).detach().round(decimals=5),
        wanted.detach().round(decimals=5),
    )


def test_load_torch_keeps_frozen_weights_and_the_mode() -> None:
    """`requires_grad` of each weight, and evaluation."""
    module = nn.GRU(3, 4, num_layers=2, dropout=0.5).eval()
    as_any(module.weight_hh_l1).requires_grad_(requires_grad=False)
    encoder = GRU.from_torch(module)
    flags = {name: weight.requires_grad for name, weight in encoder.rnn.named_parameters()}
    assert flags == {name: weight.requires_grad for name, weight in module.named_parameters()}
    assert not encoder.training
    assert not encoder.rnn.training
    assert encoder.rnn.dropout == 0.5


def share(module: nn.LSTM) -> None:
    """Share weights between layers."""
    module.weight_hh_l1 = module.weight_hh_l0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (prune_weights, "must have no hooks and no parametrizations"),
        (
            norm_weights,
            "must have no hooks and no parametrizations",
        ),
        (hook_outputs, "must have no hooks and no parametrizations"),
        (hook_gradients, "must have no hooks on its weights"),
        (share, "must have no shared weights"),
    ],
)
def test_load_torch_rejects_what_it_cannot_keep(change: Callable[[nn.LSTM], object], message: str) -> None:
    """With the reason, and nothing is loaded."""
    module = nn.LSTM(3, 4, num_layers=2)
    change(module)
    with pytest.raises(OptionError, match=message):
        LSTM.from_torch(module)


def test_load_torch_rejects_other_sizes_and_subclasses() -> None:
    """Sizes, and a `forward` of its own, which would be lost."""
    encoder: Recurrent[MaybeCausal] = LSTM(3, 4)
    with pytest.raises(OptionError, match="must have the sizes of the encoder's rnn"):
        encoder.load_torch(nn.LSTM(3, 5))
    with pytest.raises(OptionError, match="must have torch's own forward"):
        LSTM.from_torch(as_any(type("Doubled", (nn.LSTM,), {"forward": print}))(3, 4))


@pytest.mark.parametrize("engine", ["auto", "plain", "packed"])
def test_a_batch_of_empty_rows_has_a_zero_gradient_for_every_weight(engine: str) -> None:
    """So that a process with empty rows only takes part in every exchange of gradients; hooks run too."""
    encoder: Recurrent[MaybeCausal] = LSTM(
        4, 5, num_layers=2, bidirectional=True, layer_norm=True, engine=as_any(engine)
    )
    calls: list[str] = []
    as_any(encoder.rnn).register_forward_pre_hook(partial(log, calls, "before"))
    values = torch.randn(3, 2, 4, requires_grad=True)
    states = encoder(Padded(Vectors, values, torch.tensor([0, 0, 0])))
    for result in (states.final, states.packed().values):
        encoder.zero_grad()
        torch.autograd.backward(result.sum(), retain_graph=True)
        assert all(weight.grad is not None and not weight.grad.any() for weight in encoder.parameters())
    assert calls == ["before"]


def test_values_are_checked_against_computed_weights() -> None:
    """The dtype is that of the weights that run."""
    encoder: Recurrent[MaybeCausal] = RNN(3, 4)
    prune_weights(encoder.rnn)
    with pytest.raises(ShapeError, match=r"values are torch.float64 on cpu, but RNN is torch.float32"):
        encoder(Packed(Vectors, torch.ones(2, 3, dtype=torch.float64), torch.tensor([2])))


def test_parametrizations_can_be_removed() -> None:
    """Then the weights are plain ones again, with the same results."""
    encoder, _ = make_pair()
    values = torch.randn(3, 6, 4)
    norm_weights(encoder.rnn)
    wanted = run(encoder, values)
    UTILS.parametrize.remove_parametrizations(encoder.rnn, "weight_hh_l0")
    torch.testing.assert_close(run(encoder, values), wanted)


@pytest.mark.parametrize("engine", ["auto", "plain", "dense"])
@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
def test_steps_in_the_dtype_of_autocast_give_that_dtype(kind: type[LSTM] | type[GRU] | type[RNN], engine: str) -> None:
    """As torch's own modules do, though those give float32 for the same steps in float32."""
    encoder = as_any(kind)(3, 4, engine=engine)
    values = torch.randn(2, 3, 3, dtype=torch.bfloat16)
    packed = nn.utils.rnn.pack_padded_sequence(values, torch.tensor([3, 2]), batch_first=True)
    with torch.autocast("cpu", torch.bfloat16):
        states = encoder(Padded(Vectors, values, torch.tensor([3, 2])))
        theirs = as_any(encoder.rnn)(packed)[0].data
    assert states.packed().values.dtype is theirs.dtype is torch.bfloat16
