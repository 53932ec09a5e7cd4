"""Torch's own tools around encoders, with every engine: each is right, or an error that says what to use instead."""

import copy
import pickle
from collections.abc import Callable
from typing import Literal

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

from pipeline import Encode, MaybeCausal, Packed, Padded, Vectors
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import LengthError, OptionError
from pipeline_recurrent import GRU, LSTM, RNN, EngineName
from pipeline_recurrent.engines.torch_kernels import has_low_precision
from pipeline_recurrent.native import available
from pipeline_recurrent.recurrent import Recurrent
from support.untyped import as_any, seed

Kind = type[LSTM[MaybeCausal]] | type[GRU[MaybeCausal]] | type[RNN[MaybeCausal]]
KINDS: tuple[Kind, ...] = (LSTM, GRU, RNN)
ENGINES: tuple[EngineName, ...] = ("auto", "packed", "dense", "plain", *(() if available() else ("native",)))
WIDENING: tuple[EngineName, ...] = (
    "dense",
    "plain",
    *(("native",) if available(torch.bfloat16) and not available() else ()),
)
"""Engines that compute bfloat16 in float32 on this machine."""
LENGTHS = {"ragged": torch.tensor([6, 3, 1, 0]), "even": torch.tensor([4, 4])}
EVERY_ENGINE = pytest.mark.parametrize("engine", ENGINES)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
EVERY_BATCH = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())


class Loss(nn.Module):
    """A loss of steps, final states and carry, as a function of the values alone."""

    def __init__(self, kind: Kind, engine: EngineName, lengths: Tensor) -> None:
        super().__init__()
        seed(0)
        self.encoder: Recurrent[MaybeCausal] = kind(3, 4, bidirectional=True, num_layers=2, engine=engine)
        self.lengths = lengths

    def forward(self, values: Tensor) -> Tensor:
        """Return the loss."""
        states = self.encoder(Padded(Vectors, values, self.lengths))
        assert states.carry is not None
        return states.final.sum() + states.packed().values.square().sum() + states.carry[0].sum()


def draw(lengths: Tensor) -> Tensor:
    """Draw values that require gradients."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(lengths), int(lengths.max()), 3, generator=generator, requires_grad=True)


def differentiate(loss: Tensor, values: Tensor) -> Tensor:
    """Return the gradient by the values."""
    return torch.autograd.grad(loss, values)[0]


def as_function(loss: Loss) -> Callable[[Tensor], Tensor]:
    """Return the loss as a function of values, with detached weights."""
    weights = {name: weight.detach() for name, weight in loss.named_parameters()}
    return lambda values: as_any(torch).func.functional_call(loss, weights, (values,))


def test_a_checkpoint_of_a_batch_needs_the_form_that_is_not_reentrant() -> None:
    """The other one sees no tensor in a batch: torch warns, and there are no gradients."""
    lengths = LENGTHS["ragged"]
    values, encode = draw(lengths), Encode(LSTM(3, 4))
    checkpoint = as_any(torch).utils.checkpoint.checkpoint
    batch = Padded(Vectors, values, lengths)
    wanted = torch.autograd.grad(encode(batch).final.sum(), [values, *encode.parameters()])
    final: Tensor = checkpoint(encode, batch, use_reentrant=False).final
    torch.testing.assert_close(torch.autograd.grad(final.sum(), [values, *encode.parameters()]), wanted)
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad=True"):
        assert not checkpoint(encode, batch, use_reentrant=True).final.requires_grad


@EVERY_BATCH
@EVERY_KIND
@EVERY_ENGINE
def test_checkpoints_give_the_same_gradients(engine: EngineName, kind: Kind, lengths: Tensor) -> None:
    """Both forms: of the values, and of all weights."""
    loss, values = Loss(kind, engine, lengths), draw(lengths)
    inputs = [values, *loss.parameters()]
    torch.autograd.backward(loss(values))
    wanted = [tensor.grad for tensor in inputs]
    for use_reentrant in (False, True):
        for tensor in inputs:
            tensor.grad = None
        torch.autograd.backward(as_any(torch).utils.checkpoint.checkpoint(loss, values, use_reentrant=use_reentrant))
        torch.testing.assert_close([tensor.grad for tensor in inputs], wanted)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by torch's own forward mode
@EVERY_BATCH
@EVERY_KIND
def test_transforms_of_functions_are_right(kind: Kind, lengths: Tensor) -> None:
    """torch.func's grad, vmap, jvp and hessian, with the engine that is chosen by itself."""
    loss, values = Loss(kind, "auto", lengths), draw(lengths).detach()
    function = as_function(loss)
    wanted = differentiate(loss(values.requires_grad_()), values)
    values = values.detach()
    torch.testing.assert_close(torch.func.grad(function)(values), wanted)
    both = torch.stack([values, values])
    torch.testing.assert_close(torch.func.vmap(function)(both)[1], loss(values).detach())
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(function))(both)[1], wanted)
    torch.testing.assert_close(torch.func.jvp(function, (values,), (torch.ones_like(values),))[1], wanted.sum())
    with forward_ad.dual_level():
        result = as_any(forward_ad).unpack_dual(loss(as_any(forward_ad).make_dual(values, torch.ones_like(values))))
    torch.testing.assert_close(result.tangent, wanted.sum())
    assert set(loss.encoder.engines) >= {"plain"}


@EVERY_KIND
def test_weights_can_be_batched(kind: Kind) -> None:
    """An ensemble: one vmap over the weights of several models."""
    lengths = LENGTHS["ragged"]
    losses, values = [Loss(kind, "auto", lengths) for _ in range(2)], draw(lengths).detach()
    with torch.no_grad():
        for weight in losses[1].parameters():
            weight.mul_(0.5)
    weights, buffers = torch.func.stack_module_state(as_any(losses))
    base = losses[0]

    def compute(each: object) -> Tensor:
        found: Tensor = as_any(torch).func.functional_call(base, each, (values,))
        return found

    found = torch.func.vmap(compute)(weights)
    assert not buffers
    torch.testing.assert_close(found, torch.stack([loss(values) for loss in losses]))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch's dense kernel
@EVERY_BATCH
@EVERY_KIND
@EVERY_ENGINE
def test_a_batch_of_gradients_is_right(engine: EngineName, kind: Kind, lengths: Tensor) -> None:
    """Vmap over a backward pass whose forward pass was ordinary, as for a Jacobian; by hand, or by autograd itself."""
    seed(0)
    encoder: Recurrent[MaybeCausal] = kind(3, 4, bidirectional=True, engine=engine)
    values = draw(lengths)
    final = encoder(Padded(Vectors, values, lengths)).final
    seeds = torch.randn(3, *final.shape)

    def pull(gradient: Tensor) -> Tensor:
        return torch.autograd.grad(final, values, gradient, retain_graph=True)[0]

    wanted = torch.stack([pull(each) for each in seeds])
    torch.testing.assert_close(torch.func.vmap(pull)(seeds), wanted)
    torch.testing.assert_close(torch.autograd.grad(final, values, seeds, is_grads_batched=True)[0], wanted)


@pytest.mark.parametrize("engine", [name for name in ENGINES if name not in {"auto", "plain"}])
def test_engines_that_transforms_cannot_see_are_errors(engine: EngineName) -> None:
    """The error names the mode, and says what to choose."""
    lengths = LENGTHS["ragged"]
    loss, values = Loss(LSTM, engine, lengths), draw(lengths).detach()
    message = "because a transform of torch.func, or forward-mode differentiation, is active; choose another, or engine='auto'"
    for transform in (torch.func.grad, torch.func.vmap):
        with pytest.raises(OptionError, match=message):
            as_any(transform(as_function(loss)))(values if transform is torch.func.grad else values.unsqueeze(0))
    with (
        pytest.raises(OptionError, match="because a dispatch mode, such as FlopCounterMode, is active"),
        FlopCounterMode(display=False),
    ):
        loss(values)


@EVERY_BATCH
@EVERY_KIND
@EVERY_ENGINE
def test_second_derivatives_are_right(engine: EngineName, kind: Kind, lengths: Tensor) -> None:
    """Of each engine, against the one of torch's operations."""
    found: list[Tensor] = []
    for name in (engine, "plain"):
        loss, values = Loss(kind, name, lengths), draw(lengths)
        (first,) = torch.autograd.grad(loss(values), values, create_graph=True)
        found.append(differentiate(first.square().sum(), values))
    torch.testing.assert_close(found[0], found[1])


@EVERY_KIND
@EVERY_ENGINE
def test_gradients_with_a_graph_equal_those_without(engine: EngineName, kind: Kind) -> None:
    """Where the arguments of a layer depend on each other: initial states on the steps, and both directions' weights."""
    seed(0)
    encoder: Recurrent[MaybeCausal] = kind(4, 4, bidirectional=True, engine=engine)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        setattr(encoder.rnn, f"{name}_reverse", encoder.rnn.get_parameter(name))
    values = torch.randn(9, 4, requires_grad=True)
    found: list[list[Tensor]] = []
    for create_graph in (False, True):
        steps = values * 1
        initial = tuple(steps[:2].expand(2, 2, 4).tanh() for _ in range(2 if kind is LSTM else 1))
        final = encoder(Packed(Vectors, steps, torch.tensor([3, 6]), initial_carry=initial)).final
        loss = final.square().sum()
        found.append(list(torch.autograd.grad(loss, [values, *encoder.parameters()], create_graph=create_graph)))
    torch.testing.assert_close(found[0], found[1])


@EVERY_BATCH
@EVERY_KIND
def test_multiply_adds_are_counted(kind: Kind, lengths: Tensor) -> None:
    """In both passes: one product of input and one of state per step, gate, layer and direction; twice that backward."""
    loss, values = Loss(kind, "auto", lengths), draw(lengths)
    gates, steps = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind.__name__], int(lengths.sum())
    features = 3 + 8 + 2 * 4
    with FlopCounterMode(display=False) as counter:
        result = loss(values)
    assert counter.get_total_flops() == 2 * 2 * steps * gates * 4 * features
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(result)
    assert counter.get_total_flops() > 1.5 * 2 * 2 * steps * gates * 4 * features


@EVERY_BATCH
@EVERY_ENGINE
def test_saved_tensors_may_be_kept_elsewhere(engine: EngineName, lengths: Tensor) -> None:
    """save_on_cpu, with a graph that is used twice: what is overwritten in the last pass is not used again."""
    for kind in KINDS:
        loss, values = Loss(kind, engine, lengths), draw(lengths)
        wanted = differentiate(loss(values), values)
        with torch.autograd.graph.save_on_cpu():
            result = loss(values)
        torch.testing.assert_close(torch.autograd.grad(result, values, retain_graph=True)[0], wanted)
        torch.testing.assert_close(differentiate(result, values), wanted)


@EVERY_ENGINE
def test_default_dtype_and_device_do_not_matter(engine: EngineName) -> None:
    """Everything is made like the values, whatever the defaults are."""
    for kind in KINDS:
        for lengths in LENGTHS.values():
            loss, values = Loss(kind, engine, lengths), draw(lengths)
            wanted = differentiate(loss(values), values)
            torch.set_default_dtype(torch.float64)
            torch.set_default_device("meta")
            try:
                found = differentiate(loss(values), values)
            finally:
                torch.set_default_dtype(torch.float32)
                as_any(torch).set_default_device(None)
            torch.testing.assert_close(found, wanted)


@EVERY_ENGINE
def test_inference_mode_and_copies_after_use(engine: EngineName) -> None:
    """The same numbers in inference mode, and from copies that were made after a training step."""
    lengths = LENGTHS["ragged"]
    loss, values = Loss(LSTM, engine, lengths), draw(lengths)
    torch.autograd.backward(loss(values))
    wanted = loss(values).detach()
    with torch.inference_mode():
        torch.testing.assert_close(loss(values), wanted)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(other(values).detach(), wanted)
        torch.autograd.backward(other(values))


@pytest.mark.filterwarnings("ignore")  # torch warns of tracing itself, and of each number that is read
@EVERY_ENGINE
def test_a_trace_is_an_error(engine: EngineName) -> None:
    """A trace would keep the lengths of its example."""
    lengths = LENGTHS["ragged"]
    loss, values = Loss(LSTM, engine, lengths), draw(lengths).detach()
    with pytest.raises(LengthError, match=r"torch.jit.trace records the lengths .* use torch.export"):
        as_any(torch.jit).trace(loss, (values,))


class Final(nn.Module):
    """Final states as a function of tensors, as a script would export it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder: Recurrent[MaybeCausal] = LSTM(3, 4)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return the final states."""
        return self.encoder(Padded(Vectors, values, lengths)).final


def test_an_export_of_a_changed_module_is_an_error() -> None:
    """Hooks compute a pruned weight before each batch: a graph would leave them out."""
    module = Final()
    as_any(prune).l1_unstructured(module.encoder.rnn, "weight_hh_l0", amount=0.5)
    with pytest.raises(OptionError, match="torch.export cannot export LSTM, because its rnn has hooks"):
        torch.export.export(module, (torch.randn(2, 4, 3), torch.tensor([4, 2])))


@EVERY_KIND
@pytest.mark.parametrize("engine", WIDENING)
def test_autocast_computes_in_float32(engine: EngineName, kind: Kind) -> None:
    """Gradients are those without autocast; of our own backward passes also if autocast is on in them.

    Where torch returns bfloat16, the output is rounded, once.
    """
    for lengths in LENGTHS.values():
        loss, values = Loss(kind, engine, lengths), draw(lengths)
        wanted = differentiate(loss(values), values)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = loss(values)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=engine != "dense"):
            found = differentiate(result, values)
        rounding = 2e-2 if result.dtype is torch.bfloat16 else 1e-5
        torch.testing.assert_close(found, wanted, rtol=rounding, atol=rounding)


@EVERY_BATCH
@EVERY_KIND
@pytest.mark.parametrize("engine", ENGINES)
def test_the_dtype_under_autocast_is_that_of_torch(engine: EngineName, kind: Kind, lengths: Tensor) -> None:
    """Of each batch, whatever the engine: on a CPU, torch's LSTM returns another for rows of one length."""
    if kind is LSTM and lengths is LENGTHS["even"] and not has_low_precision(torch.bfloat16):
        pytest.skip("torch's own LSTM raises an error here: the processor has no instructions for bfloat16")
    encoder, values = kind(3, 4, engine=engine), draw(lengths)
    packed = pack_padded_sequence(values, lengths.clamp(min=1), True, enforce_sorted=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = encoder(Padded(Vectors, values, lengths))
        theirs: tuple[PackedSequence, Tensor | tuple[Tensor, ...]] = as_any(encoder).rnn(packed)
    output, state = theirs
    ended = state if isinstance(state, tuple) else (state,)
    assert states.carry is not None
    found = [tensor.dtype for tensor in (states.packed().values, states.final, *states.carry)]
    assert found == [output.data.dtype, ended[0].dtype, *(each.dtype for each in ended)]


@EVERY_BATCH
@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_an_engine_is_found_under_autocast(kind: Kind, lengths: Tensor, dtype: torch.dtype) -> None:
    """Torch's own LSTM raises an error for rows of one length, for bfloat16 on some processors."""
    loss, values = Loss(kind, "auto", lengths), draw(lengths)
    with torch.autocast("cpu", dtype=dtype):
        found = loss(values)
    torch.testing.assert_close(found.float(), loss(values), rtol=5e-2, atol=5e-2)
    assert differentiate(found, values).isfinite().all()
    if kind is LSTM and lengths is LENGTHS["even"] and dtype is torch.half:
        loss.encoder.engine = "packed"
        with (
            torch.autocast("cpu", dtype=dtype),
            pytest.raises(OptionError, match="because torch cannot (train|run) an LSTM on"),
        ):
            loss(values)


@EVERY_KIND
@pytest.mark.parametrize("engine", WIDENING)
def test_half_precision_is_rounded_once_per_layer(engine: EngineName, kind: Kind) -> None:
    """Of 500 steps, the results and gradients are those of float32 with the same weights, rounded."""
    lengths = torch.tensor([500, 200])
    seed(0)
    encoder: Recurrent[MaybeCausal] = kind(3, 4, engine=engine).bfloat16()
    values = torch.randn(2, 500, 3).bfloat16().requires_grad_()
    found: list[list[Tensor]] = []
    for one, steps in ((encoder, values), (copy.deepcopy(encoder).float(), values.detach().float().requires_grad_())):
        states = one(Padded(Vectors, steps, lengths))
        results = [states.packed().values, states.final]
        gradients = torch.autograd.grad(results[0].float().sum(), [steps, *one.parameters()])
        found.append([tensor.detach().bfloat16() for tensor in (*results, *gradients)])
        assert {tensor.dtype for tensor in results} == {values.dtype if one is encoder else torch.float32}
    assert encoder.engines == {engine: 1}
    for half, exact in zip(*found, strict=True):
        assert torch.equal(half, exact)


CHANGES = ("carry", "final", "initial")


@pytest.mark.parametrize("hidden", [5, 16])
@pytest.mark.parametrize("change", CHANGES)
@EVERY_BATCH
@EVERY_ENGINE
def test_changes_in_place_do_not_reach_other_results(
    engine: EngineName, lengths: Tensor, change: Literal["carry", "final", "initial"], hidden: int
) -> None:
    """Of the carry, the final states and the initial carry: other results and all gradients stay right."""
    for kind in KINDS:
        for both in (False, True):
            seed(0)
            encoder: Recurrent[MaybeCausal] = kind(3, hidden, bidirectional=both, engine=engine)
            shape = (2 if both else 1, len(lengths), hidden)
            start = [torch.randn(shape) for _ in range(2 if kind is LSTM else 1)]
            found: list[list[Tensor]] = []
            for changed in (False, True):
                values, initial = draw(lengths), tuple(state.clone() for state in start)
                states = encoder(Padded(Vectors, values, lengths, initial_carry=initial))
                assert states.carry is not None
                loss = states.packed().values.sum() + (0 if change == "final" else states.final.sum())
                loss = loss + (0 if change == "carry" else sum(state.sum() for state in states.carry))
                targets = {"carry": states.carry, "final": (states.final,), "initial": initial}[change]
                results = [*(() if change == "final" else [states.final]), *(() if change == "carry" else states.carry)]
                if changed:
                    for target in targets:
                        target.zero_()
                found.append([*(result.detach().clone() for result in results), differentiate(loss, values)])
            torch.testing.assert_close(found[0], found[1])


@EVERY_ENGINE
def test_changed_steps_are_right_or_an_error(engine: EngineName) -> None:
    """Hidden vectors and input vectors, changed before the backward pass."""
    for kind, hidden, lengths in (
        (kind, hidden, lengths) for kind in KINDS for hidden in (5, 16) for lengths in LENGTHS.values()
    ):
        for which in ("input", "output"):
            seed(0)
            encoder: Recurrent[MaybeCausal] = kind(3, hidden, bidirectional=lengths is LENGTHS["even"], engine=engine)
            values = draw(lengths)
            used = values * 1
            states = encoder(Padded(Vectors, used, lengths))
            wanted = torch.autograd.grad(states.final.sum(), values, retain_graph=True)[0]
            (used if which == "input" else states.steps.values).detach().zero_()
            try:
                found = differentiate(states.final.sum(), values)
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)  # noqa: PT017
            else:
                torch.testing.assert_close(found, wanted)


@EVERY_ENGINE
def test_output_changed_as_by_an_operation_is_right_or_an_error(engine: EngineName) -> None:
    """As for torch's own operations: `add_` on the hidden vectors, with and without gradients."""
    for kind, hidden, both in ((kind, hidden, both) for kind in KINDS for hidden in (5, 16) for both in (False, True)):
        for with_grad in (True, False):
            seed(0)
            encoder: Recurrent[MaybeCausal] = kind(3, hidden, bidirectional=both, engine=engine)
            values = draw(LENGTHS["ragged"])
            states = encoder(Padded(Vectors, values, LENGTHS["ragged"]))
            wanted = torch.autograd.grad((states.steps.values + 1).square().sum(), values, retain_graph=True)[0]
            try:
                with torch.set_grad_enabled(with_grad):
                    states.steps.values.add_(1)
                found = differentiate(states.steps.values.square().sum(), values)
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)  # noqa: PT017
            else:
                torch.testing.assert_close(found, wanted)


@EVERY_ENGINE
def test_changed_lengths_are_an_error(engine: EngineName) -> None:
    """After the first use of a batch, in either layout."""
    encoder: Recurrent[MaybeCausal] = GRU(3, 4, engine=engine)
    lengths = torch.tensor([4, 2])
    batch = Padded(Vectors, torch.randn(2, 4, 3), lengths)
    packed = batch.packed()
    encoder(batch)
    lengths -= 1
    for changed in (batch, packed):
        with pytest.raises(LengthError, match="lengths were changed in place"):
            encoder(changed)


def test_a_bidirectional_carry_cannot_continue_rows() -> None:
    """Its backward half belongs to the first step of a row, not to the step before the next batch."""
    for kind in KINDS:
        encoder: Recurrent[MaybeCausal] = kind(3, 4, bidirectional=True)
        batch = Padded(Vectors, torch.randn(2, 4, 3), torch.tensor([4, 2]))
        later = BatchMetadata(torch.tensor([0, 1]), start_steps=torch.tensor([4, 0]))
        states = as_any(encoder)(batch)
        for following in (batch, attrs.evolve(batch, metadata=later)):
            for each in (states, states.with_values(states.steps)):
                with pytest.raises(OptionError, match="before must be states of an encoder that reads forward only"):
                    following.with_carry(each)
        with pytest.raises(OptionError, match="a bidirectional encoder cannot continue rows"):
            encoder(attrs.evolve(batch, metadata=later, initial_carry=states.carry))


SCALES = [10.0**power for power in range(-3, 7)]


@EVERY_BATCH
@EVERY_ENGINE
@EVERY_KIND
def test_results_of_any_scale_equal_those_in_float64(kind: Kind, engine: EngineName, lengths: Tensor) -> None:
    """Values from 1e-3 to 1e6: saturated units have no gradient, and small ones lose no digit."""
    if engine == "auto":
        return
    for scale in SCALES:
        found: list[list[Tensor]] = []
        for dtype, name in ((torch.float32, engine), (torch.float64, "packed")):
            seed(3)
            encoder: Recurrent[MaybeCausal] = kind(3, 16, bidirectional=True, engine=as_any(name)).to(dtype)
            values = (draw(lengths).detach() * scale).to(dtype).requires_grad_()
            states = encoder(Padded(Vectors, values, lengths))
            assert states.carry is not None
            results = [states.packed().values, *states.carry]
            loss = sum((result.square().sum() for result in results), start=torch.zeros((), dtype=dtype))
            gradients = torch.autograd.grad(loss, [values, *encoder.parameters()])
            found.append([tensor.detach().double() for tensor in (*results, *gradients)])
        for ours, exact in zip(*found, strict=True):
            # Rounding of the sums in the gates is in proportion to the values; gradients are sums over all steps.
            error, size = (ours - exact).abs().max().item(), exact.abs().max().item()
            assert error <= 2e-5 * max(size, 1.0) * max(1.0, min(scale, 1e3)), (scale, error, size)
