"""Attention and poolings under torch's own tools, in low precision, and at any scale."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from pipeline import Attend, AttendEarlier, Pool, States
from pipeline.errors import LengthError
from pipeline_attention import Additive, AttentionPool
from support.untyped import as_any, seed, to_list

LENGTHS = {"ragged": torch.tensor([6, 3, 1, 0]), "even": torch.tensor([4, 4])}
ATTENTIONS = ("dot", "scaled_dot", "general", "additive", "concat", "multi_head")
STAGES: dict[str, Callable[[], nn.Module]] = {
    **{f"attend {name}": partial(Attend, name, input_size=4) for name in ATTENTIONS},
    **{f"earlier {name}": partial(AttendEarlier, name, input_size=4) for name in ATTENTIONS},
    **{f"window {name}": partial(AttendEarlier, name, input_size=4, window=2) for name in ATTENTIONS},
    **{name: partial(Pool, name) for name in ("mean", "max", "sum", "first", "last")},
    "attention": partial(Pool, "attention", input_size=4),
}
EVERY_STAGE = pytest.mark.parametrize("stage", STAGES)
EVERY_BATCH = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())


class Loss(nn.Module):
    """A loss of a stage, as a function of the values alone."""

    def __init__(self, stage: str, lengths: Tensor) -> None:
        super().__init__()
        seed(0)
        self.stage = STAGES[stage]()
        self.lengths = lengths

    def forward(self, values: Tensor) -> Tensor:
        """Return the loss."""
        found = self.stage(States.from_padded(values, self.lengths))
        return (found.packed().values if isinstance(found, States) else found.values).square().sum()


def draw(lengths: Tensor) -> Tensor:
    """Draw values that require gradients."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(lengths), int(lengths.max()), 4, generator=generator, requires_grad=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by torch's own forward mode
@EVERY_BATCH
@EVERY_STAGE
def test_transforms_of_functions_are_right(stage: str, lengths: Tensor) -> None:
    """torch.func's grad, vmap and jvp, forward-mode differentiation."""
    loss, values = Loss(stage, lengths), draw(lengths)
    wanted = torch.autograd.grad(loss(values), values)[0]
    values = values.detach()
    weights = {name: weight.detach() for name, weight in loss.named_parameters()}

    def function(values: Tensor) -> Tensor:
        found: Tensor = as_any(torch).func.functional_call(loss, weights, (values,))
        return found

    torch.testing.assert_close(torch.func.grad(function)(values), wanted)
    both = torch.stack([values, values])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(function))(both)[1], wanted)
    torch.testing.assert_close(torch.func.jvp(function, (values,), (torch.ones_like(values),))[1], wanted.sum())
    with forward_ad.dual_level():
        result = as_any(forward_ad).unpack_dual(loss(as_any(forward_ad).make_dual(values, torch.ones_like(values))))
    torch.testing.assert_close(result.tangent, wanted.sum())


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch's own vmap
@EVERY_BATCH
@EVERY_STAGE
def test_gradients_with_a_graph_and_in_a_batch_equal_those_alone(stage: str, lengths: Tensor) -> None:
    """create_graph, vmap over a backward pass, and is_grads_batched."""
    loss, values = Loss(stage, lengths), draw(lengths)
    wanted = torch.autograd.grad(loss(values * 1), values)[0]
    torch.testing.assert_close(torch.autograd.grad(loss(values * 1), values, create_graph=True)[0], wanted)
    result, seeds = loss(values * 1), torch.tensor([1.0, -2.0, 0.0])
    batch = torch.stack([wanted * each for each in seeds])

    def pull(gradient: Tensor) -> Tensor:
        return torch.autograd.grad(result, values, gradient, retain_graph=True)[0]

    torch.testing.assert_close(torch.func.vmap(pull)(seeds), batch)
    torch.testing.assert_close(torch.autograd.grad(result, values, seeds, is_grads_batched=True)[0], batch)


@EVERY_BATCH
@EVERY_STAGE
def test_second_derivatives_are_right(stage: str, lengths: Tensor) -> None:
    """Against differences of the first ones, in float64."""
    loss, values = Loss(stage, lengths).double(), draw(lengths).detach().double().requires_grad_()
    assert torch.autograd.gradgradcheck(loss, (values,))


@EVERY_BATCH
@EVERY_STAGE
def test_checkpoints_copies_and_defaults_change_nothing(stage: str, lengths: Tensor) -> None:
    """Both forms of checkpoints, saved tensors on the CPU, retained graphs, copies after use, default dtype, device."""
    loss, values = Loss(stage, lengths), draw(lengths)
    result = loss(values)
    wanted = torch.autograd.grad(result, values, retain_graph=True)[0]
    found = [torch.autograd.grad(result, values)[0]]
    for use_reentrant in (False, True):
        values.grad = None
        torch.autograd.backward(as_any(torch).utils.checkpoint.checkpoint(loss, values, use_reentrant=use_reentrant))
        assert values.grad is not None
        found.append(values.grad.clone())
    with torch.autograd.graph.save_on_cpu():
        result = loss(values)
    found.append(torch.autograd.grad(result, values)[0])
    found += [
        torch.autograd.grad(one(values), values)[0]
        for one in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss.stage)) and loss)
    ]
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found.append(torch.autograd.grad(loss(values), values)[0])
    finally:
        torch.set_default_dtype(torch.float32)
        as_any(torch.set_default_device)(None)
    for gradient in found:
        torch.testing.assert_close(gradient, wanted)
    with torch.inference_mode():
        torch.testing.assert_close(loss(values), loss(values.detach()))


@pytest.mark.filterwarnings("ignore")  # torch warns of tracing itself, and of each number that is read
@EVERY_STAGE
def test_a_trace_is_an_error(stage: str) -> None:
    """A trace would keep the lengths of its example."""
    lengths = LENGTHS["ragged"]
    loss, values = Loss(stage, lengths), draw(lengths).detach()
    with pytest.raises(LengthError, match="use torch.export"):
        as_any(torch.jit).trace(loss, (values,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
@pytest.mark.parametrize("name", ["mean", "sum", "attention"])
@pytest.mark.parametrize("lengths", [(2_000, 700), (2_000, 2_000), (2_000,)])
def test_long_rows_keep_their_precision(name: str, dtype: torch.dtype, lengths: tuple[int, ...]) -> None:
    """Sums over time of low precision are those of float32, within one rounding; under autocast as well."""
    seed(0)
    pool = Pool(AttentionPool(3)) if name == "attention" else Pool(name)
    values = torch.rand(len(lengths), 2_000, 3).to(dtype)
    exact = pool(States.from_padded(values.float(), torch.tensor(lengths))).values
    with torch.autocast("cpu", dtype=dtype):
        mixed = pool(States.from_padded(values, torch.tensor(lengths))).values
    ours = pool.to(dtype)(States.from_padded(values, torch.tensor(lengths))).values
    assert ours.dtype is dtype
    for found in (ours, mixed):
        torch.testing.assert_close(found.float(), exact, rtol=2e-2, atol=1e-2)


def test_a_mean_does_not_overflow_with_its_sum() -> None:
    """1,000 times 100 is more than half precision holds."""
    values = torch.full((2, 1_000, 1), 100.0, dtype=torch.half)
    assert to_list(Pool("mean")(States.from_padded(values, torch.tensor([1_000, 10]))).values) == [[100.0], [100.0]]


SCALES = [10.0**power for power in range(-3, 7)]


def test_additive_scores_lose_no_digit() -> None:
    """Small features with large weights: the score is a small tanh times a large number."""
    for inner in SCALES:
        for outer in SCALES:
            seed(4)
            attention = Additive(8, hidden_size=16)
            with torch.no_grad():
                attention.value.weight.mul_(outer)
            values = torch.randn(1, 5, 8) * inner
            ours = attention.score(values, values)
            exact = copy.deepcopy(attention).double().score(values.double(), values.double())
            inside = (
                attention.query(values).double().abs().amax().item()
                + attention.key(values).double().abs().amax().item()
            )
            bound = 4e-6 * min(1.0, inside) * attention.value.weight.abs().sum().item()
            assert (ours - exact).abs().max().item() <= bound


def test_attention_pool_at_any_scale() -> None:
    """Against float64; a softmax of large scores does not overflow."""
    for scale in SCALES:
        seed(5)
        pool, values, lengths = AttentionPool(4), torch.randn(3, 9, 4) * scale, torch.tensor([9, 4, 0])
        exact = copy.deepcopy(pool).double()(States.from_padded(values.double(), lengths))
        torch.testing.assert_close(
            pool(States.from_padded(values, lengths)).double(), exact, rtol=1e-4, atol=1e-5 * scale
        )


def test_equal_maxima_are_counted_in_low_precision() -> None:
    """Bfloat16 cannot count beyond 256: 1,000 equal maxima share the gradient all the same."""
    values = torch.zeros(2, 1_000, 1, dtype=torch.bfloat16, requires_grad=True)
    torch.autograd.backward(Pool("max")(States.from_padded(values, torch.tensor([1_000, 10]))).values.sum())
    assert values.grad is not None
    torch.testing.assert_close(values.grad[:, :10, 0].mean(1).float(), torch.tensor([1e-3, 0.1]), rtol=1e-2, atol=0)
