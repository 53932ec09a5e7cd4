"""The batch and the weights of a point, and its candidates: ours, and torch's packed and dense kernels."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Final, Self, cast

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from bench.encoders.by_hand import run_packed
from bench.encoders.points import Point, draw_lengths
from bench.timing import Step, make_step
from pipeline import Chain, Encode, MaybeCausal, Pack, Padded, States, Vectors
from pipeline.extend import Precision
from pipeline_recurrent import GRU, LSTM, EngineName


@attrs.frozen(eq=False)
class Problem:
    """A padded batch, as a loader returns it, and the weights of a stack of layers.

    Attributes:
        point: the point that is measured.
        values: the batch; the padding is zero.
        lengths: the lengths of the rows.
        weights: a module of torch, whose weights all candidates load.
    """

    point: Point
    values: Float[Tensor, "batch time feature"]
    lengths: Int64[Tensor, " batch"]
    weights: nn.LSTM | nn.GRU

    @classmethod
    def of(cls, point: Point) -> Self:
        """Make the problem of a point, with the same numbers at every call."""
        lengths = draw_lengths(point.lengths, point.rows)
        generator = torch.Generator().manual_seed(1)
        values = torch.randn(point.rows, int(lengths.max()), point.features, generator=generator)
        # Zero in the padding, as `pad_sequence` leaves it.
        values.masked_fill_((torch.arange(values.shape[1]) >= lengths.unsqueeze(1)).unsqueeze(2), 0.0)
        torch.default_generator.manual_seed(2)
        return cls(point, values.requires_grad_(point.training), lengths, _make_module(point))

    @property
    def steps(self) -> int:
        """The number of real steps."""
        return int(self.lengths.sum())

    def make_step(self, forward: Callable[[Tensor], Tensor], weights: Iterable[Tensor]) -> Step:
        """Return a step that computes the states of the batch and, in training, all gradients.

        `forward` returns packed states, or padded states whose padding is zero.
        """
        return make_step(partial(forward, self.values), [self.values, *weights], training=self.point.training)

    def pack_states(self, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Pack the states in the results of a step if they are padded, so that all candidates can be compared."""
        states, *gradients = results
        if states.ndim == 2:
            return results
        return Padded(Vectors, states.clone(), self.lengths).packed().values, *gradients

    def copy_module(self) -> nn.LSTM | nn.GRU:
        """Return a new module with the same weights."""
        module = _make_module(self.point)
        module.load_state_dict(self.weights.state_dict())
        return module

    def get_direction(self, number: int, order: Sequence[int]) -> list[Tensor]:
        """Return the weights and biases of one direction of the first layer, with gates in the order of a runtime.

        Args:
            number: 0 for the forward direction, 1 for the backward direction.
            order: for each gate of the other runtime, the index of torch's gate.

        Returns:
            Input weight, recurrent weight, input bias, recurrent bias.
        """
        suffix, weights = ("", "_reverse")[number], self.weights.state_dict()
        names = (f"{name}_l0{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        return [reorder_gates(weights[name], order) for name in names]


def _make_module(point: Point) -> nn.LSTM | nn.GRU:
    kind = nn.LSTM if point.cell == "LSTM" else nn.GRU
    return kind(point.features, point.hidden, point.layers, bidirectional=point.bidirectional, batch_first=True)


def run_module(module: nn.LSTM | nn.GRU, values: Tensor) -> Tensor:
    """Return the states of a padded batch; modules of torch have no return types."""
    return cast("tuple[Tensor, object]", module(values))[0]


def reorder_gates(
    weight: Float[Tensor, "gates_hidden *rest"], order: Sequence[int]
) -> Float[Tensor, "gates_hidden *rest"]:
    """Reorder the gates along the first axis of a weight.

    Example:
        >>> reorder_gates(torch.tensor([1, 2, 3, 4, 5, 6]), [1, 0, 2]).tolist()
        [3, 4, 1, 2, 5, 6]
    """
    gates = weight.chunk(len(order))
    return torch.cat([gates[index] for index in order])


def make_packed_step(problem: Problem) -> Step:
    """Return a step of torch's packed kernel: padded batch in, padded batch out, rows in any order."""
    module = problem.copy_module()
    return problem.make_step(partial(_run_packed, problem, module), module.parameters())


def _run_packed(problem: Problem, module: nn.Module, values: Tensor) -> Tensor:
    return run_packed(module, values, problem.lengths)


def make_dense_step(problem: Problem) -> Step:
    """Run one module per layer and direction on the padded batch, and set the padding to zero at the end.

    A forward module never reads the padding, which is on the right, before a real step. A backward module gets rows
    that are reversed, each within its own length, so that the same holds for it.
    """
    point, steps = problem.point, torch.arange(problem.values.shape[1])
    real = steps < problem.lengths.unsqueeze(1)
    # Step t of a row of length n swaps places with step n - 1 - t; padding stays. Reversing twice restores the order.
    mirror = torch.where(real, problem.lengths.unsqueeze(1) - 1 - steps, steps).unsqueeze(2)
    layers = [_make_layer(problem, number) for number in range(point.layers)]

    def reverse_rows(values: Tensor) -> Tensor:
        return values.gather(1, mirror.expand(-1, -1, values.shape[2]))

    def forward(values: Tensor) -> Tensor:
        for forwards, *backwards in layers:
            states = [run_module(forwards, values)]
            states += [reverse_rows(run_module(each, reverse_rows(values))) for each in backwards]
            values = torch.cat(states, 2) if backwards else states[0]
        return values.masked_fill(~real.unsqueeze(2), 0.0)

    return problem.make_step(
        forward, [weight for layer in layers for module in layer for weight in module.parameters()]
    )


def _make_layer(problem: Problem, number: int) -> list[nn.LSTM | nn.GRU]:
    """Return the modules of one layer, one per direction."""
    point, weights = problem.point, problem.weights.state_dict()
    kind = nn.LSTM if point.cell == "LSTM" else nn.GRU
    modules: list[nn.LSTM | nn.GRU] = []
    for suffix in ("", "_reverse")[: 2 if point.bidirectional else 1]:
        own = {
            f"{name}_l0": weights[f"{name}_l{number}{suffix}"]
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        module = kind(own["weight_ih_l0"].shape[1], point.hidden, batch_first=True)
        module.load_state_dict(own)
        modules.append(module)
    return modules


def make_our_step(problem: Problem, engine: EngineName, *, native: bool) -> tuple[Step, Counter[str]]:
    """Return a step, and a counter of the engines that it has run on.

    Args:
        problem: the batch and the weights.
        engine: the engine option of the encoder.
        native: whether the native engine may be chosen; if not, it is switched off during each step.
    """
    encoder = make_encoder(problem, engine)
    step = problem.make_step(_make_forward(problem, Pack(Vectors) >> Encode(encoder)), encoder.parameters())

    # Switched off per step, not per point: candidates with and without the native engine alternate in each round.
    def run_without_native() -> tuple[Tensor, ...]:
        with disable_native():
            return step()

    return (step if native else run_without_native), encoder.engines


def make_encoder(problem: Problem, engine: EngineName = "auto") -> LSTM | GRU:
    """Return our encoder with the weights of a problem."""
    point = problem.point
    kind = LSTM if point.cell == "LSTM" else GRU
    encoder = kind(
        point.features, point.hidden, num_layers=point.layers, bidirectional=point.bidirectional, engine=engine
    )
    return encoder.load_torch(problem.weights)


def _make_forward(problem: Problem, encode: Chain[Padded[Vectors], States[MaybeCausal]]) -> Callable[[Tensor], Tensor]:
    """Return a function that runs a chain over the batch. Every call makes a new batch, as a loader does."""
    return lambda values: encode(Padded(Vectors, values, problem.lengths)).packed().values


def make_inference_step(problem: Problem, precision: Precision) -> Step:
    """Return a step of ours after `for_inference`."""
    encode = (Pack(Vectors) >> Encode(make_encoder(problem))).for_inference(precision=precision)
    return problem.make_step(_make_forward(problem, encode), [])


def make_torch_int8_step(problem: Problem) -> Step:
    """Return a step of torch's dynamic quantization of the module, over packed rows."""
    with warnings.catch_warnings():
        # It is to move to another package, and its tensors' storages are of a deprecated class.
        warnings.simplefilter("ignore")
        quantize: Callable[..., nn.Module] = attrgetter("ao.quantization.quantize_dynamic")(torch)
        module = quantize(nn.ModuleDict({"rnn": problem.copy_module()}), {type(problem.weights)}, dtype=torch.qint8)
    return problem.make_step(partial(_run_packed, problem, cast("nn.ModuleDict", module)["rnn"]), [])


_SWITCH: Final = "PIPELINE_NATIVE"


@contextmanager
def disable_native() -> Generator[None]:
    """Switch all compiled kernels off. The library reads the environment variable before every batch."""
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before
