"""Laws about the circumstances of a call: gradient mode, training, precision, sizes, long rows, and what a call leaves.

Most laws call a part on a few short rows, in evaluation and with float64. These laws vary everything else.
"""

import copy
import functools
import gc
import inspect
import math
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, cast

import attrs
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from pipeline.core.contexts import seeded
from pipeline.data.batches import Batch, Padded
from pipeline.data.kinds import Vectors
from pipeline.data.metadata import BatchMetadata
from pipeline.laws.law import (
    FaultError,
    GlobalState,
    Law,
    check_equal,
    compute_gradients,
    compute_weighted_sum,
    law,
)
from pipeline.laws.parts import (
    LENGTHS,
    AnyModule,
    PlainModule,
    add_carry,
    allows_empty_rows,
    choose_input_size,
    draw_rows,
    make_batch,
    prepare,
    run_rows,
    run_with_carry,
)
from pipeline.laws.rows import (
    batchmates_have_no_effect,
    causal_steps_do_not_look_ahead,
    padding_values_have_no_effect,
    redraw_steps,
)
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling

# Steps of the longest row. Position tables, windows and truncation often end at 512 steps or fewer.
_LONG: Final = 600

# Steps of its batchmates: longer than the rows of other laws, in no order.
_ORDINARY: Final = (14, 64, 37, 130)

# Rows of a large batch. Some kernels and mistakes work in blocks of 8 or 32 rows.
_MANY: Final = 40

# Allowed relative difference where a sum has hundreds of terms, or terms of 1,000 and more.
_COARSE: Final = 1e-7

# Allowed relative difference from float64: about 12 rounding errors, since errors of several steps add up.
_LOW_PRECISION: Final[Mapping[torch.dtype, float]] = {torch.bfloat16: 0.1, torch.float16: 0.02}

# Words in the names of options that are numbers of features.
_SIZE_WORDS: Final = ("size", "hidden", "features", "channels", "width")

# Sizes to try: an odd one, because halves of it differ, and one for which kernels use their vectorized code.
_SIZES: Final = (7, 64)


def _flatten(results: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [tensor for row in results for tensor in row]


def _run(part: AnyModule, batch: Batch[Vectors]) -> list[Tensor]:
    return _flatten(run_with_carry(part, batch))


@law
def gradient_mode_has_no_effect(make: Callable[[], AnyModule]) -> None:
    """Results, carry included, are the same with gradients, under `no_grad` and under `inference_mode`."""
    part = prepare(make)
    padded = add_carry(part, make_batch(draw_rows(LENGTHS[0], choose_input_size(part)), extra=2, filling=math.nan))
    fix = "Usually a faster path for calls without gradients that treats padding, the future or the carry differently."
    for batch in (padded, padded.packed()):
        wanted = _run(part, batch)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                found = _run(part, batch)
            # Without NaN from the padding, which is the fault of another law.
            ours, others = ([each.nan_to_num() for each in results] for results in (found, wanted))
            check_equal(ours, others, f"under {mode.__name__}", fix=fix)


@law
def memory_layout_has_no_effect(make: Callable[[], AnyModule]) -> None:
    """Values and carries that are not contiguous in memory give the same results, up to rounding."""
    part = prepare(make)
    row = draw_rows((4,), choose_input_size(part))[0]
    fix = "Usually view() or data_ptr() of a tensor that is assumed to be contiguous; use reshape() or contiguous()."
    batch = add_carry(part, make_batch([row, row, row]))
    wanted = _run(part, batch)
    initial = None if batch.initial_carry is None else tuple(map(_transpose_memory, batch.initial_carry))
    for name, values in (
        ("in time-major memory", _transpose_memory(batch.values)),
        ("in feature-major memory", batch.values.mT.contiguous().mT),
        ("that are one expanded row", row.expand(3, -1, -1)),
        ("that are every second number", batch.values.repeat_interleave(2, -1)[..., ::2]),
    ):
        found = _run(part, Padded(Vectors, values, batch.lengths, initial_carry=initial))
        check_equal(found, wanted, f"with values {name}", fix=fix)


def _transpose_memory(tensor: Tensor) -> Tensor:
    """Return an equal tensor whose first two axes are swapped in memory."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


@law
def metadata_has_no_effect(make: Callable[[], Encoder | Pooling]) -> None:
    """Targets, answer mask, and row ids change no bit of a result, in evaluation and in training."""
    part = prepare(make)
    batch = make_batch(draw_rows((4, 1, 3), choose_input_size(part)), extra=1)
    shape = batch.values.shape[:2]
    metadata = [
        BatchMetadata(torch.arange(3)),
        BatchMetadata(torch.tensor([7, 3, 5]), torch.tensor([2, 0, 1])),
        BatchMetadata(torch.tensor([9, 1, 4]), torch.arange(15).reshape(shape), batch.order.mask(batch.width)),
    ]
    for training in (False, True):
        part.train(training)
        found = [_run_seeded(part, attrs.evolve(batch, metadata=each), 1) for each in metadata]
        for other in found[1:]:
            fix = "A part must not read metadata: targets would leak into its output."
            check_equal(other, found[0], "with other targets and row ids", fix=fix, rounding=0)


def _run_seeded(part: AnyModule, batch: Padded[Vectors], seed: int) -> list[Tensor]:
    with seeded(seed):
        return run_rows(part, batch)


@law
def training_obeys_laws_of_rows(make: Callable[[], AnyModule]) -> None:
    """In training, with the same random numbers, padding, batchmates and (if causal) later steps have no effect."""
    part = prepare(make).train()
    rows = draw_rows(LENGTHS[0], choose_input_size(part))
    batch = make_batch(rows, extra=2)
    # All batches have one shape, so that every call draws the same random numbers for the same places.
    first = _run_seeded(part, batch, 1)
    if not isinstance(part, Attention):
        _check_padding_in_training(part, batch, first)
    for index, row in enumerate(rows):
        others = [mate if mate is row else torch.full_like(mate, math.nan) for mate in rows]
        found = _run_seeded(part, make_batch(others, extra=2), 1)
        fix = "Usually statistics over the whole batch, as in nn.BatchNorm1d, or attention across rows."
        check_equal([found[index]], [first[index]], f"in training, row {index} among rows of NaN", fix=fix)
    if isinstance(part, Encoder | PlainModule) and part.causal:
        for cut in (1, 3, 5):
            found = _run_seeded(part, make_batch(redraw_steps(rows, 2, cut, 6, cut), extra=2), 1)
            condition = f"in training, after a change of the steps from {cut} on, earlier steps"
            check_equal([found[2][:cut]], [first[2][:cut]], condition)


def _check_padding_in_training(part: AnyModule, batch: Padded[Vectors], first: Sequence[Tensor]) -> None:
    padding = ~batch.order.mask(batch.width)
    for filling in (math.nan, 1e38):
        values = batch.fill_padding(filling).values.detach().requires_grad_()
        found = _run_seeded(part, Padded(Vectors, values, batch.lengths), 1)
        check_equal(found, first, f"in training, with {filling} in the padding", rounding=0)
        (slope,) = compute_gradients(found, [values])
        if slope[padding].count_nonzero():
            msg = f"in training, with {filling} in the padding, padding gets a gradient; fill it before any use."
            raise FaultError(msg)


@law
def dropout_is_scaled_and_independent(make: Callable[[], AnyModule]) -> None:
    """Random numbers in training differ from row to row, and leave the mean of the results as it is in evaluation.

    Without the random numbers of torch's own dropout, training equals evaluation. Random numbers that a part draws
    itself may change the mean of 512 results by a third of their standard deviation: a dropout that is not scaled
    changes it by sqrt(p / (1 - p)) of it, which is 1 for p = 0.5, and a nonlinear part changes it a little.
    """
    part = prepare(make)
    batch = make_batch(draw_rows((6,), choose_input_size(part)) * 64)
    wanted = run_rows(part, batch)
    part.train()
    if not _is_random(part, batch):
        return
    found = _run_seeded(part, batch, 1)
    if all(torch.equal(each, found[0]) for each in found):
        raise FaultError(
            "in training, equal rows of a batch get equal random numbers; draw a mask of the batch's full shape."
        )
    with _WithoutDropout():
        if not _is_random(part, batch):
            found = _run_seeded(part, batch, 1)
            check_equal(found, wanted, "in training, without the random numbers of torch's dropout")
            return
    with torch.no_grad():
        samples = torch.cat([torch.stack(_run_seeded(part, batch, seed)) for seed in range(8)])
    gap = (samples.mean(0) - wanted[0]).square().mean().sqrt()
    spread = samples.var(0).mean().sqrt()
    if bool(gap > spread / 3):
        msg = (
            f"in training, the mean result differs from evaluation by {float(gap / spread):.2g} standard deviations; "
            "divide by 1 - p what dropout keeps, as nn.functional.dropout does."
        )
        raise FaultError(msg)


def _is_random(part: AnyModule, batch: Padded[Vectors]) -> bool:
    first, second = (_run_seeded(part, batch, seed) for seed in (1, 2))
    return any(not torch.equal(one, other) for one, other in zip(first, second, strict=True))


class _WithoutDropout(TorchFunctionMode):
    """Make torch's dropout functions return their input, also inside its recurrent and attention kernels."""

    @override
    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        name, options = getattr(func, "__name__", ""), dict(kwargs or {})
        if "dropout" in name and args:
            return args[0]
        if name in {"lstm", "gru", "rnn_tanh", "rnn_relu"}:
            # The only float among their arguments is the probability of dropout.
            args = tuple(0.0 if isinstance(each, float) else each for each in args)
        if name == "scaled_dot_product_attention":
            args, options = args[:4], {**options, "dropout_p": 0.0}
        return func(*args, **options)


@law
def many_and_long_rows_are_independent(make: Callable[[], AnyModule]) -> None:
    """Among 40 rows, and with up to 600 steps, a row gives the same result as alone, up to rounding."""
    part = prepare(make)
    many = [1 + (7 * index) % 10 for index in range(_MANY)]
    for lengths, chosen in (((*_ORDINARY, _LONG), range(5)), (many, (0, 8, 31, 33, _MANY - 1))):
        rows = draw_rows(lengths, choose_input_size(part))
        with torch.no_grad():
            together = run_with_carry(part, make_batch(rows, extra=1, filling=math.nan))
            for index in chosen:
                alone = run_with_carry(part, make_batch([rows[index]]))[0]
                condition = f"row {index} of {len(rows)}, with {lengths[index]} steps, among others"
                check_equal(together[index], alone, condition, rounding=_COARSE)


@law
def gradients_of_long_rows_are_correct(make: Callable[[], AnyModule]) -> None:
    """Gradients through 600 steps equal a finite difference along a random direction."""
    part = prepare(make)
    batch = make_batch(draw_rows((_LONG, 37), choose_input_size(part)))
    values = batch.values.requires_grad_()
    weights = [weight for weight in part.parameters() if weight.requires_grad]

    def compute() -> Tensor:
        return compute_weighted_sum(_run(part, Padded(Vectors, values, batch.lengths)))

    total = compute()
    if not total.requires_grad:
        raise FaultError("the results of long rows have no gradient; usually because of detach() or no_grad().")
    slopes = torch.autograd.grad(total, [values, *weights], allow_unused=True, materialize_grads=True)
    generator = torch.Generator().manual_seed(3)
    for name, inputs, own in (("values", [values], slopes[:1]), ("weights", weights, slopes[1:])):
        moves = [torch.randn(each.shape, dtype=each.dtype, generator=generator) * _STEP for each in inputs]
        expected = _move_and_compute(compute, inputs, moves, 1) - _move_and_compute(compute, inputs, moves, -1)
        found = 2 * sum(float((slope * move).sum()) for slope, move in zip(own, moves, strict=True))
        # Relative to the length of the gradient: the slope along one direction may be 0 by chance.
        size = 2 * _STEP * math.sqrt(sum(float(slope.square().sum()) for slope in own))
        if not abs(found - expected) <= 1e-3 * max(abs(expected), size):
            msg = (
                f"along a random direction, the gradient of {name} says that results change by {found:.4g}, but they "
                f"change by {expected:.4g}, in rows of {_LONG} steps; usually because states are detached every few "
                "steps."
            )
            raise FaultError(msg)


# Size of finite differences: the error of the second order is 1e-12, and that of rounding 1e-10.
_STEP: Final = 1e-6


def _move_and_compute(
    compute: Callable[[], Tensor], inputs: Sequence[Tensor], moves: Sequence[Tensor], sign: int
) -> float:
    with torch.no_grad():
        before = [each.clone() for each in inputs]
        for each, move in zip(inputs, moves, strict=True):
            each.add_(move, alpha=sign)
        found = float(compute())
        for each, old in zip(inputs, before, strict=True):
            each.copy_(old)
    return found


@law
def long_rows_are_read_like_short_ones(make: Callable[[], AnyModule]) -> None:
    """What holds for steps of short rows, holds for late steps of long ones.

    If the order of steps matters at the start of a row, it does at step 595. If the number of equal steps does not
    change a result, or multiplies it, then it does so for 600 steps too. If a change of any early step changes a pooled
    row by the same amount, so does a change of step 590.
    """
    part = prepare(make)
    size = choose_input_size(part)
    row = draw_rows((_LONG,), size)[0]

    def run(*rows: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [run_rows(part, make_batch([each]))[0] for each in rows]

    if isinstance(part, Encoder):
        (whole,) = run(row)
        early, late = (_is_order_sensitive(whole, run, row, at) for at in (2, _LONG - 5))
        if early and not late:
            msg = (
                f"two steps may be swapped at step {_LONG - 5} of {_LONG} steps, but not at step 2; usually because "
                "positions end at the length of a table."
            )
            raise FaultError(msg)
    if isinstance(part, Pooling):
        _check_late_steps(run, row)
    if isinstance(part, Encoder | Pooling):
        which = -1 if isinstance(part, Encoder) else slice(None)  # an encoder's final state is last
        _check_numbers_of_steps([run(row[:1].expand(count, -1))[0][which] for count in _EQUAL])


# Numbers of equal steps; the first three are short rows.
_EQUAL: Final = (1, 3, 5, 14, 37, 130, 600)


def _is_order_sensitive(whole: Tensor, run: Callable[..., list[Tensor]], row: Tensor, at: int) -> bool:
    """Return whether results change, other than by a swap, if the steps `at` and `at` + 3 are swapped."""
    order = torch.arange(len(row))
    order[at], order[at + 3] = at + 3, at
    (found,) = run(row[order])
    found = torch.cat([found[: len(row)][order], found[len(row) :]])
    return not torch.allclose(found, whole, rtol=0, atol=1e-9)


def _check_numbers_of_steps(results: Sequence[Tensor]) -> None:
    for rule, power in (("does not change", 0), ("multiplies", 1)):
        scaled = [result / count**power for count, result in zip(_EQUAL, results, strict=True)]
        if not all(torch.allclose(each, scaled[0], rtol=1e-9, atol=1e-12) for each in scaled[:3]):
            continue
        for count, each in zip(_EQUAL, scaled, strict=True):
            if not torch.allclose(each, scaled[0], rtol=1e-6, atol=1e-9):
                msg = (
                    f"the number of equal steps {rule} the result for 1 to 5 steps, but not for {count}; usually "
                    "because of a limit on lengths, or a division by a constant."
                )
                raise FaultError(msg)


def _check_late_steps(run: Callable[..., list[Tensor]], row: Tensor) -> None:
    # A change that is larger than all values, so that a maximum sees it too.
    spikes = [row.clone() for _ in range(5)]
    for spike, step in zip(spikes, (2, 5, 9, 12, _LONG - 10), strict=True):
        spike[step] = 30
    base, *found = run(row, *spikes)
    *early, late = (float((each - base).square().sum().sqrt()) for each in found)
    if min(early) > 0.9 * max(early) > 0 and late < 0.5 * min(early):
        msg = f"steps 2 to 12 change the result alike, but step {_LONG - 10} does not; usually because rows are cut."
        raise FaultError(msg)


@law
def large_values_are_stable(make: Callable[[], AnyModule]) -> None:
    """Values of 1,000, of one sign too, give finite results and gradients, and padding has no effect among them.

    Large values are not cut off either: results change with values of 25 and of 10,000.
    """
    part = prepare(make)
    size = choose_input_size(part)
    drawn = draw_rows((4, 1, 6, 3), size)
    for name, rows in (
        ("values of 1,000", [1_000 * row for row in drawn]),
        ("values around -1,000", [-1_000 - 50 * row.abs() for row in drawn]),
        ("values around 1,000", [1_000 + 50 * row.abs() for row in drawn]),
    ):
        together = run_rows(part, make_batch(rows, extra=2))
        _check_finite(part, make_batch(rows, extra=2), name)
        alone = [run_rows(part, make_batch([row]))[0] for row in rows]
        fix = "Usually masked positions that are filled with a number such as -10 instead of the lowest one."
        check_equal(together, alone, f"with {name}, in a padded batch instead of alone", fix=fix, rounding=_COARSE)
    _check_limits(part)
    single = part.float()
    _check_finite(single, make_batch([1_000 * row.float() for row in drawn], extra=2), "values of 1,000 in float32")


def _check_finite(part: AnyModule, batch: Padded[Vectors], name: str) -> None:
    values = batch.values.detach().requires_grad_()
    found = run_rows(part, Padded(Vectors, values, batch.lengths))
    for what, tensors in (("results", found), ("gradients", compute_gradients(found, [values, *part.parameters()]))):
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            msg = (
                f"{name} give {what} that are not finite; usually exp() of large numbers: subtract the maximum first, "
                "as softmax and logsumexp do."
            )
            raise FaultError(msg)


def _check_limits(part: AnyModule) -> None:
    if isinstance(part, PlainModule):
        return  # a plain module may cut values off on purpose
    generator = torch.Generator().manual_seed(4)
    weights = [weight.detach().clone() for weight in part.parameters()]
    for scale in (25.0, 1e4):
        with torch.no_grad():
            # Weights that are smaller by as much leave sums where no activation function is saturated.
            for weight, before in zip(part.parameters(), weights, strict=True):
                weight.copy_(before * 25 / scale)
            row = draw_rows((5,), choose_input_size(part))[0]
            row = row.sign() * scale * (1 + torch.rand(row.shape, dtype=row.dtype, generator=generator) / 5)
            other = row * (1.1 + torch.rand(row.shape, dtype=row.dtype, generator=generator) / 5)
            same = torch.equal(run_rows(part, make_batch([row]))[0], run_rows(part, make_batch([other]))[0])
            if isinstance(part, Attention):
                same = same or torch.equal(part.score(row[None], row[None]), part.score(other[None], other[None]))
            for weight, before in zip(part.parameters(), weights, strict=True):
                weight.copy_(before)
        if same:
            msg = f"results do not change when values of {scale:,.0f} grow by a tenth; usually because of clamp()."
            raise FaultError(msg)


@law
def low_precision_agrees(make: Callable[[], AnyModule]) -> None:
    """In bfloat16, in float16, and in float32 under autocast, results and gradients are finite and close to float64.

    Results have the dtype of the part; under autocast they may have either.
    """
    part = prepare(make)
    shortest = 0 if allows_empty_rows(part) else 1
    rows = draw_rows((4, shortest, 6, 1), choose_input_size(part))
    filling = 0.0 if isinstance(part, Attention) else math.nan
    batch = make_batch(rows, extra=1, filling=filling)
    wanted = run_rows(part, batch)
    for dtype, rounding in _LOW_PRECISION.items():
        found = _check_low_precision(copy.deepcopy(part).to(dtype), batch, dtype, f"in {dtype}")
        check_equal([each.double() for each in found], wanted, f"in {dtype}", rounding=rounding)
        condition = f"under autocast to {dtype}"
        with torch.autocast("cpu", dtype=dtype):
            found = _check_low_precision(copy.deepcopy(part).float(), batch, torch.float32, condition)
        check_equal([each.double() for each in found], wanted, condition, rounding=rounding)


def _check_low_precision(part: AnyModule, batch: Padded[Vectors], dtype: torch.dtype, condition: str) -> list[Tensor]:
    values = batch.values.to(dtype).requires_grad_()
    found = run_rows(part, Padded(Vectors, values, batch.lengths))
    wrong = [each.dtype for each in found if each.dtype is not dtype]
    if wrong and "autocast" not in condition:
        msg = f"{condition} and with input of that dtype it returns {wrong[0]}; create tensors with dtype=values.dtype."
        raise FaultError(msg)
    slopes = compute_gradients([each.float() for each in found], [values, *part.parameters()])
    if not all(bool(each.isfinite().all()) for each in (*found, *slopes)):
        msg = (
            f"{condition}, results or gradients are not finite; usually a mask filled with -1e9, which is infinite in "
            "float16: use torch.finfo(values.dtype).min."
        )
        raise FaultError(msg)
    return found


@law
def every_weight_is_used(make: Callable[[], AnyModule]) -> None:
    """Each parameter that requires a gradient influences a result."""
    part = prepare(make).train()
    weights = {name: weight for name, weight in part.named_parameters() if weight.requires_grad}
    if not weights:
        return
    batch = add_carry(part, make_batch(draw_rows(LENGTHS[0], choose_input_size(part))))
    total = compute_weighted_sum(_run(part, batch))
    slopes = (
        torch.autograd.grad(total, list(weights.values()), allow_unused=True)
        if total.requires_grad
        else [None] * len(weights)
    )
    unused = [name for name, slope in zip(weights, slopes, strict=True) if slope is None]
    if unused:
        msg = (
            f"parameter {unused[0]} influences no result; use it, delete it, or set requires_grad=False. Distributed "
            "training waits for the gradient of every parameter."
        )
        raise FaultError(msg, unused=unused)


@law
def calls_leave_nothing_behind(make: Callable[[], AnyModule]) -> None:
    """A call keeps neither its batch nor its results alive, and its state dict and its memory do not grow."""
    part = prepare(make)
    shapes = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    counts: list[int] = []
    with _ignore_old_objects():
        for number in range(6):
            part.train(number % 2 == 1)
            watched = _call_and_watch(part, seed=number)
            gc.collect()
            kept = [name for name, reference in watched if reference() is not None]
            if kept:
                msg = f"after a call, its {kept[0]} are still in memory; store no tensor of a batch in the module."
                raise FaultError(msg)
            counts.append(len(_list_tensors()))
    # Caches may be filled at the first call in each mode, but not at each call.
    if counts[5] > counts[3] > counts[1]:
        raise FaultError(
            "each call leaves more tensors in memory; usually a list or a cache to which each call adds, or a stored "
            "result, which holds its graph."
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


def _call_and_watch(part: AnyModule, *, seed: int) -> list[tuple[str, Callable[[], object]]]:
    """Call a part; return weak references to the tensors of the call, and whether other tensors share their memory."""
    rows = draw_rows(LENGTHS[0], choose_input_size(part), seed=seed)
    batch = add_carry(part, make_batch(rows))
    if not isinstance(part, PlainModule):
        batch = attrs.evolve(batch, metadata=BatchMetadata(torch.arange(len(rows)), torch.arange(len(rows))))
    before = {id(each) for each in _list_tensors()}
    output = part(batch.values, batch.lengths) if isinstance(part, PlainModule) else None
    states = part(batch) if isinstance(part, Encoder) else None
    results = (
        [output]
        if output is not None
        else run_rows(part, batch)
        if states is None
        else [states.final, states.steps.values]
    )
    watched: list[tuple[str, Tensor]] = [("values", batch.values), *(("results", each) for each in results)]
    if batch.metadata.targets is not None:
        watched.append(("targets", batch.metadata.targets))
    # A detached result is another tensor with the same memory.
    storages = {each.untyped_storage().data_ptr() for _, each in watched if each.numel()}
    own = (
        {id(each) for _, each in watched}
        | before
        | {id(each) for each in (batch.lengths, *(batch.initial_carry or ()))}
    )
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


@law
def global_state_is_preserved(make: Callable[[], AnyModule]) -> None:
    """Creating and calling a part leaves torch's modes, dtype, threads and random generators as they were.

    Random numbers may be drawn for weights, and in training; but the generators are never seeded.
    """
    before = GlobalState.read()
    part = prepare(make)
    batch = make_batch(draw_rows((4, 1, 3), choose_input_size(part)))
    _check_state(before, "creating the part")
    generators = before.read_generators()
    run_rows(part, batch)
    _check_state(before, "a call")
    changed = [name for name, state in before.read_generators().items() if state != generators[name]]
    if changed:
        msg = (
            f"a call in evaluation changes the random generator of {changed[0]}; draw random numbers in training only."
        )
        raise FaultError(msg)
    part.train()
    for name, action in (("creating the part", make), ("a call in training", lambda: run_rows(part, batch))):
        ends: list[Mapping[str, object]] = []
        for seed in (1, 2):
            before.seed_generators(seed)
            action()
            ends.append(before.read_generators())
        _check_state(before, name)
        seeded_by_it = [generator for generator in ends[0] if ends[0][generator] == ends[1][generator]]
        if seeded_by_it:
            msg = (
                f"{name} seeds the random generator of {seeded_by_it[0]}, which changes the random numbers of the "
                "whole program; use a torch.Generator of its own."
            )
            raise FaultError(msg)


def _check_state(before: GlobalState, action: str) -> None:
    changed = before.list_changes()
    if changed:
        msg = f"{action} changes {changed[0]} for the whole program; restore it in a finally block."
        raise FaultError(msg, changed=changed)


@law
def other_sizes_obey(make: Callable[[], AnyModule]) -> None:
    """Parts of odd sizes and of size 64 obey the laws about batchmates, padding and later steps.

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


CONDITION_LAWS: tuple[Law[AnyModule], ...] = (
    global_state_is_preserved,
    gradient_mode_has_no_effect,
    memory_layout_has_no_effect,
    every_weight_is_used,
    training_obeys_laws_of_rows,
    dropout_is_scaled_and_independent,
    large_values_are_stable,
    low_precision_agrees,
    calls_leave_nothing_behind,
    many_and_long_rows_are_independent,
    long_rows_are_read_like_short_ones,
    gradients_of_long_rows_are_correct,
    other_sizes_obey,
)
"""The laws of this file that hold for parts of every kind."""
