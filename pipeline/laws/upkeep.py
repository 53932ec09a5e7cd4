"""The laws of modules: gradients, dtypes, devices, weights that load, copies, seeds and modes."""

import copy
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from pipeline.data.batches import Padded
from pipeline.data.rows import Vectors
from pipeline.laws.compare import same, weighed
from pipeline.laws.copies import repickled
from pipeline.laws.law import FaultError, Law, drawing_from, law
from pipeline.laws.run import PlainModule, T, Tried, prepared, results, size_of
from pipeline.laws.samples import drawn, padded

_SINGLE: Final = 1e-3
"""By how much a float32 result may differ from that in float64."""

_HELD: Final = (
    "Usually a tensor that is no nn.Parameter, buffer or part of a submodule, so that nn.Module cannot see it."
)


def _batch(part: Tried) -> Padded[Vectors]:
    return padded(drawn((4, 1, 3), size_of(part)), extra=1)


@law
def gradients_are_right(make: Callable[[], Tried]) -> None:
    """Gradients of inputs and weights are those that finite differences give."""
    part = prepared(make)
    batch = padded(drawn((3, 1, 2), size_of(part)), extra=1)
    weights = [weight for weight in part.parameters() if weight.requires_grad]

    # The weights are perturbed in place: what is handed in is what the part holds.
    def outcome(values: Tensor, *_: Tensor) -> Tensor:
        return torch.cat([result.flatten() for result in results(part, Padded(Vectors, values, batch.lengths))])

    differentiate(outcome, (batch.values, *weights), "values and weights")


def differentiate(outcome: Callable[..., Tensor], inputs: Sequence[Tensor], of: str) -> None:
    """Make sure that gradients of what floats there are among the inputs are those of finite differences.

    Raises:
        FaultError: if they are not.
    """
    floats = [tensor.requires_grad_(tensor.is_floating_point()) for tensor in inputs]
    try:
        torch.autograd.gradcheck(outcome, floats, fast_mode=True)
    except GradcheckError as error:
        found = " ".join(str(error).split())[:300]
        msg = (
            f"finite differences of {of} disagree with their gradients; usually a detach(), .data, no_grad() or a "
            f"constant made of a tensor's numbers, or the backward of a function of one's own: {found}"
        )
        raise FaultError(msg) from error


@law
def results_have_the_dtype_of_the_part(make: Callable[[], Tried]) -> None:
    """Moved to float32 and back, a part gives that dtype, and the same numbers as far as float32 has them."""
    part = prepared(make)
    batch = _batch(part)
    wanted = results(part, batch)
    for dtype, rounding in ((torch.float32, _SINGLE), (torch.float64, _SINGLE)):
        part.to(dtype)
        found = results(part, Padded(Vectors, batch.values.to(dtype), batch.lengths))
        wrong = next((result.dtype for result in found if result.dtype is not dtype), None)
        if wrong is not None:
            msg = (
                f"moved by .to({dtype}) and given {dtype} it gives {wrong}; make tensors inside by "
                "values.new_zeros(...) or with dtype=values.dtype, and register those that it keeps."
            )
            raise FaultError(msg, dtype=wrong)
        same([result.double() for result in found], wanted, f"in {dtype}", remedy=_HELD, rounding=rounding)


@law
def results_are_on_the_device_of_the_part(make: Callable[[], Tried]) -> None:
    """Moved to another device, a part works there: on `meta`, where tensors have shapes alone, and on a GPU if any.

    What gives shapes on `meta` reads no number back from its device, and so never makes a GPU wait. A module of one's
    own need not go so far: torch's `pad_packed_sequence` does not.
    """
    part = prepared(make)
    batch = _batch(part)
    wanted = results(part, batch)
    remedy = "Make tensors inside on device=values.device, and read no number back from them: lengths are on the CPU."
    if torch.cuda.is_available():
        found = results(part.to("cuda"), batch.to("cuda"))
        _check_device(found, "cuda", remedy)
        same([result.cpu() for result in found], wanted, "on cuda", remedy=remedy, rounding=1e-8)
    if isinstance(part, PlainModule):
        return
    found = results(part.to("meta"), batch.to("meta"))
    _check_device(found, "meta", remedy)
    shapes, right = ([tuple(result.shape) for result in each] for each in (found, wanted))
    if shapes != right:
        msg = f"on meta, results have shapes {shapes}, but on the CPU {right}. {remedy}"
        raise FaultError(msg)


def _check_device(found: list[Tensor], device: str, remedy: str) -> None:
    for index, result in enumerate(found):
        if result.device.type != device:
            msg = f"moved to {device} and given a batch there, it gives result {index} on {result.device}. {remedy}"
            raise FaultError(msg, device=str(result.device))


@law
def weights_load_into_another(make: Callable[[], Tried]) -> None:
    """Two parts are equal once one has loaded the other's state-dict, strictly."""
    one, other = _seeded(make, 1), _seeded(make, 2)
    other.load_state_dict(one.state_dict(), strict=True)
    batch = _batch(one)
    of = "a part that loaded the state-dict of another"
    same(results(other, batch), results(one, batch), of, remedy=_HELD, rounding=0)


@law
def a_deep_copy_is_equal(make: Callable[[], Tried]) -> None:
    """A deep copy gives the same results, and shares no weight with what it was made of."""
    part = prepared(make)
    _check_copy(part, copy.deepcopy(part), "a deep copy")


@law
def a_pickled_part_is_equal(make: Callable[[], Tried]) -> None:
    """Pickled and read back, a part gives the same results. Its own class need not have a name to import."""
    part = prepared(make)
    try:
        again = repickled(part)
    except Exception as error:
        said = " ".join(str(error).split())
        msg = (
            f"it cannot be pickled and read back ({type(error).__name__}: {said}); usually a lambda, a generator or an "
            "open file among its attributes: use a method, or functools.partial of a function of a module."
        )
        raise FaultError(msg) from error
    _check_copy(part, again, "a pickled part, read back")


def _check_copy(part: T, again: T, of: str) -> None:
    batch = _batch(part)
    wanted = results(part, batch)
    same(results(again, batch), wanted, of, rounding=0)
    with torch.no_grad():
        for weight in again.parameters():
            weight.add_(1)
    same(results(part, batch), wanted, f"a part, after the weights of {of} changed", remedy=_HELD, rounding=0)


@law
def one_seed_makes_equal_parts(make: Callable[[], Tried]) -> None:
    """Two parts that are made after torch was seeded alike are equal, bit by bit; and they are two."""
    one, other = _seeded(make, 1), _seeded(make, 1)
    if one is other:
        raise FaultError("the factory gave the same part twice; make a new one at every call.")
    batch = _batch(one)
    remedy = "Draw weights from torch's own generator, as nn.init does, and from nothing else."
    same(results(other, batch), results(one, batch), "two parts of one seed", remedy=remedy, rounding=0)


@law
def evaluation_is_deterministic(make: Callable[[], Tried]) -> None:
    """In evaluation, two calls on one batch give the same, bit by bit."""
    part = prepared(make)
    batch = _batch(part)
    remedy = "Usually dropout that does not look at self.training, or a state that is kept from call to call."
    same(results(part, batch), results(part, batch), "a second call", remedy=remedy, rounding=0)


@law
def training_differs_by_chance_alone(make: Callable[[], Tried]) -> None:
    """A part that draws nothing in training, as dropout does, gives there what it gives in evaluation, up to rounding.

    And a pass in training, with gradients, changes no bit of what evaluation gives after it.
    """
    part = prepared(make)
    batch = _batch(part)
    wanted = results(part, batch)
    part.train()
    drawn_from_seeds = [_in_training(part, batch, seed) for seed in (1, 2)]
    chance = any(not torch.equal(one, two) for one, two in zip(*drawn_from_seeds, strict=True))
    remedy = "Usually normalisation over the batch, as nn.BatchNorm1d's: nn.LayerNorm looks at one step alone."
    if not chance:
        same(drawn_from_seeds[0], wanted, "in training, though nothing is drawn", remedy=remedy)
    same(results(part.eval(), batch), wanted, "in evaluation, after a pass in training", remedy=remedy, rounding=0)


def _in_training(part: Tried, batch: Padded[Vectors], seed: int) -> list[Tensor]:
    with drawing_from(seed):
        found = results(part, Padded(Vectors, batch.values.detach().requires_grad_(), batch.lengths))
    total = weighed(found)
    if total.requires_grad:
        torch.autograd.backward([total])
        part.zero_grad()
    return [result.detach() for result in found]


def _seeded(make: Callable[[], T], seed: int) -> T:
    with drawing_from(seed):
        return prepared(make)


UPKEEP: tuple[Law[Tried], ...] = (
    gradients_are_right,
    training_differs_by_chance_alone,
    one_seed_makes_equal_parts,
    weights_load_into_another,
    a_deep_copy_is_equal,
    a_pickled_part_is_equal,
    results_have_the_dtype_of_the_part,
    results_are_on_the_device_of_the_part,
)
"""The laws of modules that parts of every kind obey, but for `evaluation_is_deterministic`, which is told first."""
