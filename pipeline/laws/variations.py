"""Laws about what must not matter in a call: gradient mode, memory layout, metadata, and the sizes of the part."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Final, cast

import attrs
import torch
from torch import Tensor

from pipeline.core.contexts import seeded
from pipeline.data.batches import Batch
from pipeline.data.kinds import Vectors
from pipeline.data.metadata import BatchMetadata
from pipeline.laws.law import FaultError, Law, check_equal, law
from pipeline.laws.parts import (
    AnyModule,
    PlainModule,
    add_carry,
    choose_input_size,
    draw_rows,
    list_layouts,
    make_batch,
    prepare,
    run_flat,
)
from pipeline.laws.rows import (
    batchmates_have_no_effect,
    causal_steps_do_not_look_ahead,
    padding_values_have_no_effect,
)
from pipeline.laws.weights import gradients_are_correct
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling

# Words in the names of options that are numbers of features.
_SIZE_WORDS: Final = ("size", "hidden", "features", "channels", "width")

# Sizes to try: odd ones, because halves of them differ, and powers of two, for which kernels have vectorized code.
_SIZES: Final = (1, 33, 64, 128)


@law
def gradient_mode_has_no_effect(make: Callable[[], AnyModule]) -> None:
    """Results, carry included, are the same with gradients, under `no_grad` and under `inference_mode`."""
    part = prepare(make)
    batch = add_carry(part, make_batch(draw_rows((4, 1, 6, 4, 2), choose_input_size(part)), extra=2, filling=math.nan))
    fix = "Usually a faster path for calls without gradients that treats padding, the future or the carry differently."
    for layout, each in list_layouts(part, batch).items():
        wanted = run_flat(part, each)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                found = run_flat(part, each)
            # Without NaN from the padding, which is the fault of another law.
            ours, others = ([tensor.nan_to_num() for tensor in results] for results in (found, wanted))
            check_equal(ours, others, f"under {mode.__name__}, with {layout}", fix=fix)


@law
def memory_layout_has_no_effect(make: Callable[[], AnyModule]) -> None:
    """Values and carries that are not contiguous in memory give the same results, up to rounding."""
    part = prepare(make)
    # A copy, since training may change statistics that are used in evaluation.
    in_training = deepcopy(part).train()
    row = draw_rows((4,), choose_input_size(part))[0]
    fix = "Usually view() or data_ptr() of a tensor that is assumed to be contiguous; use reshape() or contiguous()."
    batch = add_carry(part, make_batch([row, row, row]))
    carry = None if batch.initial_carry is None else tuple(map(_store_by_feature, batch.initial_carry))
    for layout, each in list_layouts(part, batch).items():
        wanted = run_flat(part, each)
        for memory, values in _list_memory_layouts(each.values):
            other = attrs.evolve(each, values=values, initial_carry=carry)
            # In training, dropout draws its numbers in the order of the memory, so results may differ there.
            run_flat(in_training, other)
            found = run_flat(part, other)
            check_equal(found, wanted, f"with {layout} whose values are {memory} in memory", fix=fix)
    if isinstance(part, Attention):
        mask = torch.ones(3, 4, 4, dtype=torch.bool)
        query, key = (_store_by_feature(each) for each in (batch.values.flip(-1), batch.values))
        wanted = list(part(batch.values.flip(-1), batch.values, mask))
        check_equal(list(part(query, key, mask)), wanted, "with queries and keys by feature in memory", fix=fix)


def _list_memory_layouts(values: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield equal tensors with other strides."""
    yield "by feature", _store_by_feature(values)
    yield "every second number", values.repeat_interleave(2, -1)[..., ::2]
    if values.ndim == 3:
        yield "by step", values.transpose(0, 1).contiguous().transpose(0, 1)
        yield "one expanded row", values[:1].expand_as(values)  # rows are equal


def _store_by_feature(tensor: Tensor) -> Tensor:
    """Return an equal tensor whose last two axes are swapped in memory."""
    return tensor.mT.contiguous().mT


@law
def metadata_has_no_effect(make: Callable[[], Encoder | Pooling]) -> None:
    """Targets, answer mask and row ids change no bit of a result, in evaluation and in training."""
    part = prepare(make)
    batch = add_carry(part, make_batch(draw_rows((4, 1, 3), choose_input_size(part)), extra=1))
    shape = batch.values.shape[:2]
    metadata = [
        BatchMetadata(torch.arange(3)),
        BatchMetadata(torch.tensor([7, 3, 5]), torch.tensor([2, 0, 1])),
        BatchMetadata(
            torch.tensor([9, 1, 4]),
            torch.arange(15).reshape(shape),
            answer_mask=batch.order.mask(batch.width),
        ),
        BatchMetadata(torch.arange(3), named_targets={"other": torch.tensor([2, 0, 1])}),
    ]
    fix = "A part must not read metadata: targets would leak into its output."
    for training, gradients in ((False, True), (False, False), (True, True)):
        part.train(training)
        for layout, each in list_layouts(part, batch).items():
            with torch.set_grad_enabled(gradients):
                first, *others = (_run_seeded(part, attrs.evolve(each, metadata=one)) for one in metadata)
            for other in others:
                check_equal(other, first, f"with other targets and row ids of {layout}", fix=fix, rounding=0)


def _run_seeded(part: AnyModule, batch: Batch[Vectors]) -> list[Tensor]:
    with seeded(1):
        return run_flat(part, batch)


@law
def other_sizes_obey(make: Callable[[], AnyModule]) -> None:
    """Parts of other sizes obey the laws about batchmates, gradients, padding and later steps.

    This needs a factory with optional sizes: `functools.partial(MyEncoder, 3, hidden_size=4)`, or a class or function
    with a default for `hidden_size`. Sizes that the factory rejects are left out.
    """
    make()
    for name, size in _list_other_sizes(make):
        resized = functools.partial(make, **{name: size})
        try:
            resized()
        except Exception:  # noqa: BLE001, S112 - a factory may reject a size, for example one that heads do not divide
            continue
        try:
            batchmates_have_no_effect(resized)
            gradients_are_correct(resized)
            if isinstance(resized(), Encoder | Pooling | PlainModule):
                padding_values_have_no_effect(cast("Callable[[], Encoder | Pooling | PlainModule]", resized))
            if isinstance(resized(), Encoder | PlainModule):
                causal_steps_do_not_look_ahead(cast("Callable[[], Encoder | PlainModule]", resized))
        except AssertionError as error:
            reason = str(error).removeprefix("law broken: ")
            msg = f"with {name}={size}, {reason}"
            raise FaultError(msg) from error
        part = prepare(resized)
        if isinstance(part, Encoder):
            shape = tuple(part(make_batch(draw_rows((3, 2), part.input_size))).final.shape)
            if shape != (2, part.output_size):
                msg = f"with {name}={size}, output_size is {part.output_size}, but final states have shape {shape}."
                raise FaultError(msg)


def _list_other_sizes(make: Callable[..., object]) -> Iterator[tuple[str, int]]:
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return
    for name, parameter in parameters.items():
        default: object = parameter.default
        named = parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}
        if named and type(default) is int and any(word in name for word in _SIZE_WORDS):
            yield from ((name, size) for size in _SIZES)


VARIATION_LAWS: Final[tuple[Law[AnyModule], ...]] = (
    gradient_mode_has_no_effect,
    memory_layout_has_no_effect,
    other_sizes_obey,
)
"""The laws of this file that hold for parts of every kind: attentions and plain modules get no metadata."""
