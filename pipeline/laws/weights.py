"""Laws about the weights of an `nn.Module`: gradients, saving, copies, seeds and devices."""

import copy
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from pipeline.core.contexts import seeded
from pipeline.data.batches import Batch, Padded
from pipeline.data.kinds import Vectors
from pipeline.laws.law import UNREGISTERED, FaultError, Law, check_equal, compute_weighted_sum, law
from pipeline.laws.parts import (
    LENGTHS,
    AnyModule,
    M,
    PlainModule,
    add_carry,
    allows_empty_rows,
    choose_input_size,
    draw_rows,
    list_layouts,
    make_batch,
    prepare,
    run_all,
    run_flat,
    run_rows,
)
from pipeline.laws.pickling import pickle_and_unpickle
from pipeline.text import format_error, to_one_line


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
        found = run_all(part, Padded(Vectors, values, batch.lengths))
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
def every_weight_is_used(make: Callable[[], AnyModule]) -> None:
    """Each parameter that requires a gradient influences a result in training, and gets zeros from empty rows only."""
    part = prepare(make).train()
    batch = add_carry(part, make_batch(draw_rows(LENGTHS[0], choose_input_size(part))))
    unused = _find_unused(part, batch)
    if unused:
        msg = (
            f"parameter {unused[0]} influences no result; use it, delete it, or set requires_grad=False. Distributed "
            "training waits for the gradient of every parameter."
        )
        raise FaultError(msg, unused=unused)
    if not allows_empty_rows(part):
        return
    nothing = make_batch(draw_rows((0, 0), choose_input_size(part)))
    for name, layout in list_layouts(part, nothing).items():
        try:
            unused = _find_unused(part, layout)
        except Exception as error:
            msg = (
                f"{name} of empty rows only, without any step, raised {format_error(error, 300)}; rows may be empty, "
                "so compute such a batch too, unless empty_rows = False is declared."
            )
            raise FaultError(msg) from error
        if unused:
            msg = (
                f"in {name} of empty rows, parameter {unused[0]} gets no gradient; compute as for other rows, also "
                "without any step, so that it gets zeros. Distributed training waits for every parameter's gradient."
            )
            raise FaultError(msg, unused=unused)


def _find_unused(part: AnyModule, batch: Batch[Vectors]) -> list[str]:
    """Return the names of the trained parameters that no result depends on."""
    weights = {name: weight for name, weight in part.named_parameters() if weight.requires_grad}
    total = compute_weighted_sum(run_flat(part, batch)) if weights else torch.zeros(())
    if not total.requires_grad:
        return list(weights)
    slopes: list[Tensor | None] = [*torch.autograd.grad(total, list(weights.values()), allow_unused=True)]
    return [name for name, slope in zip(weights, slopes, strict=True) if slope is None]


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
        # A GPU adds up in another order, and computes exp and tanh by other formulas: two digits more than ROUNDING.
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
    # A call first: what a part computes from its weights must not be stored, or it would be used after loading.
    _call_in_both_modes(target)
    target.load_state_dict(source.state_dict(), strict=True)
    batch = _make_batch_for(source)
    condition = "after loading the state dict of another part"
    check_equal(run_rows(target, batch), run_rows(source, batch), condition, fix=UNREGISTERED, rounding=0)


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
    check_equal(run_rows(part, batch), wanted, condition, fix=UNREGISTERED, rounding=0)


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


def _make_seeded(make: Callable[[], M], seed: int) -> M:
    with seeded(seed):
        return prepare(make)


WEIGHT_LAWS: Final[tuple[Law[AnyModule], ...]] = (
    gradients_are_correct,
    every_weight_is_used,
    same_seed_makes_equal_parts,
    state_dict_restores_results,
    deep_copy_is_equal,
    pickled_copy_is_equal,
    output_device_follows_part,
)
"""The laws of this file, except `evaluation_is_deterministic`.

That one comes earlier in each list: if results differ from call to call, every comparison of other laws fails too."""
