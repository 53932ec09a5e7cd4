"""Laws about side effects: a call changes nothing but its results, and keeps nothing."""

import gc
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import attrs
import torch
from torch import Tensor

from pipeline.data.batches import Batch
from pipeline.data.kinds import Vectors
from pipeline.data.metadata import BatchMetadata
from pipeline.laws.global_state import GlobalState, read_generators, seed_generators
from pipeline.laws.law import FaultError, Law, compute_weighted_sum, law
from pipeline.laws.parts import (
    LENGTHS,
    AnyModule,
    PlainModule,
    add_carry,
    choose_input_size,
    draw_rows,
    list_layouts,
    make_batch,
    prepare,
    run_rows,
)
from pipeline.laws.pickling import measure_pickle
from pipeline.parts.encoder import Encoder


@law
def input_is_not_modified(make: Callable[[], AnyModule]) -> None:
    """The batch's values, lengths and initial carry are not modified in place."""
    part = prepare(make)
    rows = draw_rows(LENGTHS[0], choose_input_size(part))
    batch = make_batch(rows, extra=2, filling=7.0)
    if isinstance(part, Encoder) and part.stateful:
        carry = part(make_batch(rows)).carry or ()
        batch = attrs.evolve(batch, initial_carry=tuple(state.detach().clone() for state in carry))
    tensors = [batch.values, batch.lengths, *(batch.initial_carry or ())]
    before = [tensor.clone() for tensor in tensors]
    # Without gradients: with them, torch itself forbids writing into a leaf, which would hide the mistake.
    with torch.no_grad():
        run_rows(part, batch)
    names = ["values", "lengths", *(f"initial_carry[{index}]" for index in range(len(tensors) - 2))]
    for name, now, then in zip(names, tensors, before, strict=True):
        if not torch.equal(now, then):
            msg = f"{name} of the batch was modified in place; work on a copy, as masked_fill (without _) returns."
            raise FaultError(msg, argument=name)


@law
def calls_leave_nothing_behind(make: Callable[[], AnyModule]) -> None:
    """A call keeps neither its batch nor its results alive, and its state dict and its memory do not grow."""
    part = prepare(make)
    shapes = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    sizes: list[tuple[int, int]] = []
    with _ignore_old_objects():
        for number in range(12):
            part.train(number % 4 > 1)
            watched = _call_and_watch(part, seed=number, packed=number % 2 == 1)
            gc.collect()
            kept = [name for name, reference in watched if reference() is not None]
            if kept:
                msg = f"after a call, its {kept[0]} are still in memory; store no tensor of a batch in the module."
                raise FaultError(msg)
            sizes.append((len(_list_tensors()), _measure(part)))
    # Caches may be filled at the first call in each mode and layout, but not at each call.
    if any(first < second < third for first, second, third in zip(*sizes[3::4], strict=True)):
        raise FaultError(
            "each call leaves more tensors in memory, or more in the module; usually a list or a cache to which each "
            "call adds, or a stored result, which holds its graph."
        )
    with torch.no_grad():
        run_rows(part, make_batch(draw_rows((130, 2), choose_input_size(part))))
    now = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    if now != shapes:
        changed = min(set(now.items()) ^ set(shapes.items()))
        msg = (
            f"a call changes the shape of {changed[0]} in the state dict, so that a new part cannot load it; use "
            "persistent=False for a buffer that is a cache."
        )
        raise FaultError(msg)


def _measure(part: AnyModule) -> int:
    """Return the bytes of the pickled part; 0 if it cannot be pickled, which another law reports."""
    with suppress(Exception):
        return measure_pickle(part)
    return 0


@contextmanager
def _ignore_old_objects() -> Generator[None]:
    """Exclude all objects that exist now from garbage collection, which is slow if there are many."""
    already = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        yield
    finally:
        if not already:
            gc.unfreeze()


def _list_tensors() -> list[Tensor]:
    # By type: isinstance would run the code of proxies.
    return [each for each in gc.get_objects() if issubclass(type(each), Tensor)]


def _call_and_watch(part: AnyModule, *, seed: int, packed: bool) -> list[tuple[str, Callable[[], object]]]:
    """Call a part; return weak references to the tensors of the call, and to others that share their memory."""
    rows = draw_rows(LENGTHS[0], choose_input_size(part), seed=seed)
    batch = add_carry(part, make_batch(rows))
    if not isinstance(part, PlainModule):
        batch = attrs.evolve(batch, metadata=BatchMetadata(torch.arange(len(rows)), torch.arange(len(rows))))
    given = list(list_layouts(part, batch).values())[-1 if packed else 0]
    before = {id(each) for each in _list_tensors()}
    results = _call(part, given)
    watched: list[tuple[str, Tensor]] = [
        ("values", given.values),
        ("lengths", given.lengths),
        *(("initial carry", each) for each in given.initial_carry or ()),
        *(("results", each) for each in results),
    ]
    if given.metadata.targets is not None:
        watched += [("row ids", given.metadata.row_ids), ("targets", given.metadata.targets)]
    # A detached result is another tensor with the same memory.
    storages = {each.untyped_storage().data_ptr() for _, each in watched if each.numel()}
    own = {id(each) for _, each in watched} | before
    others = [
        weakref.ref(each)
        for each in _list_tensors()
        if id(each) not in own
        and each.device.type == "cpu"
        and each.layout is torch.strided
        and each.numel()
        and each.untyped_storage().data_ptr() in storages
    ]
    return [*((name, weakref.ref(each)) for name, each in watched), *(("results", each) for each in others)]


def _call(part: AnyModule, batch: Batch[Vectors]) -> list[Tensor]:
    """Return the very tensors that a part returns, not copies of their rows."""
    if isinstance(part, PlainModule):
        return [part(batch.padded().values, batch.lengths)]
    if isinstance(part, Encoder):
        states = part(batch)
        return [states.final, states.steps.values, *(states.carry or ())]
    return run_rows(part, batch)


@law
def global_state_is_preserved(make: Callable[[], AnyModule]) -> None:
    """Creating and calling a part leaves the settings and random generators of torch, NumPy and Python as they were.

    Random numbers may be drawn for weights, and in training; but the generators are never seeded.
    """
    before = GlobalState.read()
    part = prepare(make)
    _check_state(before, "creating the part")
    batches = list_layouts(part, make_batch(draw_rows((4, 1, 3), choose_input_size(part)))).values()

    def evaluate() -> None:
        for batch in batches:
            for mode in (torch.enable_grad, torch.no_grad):
                with mode():
                    run_rows(part.eval(), batch)
                _check_state(before, "a call")

    def train() -> None:
        for batch in batches:
            values = batch.values.detach().requires_grad_()
            total = compute_weighted_sum(run_rows(part.train(), attrs.evolve(batch, values=values)))
            _check_state(before, "a call in training")
            if total.requires_grad:
                torch.autograd.backward([total])
                _check_state(before, "a backward pass")

    generators = read_generators()
    evaluate()
    changed = [name for name, state in read_generators().items() if state != generators[name]]
    if changed:
        msg = (
            f"a call in evaluation changes the random generator of {changed[0]}; draw random numbers in training only."
        )
        raise FaultError(msg)
    _check_not_seeded(make, "creating the part")
    _check_not_seeded(train, "a call in training")


def _check_not_seeded(action: Callable[[], object], name: str) -> None:
    """Reject an action after which a generator has the same state, whatever its state was before."""
    ends: list[Mapping[str, object]] = []
    for seed in (1, 2):
        seed_generators(seed)
        action()
        ends.append(read_generators())
    seeded_by_it = [generator for generator in ends[0] if ends[0][generator] == ends[1][generator]]
    if seeded_by_it:
        msg = (
            f"{name} seeds the random generator of {seeded_by_it[0]}, which changes the random numbers of the whole "
            "program; use a torch.Generator of its own."
        )
        raise FaultError(msg)


def _check_state(before: GlobalState, action: str) -> None:
    changed = before.list_changes()
    if changed:
        msg = f"{action} changes {changed[0]} for the whole program; restore it in a finally block."
        raise FaultError(msg, changed=changed)


SIDE_EFFECT_LAWS: Final[tuple[Law[AnyModule], ...]] = (
    input_is_not_modified,
    global_state_is_preserved,
    calls_leave_nothing_behind,
)
"""The laws of this file."""
