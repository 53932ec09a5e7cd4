"""Laws about any `nn.Module`: gradients, dtypes, devices, weights, copies, seeds and modes.

`NN_MODULE_LAWS` hold for parts of every kind. `MODULE_LAWS` are all laws of modules that do not use this library.
"""

import copy
import io
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError
from typing_extensions import override

from pipeline.core.contexts import seeded
from pipeline.data.batches import Padded
from pipeline.data.kinds import Vectors
from pipeline.laws.conditions import CONDITION_LAWS
from pipeline.laws.graphs import GRAPH_LAWS
from pipeline.laws.law import FaultError, Law, check_equal, check_laws, compute_weighted_sum, law, reject_instance
from pipeline.laws.parts import (
    AnyModule,
    M,
    PlainModule,
    choose_input_size,
    draw_rows,
    make_batch,
    prepare,
    run_rows,
    run_with_carry,
)
from pipeline.laws.rows import (
    ROW_LAWS,
    causal_steps_do_not_look_ahead,
    no_gradient_reaches_padding,
    padding_values_have_no_effect,
)
from pipeline.text import format_error, to_one_line

V = TypeVar("V")

# Allowed relative difference between float32 and float64 results. float32 has 7 digits; recurrences lose a few.
_FLOAT32: Final = 1e-3

_UNREGISTERED: Final = (
    "Usually a tensor that is not a nn.Parameter, a buffer or part of a submodule, so that nn.Module cannot see it."
)


def _make_batch_for(part: AnyModule) -> Padded[Vectors]:
    return make_batch(draw_rows((4, 1, 3), choose_input_size(part)), extra=1)


@law
def gradients_are_correct(make: Callable[[], AnyModule]) -> None:
    """Gradients of inputs and weights equal finite differences."""
    part = prepare(make)
    batch = make_batch(draw_rows((3, 1, 2), choose_input_size(part)), extra=1)
    weights = [weight for weight in part.parameters() if weight.requires_grad]

    # gradcheck perturbs its inputs in place, so the weights that it passes are those that the part holds.
    def compute(values: Tensor, *_: Tensor) -> Tensor:
        found = run_with_carry(part, Padded(Vectors, values, batch.lengths))
        return torch.cat([tensor.flatten() for row in found for tensor in row if tensor.is_floating_point()])

    check_gradients(compute, (batch.values, *weights), "values and weights")


def check_gradients(compute: Callable[..., Tensor], inputs: Sequence[Tensor], names: str) -> None:
    """Check that the gradients of all floating-point inputs equal finite differences.

    Raises:
        FaultError: if they do not.
    """
    floats = [tensor.requires_grad_(tensor.is_floating_point()) for tensor in inputs]
    try:
        # fast_mode compares a random projection of the Jacobian instead of each entry. It takes seconds instead of
        # minutes, and a wrong gradient is in the projection almost surely.
        torch.autograd.gradcheck(compute, floats, fast_mode=True)
    except GradcheckError as error:
        msg = (
            f"the gradients of {names} differ from finite differences; usually because of detach(), .data, no_grad(), "
            "a tensor made from another tensor's numbers, or a wrong backward of a custom function: "
            f"{to_one_line(error, 300)}"
        )
        raise FaultError(msg) from error


@law
def output_dtype_follows_part(make: Callable[[], AnyModule]) -> None:
    """A part that is moved to float32 and back returns that dtype, and equal numbers up to its precision."""
    part = prepare(make)
    batch = _make_batch_for(part)
    wanted = run_rows(part, batch)
    # Back to float64 as well: a tensor that `.to` does not reach is still float64 after the first move, but has
    # mixed with float32 by then.
    for dtype in (torch.float32, torch.float64):
        part.to(dtype)
        found = run_rows(part, Padded(Vectors, batch.values.to(dtype), batch.lengths))
        wrong = next((result.dtype for result in found if result.dtype is not dtype), None)
        if wrong is not None:
            msg = (
                f"after .to({dtype}) and with {dtype} input it returns {wrong}; create tensors with "
                "values.new_zeros(...) or dtype=values.dtype, and register the ones that the module stores."
            )
            raise FaultError(msg, dtype=wrong)
        check_equal([result.double() for result in found], wanted, f"in {dtype}", fix=_UNREGISTERED, rounding=_FLOAT32)


@law
def output_device_follows_part(make: Callable[[], AnyModule]) -> None:
    """A part that is moved to another device works there: on `meta`, where tensors have no data, and on a GPU if any.

    A part that works on `meta` never reads a number from a tensor, and so never makes a GPU wait. A plain module need
    not work on `meta`: torch's own `pad_packed_sequence` does not.
    """
    part = prepare(make)
    batch = _make_batch_for(part)
    wanted = run_rows(part, batch)
    fix = "Create tensors with device=values.device, and read no number from them: lengths are on the CPU."
    if torch.cuda.is_available():
        found = run_rows(part.to("cuda"), batch.to("cuda"))
        _check_device(found, "cuda", fix)
        check_equal([result.cpu() for result in found], wanted, "on cuda", fix=fix, rounding=1e-8)
    if isinstance(part, PlainModule):
        return
    # On meta, reading a number from a tensor is an error. So this runs everywhere what would need a GPU to show.
    found = run_rows(part.to("meta"), batch.to("meta"))
    _check_device(found, "meta", fix)
    shapes, expected = ([tuple(result.shape) for result in results] for results in (found, wanted))
    if shapes != expected:
        msg = f"on meta, results have shapes {shapes}, but on the CPU {expected}. {fix}"
        raise FaultError(msg)


def _check_device(found: list[Tensor], device: str, fix: str) -> None:
    for index, result in enumerate(found):
        if result.device.type != device:
            msg = f"on {device} and with a batch there, it returns result {index} on {result.device}. {fix}"
            raise FaultError(msg, device=str(result.device))


@law
def state_dict_restores_results(make: Callable[[], AnyModule]) -> None:
    """A part that loads the state dict of another, strictly, gives bitwise the same results."""
    # Two seeds, or both parts would have equal weights before anything is loaded.
    source, target = _make_seeded(make, 1), _make_seeded(make, 2)
    target.load_state_dict(source.state_dict(), strict=True)
    batch = _make_batch_for(source)
    condition = "after loading the state dict of another part"
    check_equal(run_rows(target, batch), run_rows(source, batch), condition, fix=_UNREGISTERED, rounding=0)


@law
def deep_copy_is_equal(make: Callable[[], AnyModule]) -> None:
    """A deep copy, also after calls, gives bitwise the same results, and shares no weights with the original."""
    part = prepare(make)
    _call_in_both_modes(part)
    _check_copy(part, copy.deepcopy(part), "a deep copy")


@law
def pickled_copy_is_equal(make: Callable[[], AnyModule]) -> None:
    """A part that is pickled after calls gives bitwise the same results. Its own class need not be importable."""
    part = prepare(make)
    _call_in_both_modes(part)
    try:
        copied = pickle_and_unpickle(part)
    except Exception as error:
        msg = (
            f"it cannot be pickled and unpickled ({format_error(error, 300)}); usually a lambda, a "
            "generator or an open file among its attributes: use a method, or functools.partial of a function."
        )
        raise FaultError(msg) from error
    _check_copy(part, copied, "an unpickled copy")


def _call_in_both_modes(part: AnyModule) -> None:
    """Call a part, so that it has stored whatever it stores. A tensor with a graph, for example, cannot be copied."""
    for training in (True, False):
        run_rows(part.train(training), _make_batch_for(part))


def _check_copy(part: M, copied: M, which: str) -> None:
    batch = _make_batch_for(part)
    wanted = run_rows(part, batch)
    check_equal(run_rows(copied, batch), wanted, which, rounding=0)
    with torch.no_grad():
        # In place: a weight that the copy shares changes the results of the original.
        for weight in copied.parameters():
            weight.add_(1)
    condition = f"the original, after the weights of {which} changed"
    check_equal(run_rows(part, batch), wanted, condition, fix=_UNREGISTERED, rounding=0)


@law
def same_seed_makes_equal_parts(make: Callable[[], AnyModule]) -> None:
    """Two parts that are created after the same `torch.manual_seed` are bitwise equal, and are two objects."""
    first, second = _make_seeded(make, 1), _make_seeded(make, 1)
    if first is second:
        raise FaultError("the factory returned the same object twice; create a new part at every call.")
    batch = _make_batch_for(first)
    fix = "Draw weights only from torch's default generator, as nn.init does."
    check_equal(run_rows(second, batch), run_rows(first, batch), "two parts of one seed", fix=fix, rounding=0)


@law
def evaluation_is_deterministic(make: Callable[[], AnyModule]) -> None:
    """In evaluation mode, two calls with one batch give bitwise the same results."""
    part = prepare(make)
    batch = _make_batch_for(part)
    fix = "Usually dropout that ignores self.training, or state that is kept from call to call."
    check_equal(run_rows(part, batch), run_rows(part, batch), "a second call", fix=fix, rounding=0)


@law
def training_without_randomness_equals_evaluation(make: Callable[[], AnyModule]) -> None:
    """A part that draws no random numbers in training gives the same results as in evaluation, up to rounding.

    And a training pass with gradients changes no bit of a later evaluation.
    """
    part = prepare(make)
    batch = _make_batch_for(part)
    wanted = run_rows(part, batch)
    part.train()
    first, second = (_run_training(part, batch, seed) for seed in (1, 2))
    # Different results for two seeds show that the part draws random numbers. Then there is nothing to compare.
    is_random = any(not torch.equal(one, other) for one, other in zip(first, second, strict=True))
    fix = "Usually normalization over the batch, as in nn.BatchNorm1d; nn.LayerNorm uses each step by itself."
    if not is_random:
        check_equal(first, wanted, "in training, without random numbers", fix=fix)
    check_equal(run_rows(part.eval(), batch), wanted, "in evaluation, after a training pass", fix=fix, rounding=0)


def _run_training(part: AnyModule, batch: Padded[Vectors], seed: int) -> list[Tensor]:
    with seeded(seed):
        found = run_rows(part, Padded(Vectors, batch.values.detach().requires_grad_(), batch.lengths))
    total = compute_weighted_sum(found)
    if total.requires_grad:
        torch.autograd.backward([total])
        part.zero_grad()
    return [result.detach() for result in found]


def _make_seeded(make: Callable[[], M], seed: int) -> M:
    with seeded(seed):
        return prepare(make)


def pickle_and_unpickle(value: V) -> V:
    """Return a copy of an object, made by pickling it.

    pickle stores a class as its name, and so rejects a class that is defined in a test function. That would say
    nothing about the object, so such classes are kept outside the pickled bytes.

    Example:
        >>> pickle_and_unpickle({"a": (1, 2)})
        {'a': (1, 2)}
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    file.seek(0)
    unpickler = _Unpickler(file)
    unpickler.classes = pickler.classes
    copied: V = unpickler.load()
    return copied


class _Pickler(pickle.Pickler):
    """Pickle a class that cannot be imported as its index in `classes`, by means of pickle's persistent ids."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.classes: list[type] = []

    @override
    def persistent_id(self, obj: object) -> int | None:
        if not isinstance(obj, type) or _is_importable(obj):
            return None
        if obj not in self.classes:
            self.classes.append(obj)
        return self.classes.index(obj)


class _Unpickler(pickle.Unpickler):
    """Look up the classes that `_Pickler` left out."""

    classes: list[type]

    @override
    def persistent_load(self, pid: int) -> type:
        return self.classes[pid]


def _is_importable(kind: type) -> bool:
    # As pickle finds it: module, then each part of the qualified name. A function contains "<locals>", which fails.
    found: object = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


NN_MODULE_LAWS: tuple[Law[AnyModule], ...] = (
    gradients_are_correct,
    training_without_randomness_equals_evaluation,
    same_seed_makes_equal_parts,
    state_dict_restores_results,
    deep_copy_is_equal,
    pickled_copy_is_equal,
    output_dtype_follows_part,
    output_device_follows_part,
)
"""The laws of this file that hold for parts of every kind, except `evaluation_is_deterministic`.

That one comes earlier in each list: if results differ from call to call, every comparison of other laws fails too."""

MODULE_LAWS: Final[tuple[Law[PlainModule], ...]] = (
    evaluation_is_deterministic,
    padding_values_have_no_effect,
    no_gradient_reaches_padding,
    *ROW_LAWS,
    causal_steps_do_not_look_ahead,
    *CONDITION_LAWS,
    *NN_MODULE_LAWS,
    *GRAPH_LAWS,
)
"""Every law of a plain module, the quick ones first. They take the module inside a `PlainModule`."""


def check_module(
    make: Callable[[], nn.Module],
    *,
    input_size: int,
    each: Literal["step", "row"] | None = None,
    causal: bool = False,
    empty_rows: bool = True,
    exportable: bool = False,
) -> None:
    """Check modules that are called as `module(values, lengths)` against `MODULE_LAWS`.

    Values are batch x time x feature; row i has lengths[i] real steps, which come first; lengths are int64 on the CPU.
    The module may be a whole model: anything that returns a tensor that padding and batchmates must not change.

    `make` takes no arguments and creates a new module at every call. The options describe these modules, as those of
    `PlainModule` do.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
        OptionError: if `make` is a module instead of a function that creates one.

    Example:
        >>> class Mean(nn.Module):
        ...     def forward(self, values, lengths):
        ...         return values.mean(1)
        >>> check_module(Mean, input_size=3)
        Traceback (most recent call last):
        pipeline.laws.law.LawBrokenError: 9 of 32 laws of modules are broken; ...
    """
    reject_instance(make, "check_module")

    def make_part() -> PlainModule:
        return PlainModule(
            make(), input_size=input_size, each=each, causal=causal, empty_rows=empty_rows, exportable=exportable
        )

    check_laws(MODULE_LAWS, make_part, "modules", "MODULE_LAWS")
