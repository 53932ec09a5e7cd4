"""Laws about training mode: it differs from evaluation by dropout only, and dropout is scaled and independent."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from pipeline.core.contexts import seeded
from pipeline.data.batches import Batch, Padded
from pipeline.data.kinds import Vectors
from pipeline.laws.law import FaultError, Law, check_equal, compute_gradients, compute_weighted_sum, law
from pipeline.laws.parts import (
    LENGTHS,
    AnyModule,
    PlainModule,
    add_carry,
    allows_empty_rows,
    choose_input_size,
    draw_rows,
    list_layouts,
    make_batch,
    prepare,
    run_flat,
    run_rows,
)
from pipeline.laws.rows import WIDTH, redraw_steps
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder

_BATCH_STATISTICS: Final = (
    "Usually normalization over the batch, as in nn.BatchNorm1d; nn.LayerNorm uses each step by itself."
)

# Rows of the batch in which random numbers are compared, and the number of such batches whose mean is taken.
_ROWS: Final = 64
_SEEDS: Final = 8


@law
def training_without_randomness_equals_evaluation(make: Callable[[], AnyModule]) -> None:
    """Without dropout, training gives the results and gradients of evaluation, up to rounding.

    torch's own dropout is switched off for this law; a part that draws other random numbers is not compared. And a
    training pass with gradients changes no bit of a later evaluation.
    """
    part = prepare(make)
    batches = _make_batches(part)
    with _WithoutDropout():
        if not _is_random(part.train(), batches[0]):
            for batch in batches:
                for layout, each in list_layouts(part, batch).items():
                    wanted, found = (_run_with_gradients(part.train(training), each) for training in (False, True))
                    condition = f"in training, without dropout, with {layout} (results, then gradients)"
                    check_equal(found, wanted, condition, fix=_BATCH_STATISTICS)
    wanted = run_rows(part.eval(), batches[0])
    for seed in (1, 2):
        _train(part.train(), batches[0], seed)
    condition = "in evaluation, after a training pass"
    check_equal(run_rows(part.eval(), batches[0]), wanted, condition, fix=_BATCH_STATISTICS, rounding=0)


def _make_batches(part: AnyModule) -> list[Padded[Vectors]]:
    """Return batches with padding, of rows of one length, and with empty rows if the part allows them."""
    shortest = 0 if allows_empty_rows(part) else 1
    rows = [draw_rows(lengths, choose_input_size(part)) for lengths in ((4, shortest, 1, 3, shortest), *LENGTHS[-2:])]
    return [add_carry(part, make_batch(each, extra=extra)) for each, extra in zip(rows, (2, 0, 1), strict=True)]


def _run_with_gradients(part: AnyModule, batch: Batch[Vectors]) -> list[Tensor]:
    found = run_flat(part, batch)
    return [*found, *compute_gradients(found, list(part.parameters()))]


def _train(part: AnyModule, batch: Padded[Vectors], seed: int) -> None:
    found = _run_seeded(part, Padded(Vectors, batch.values.detach().requires_grad_(), batch.lengths), seed)
    total = compute_weighted_sum(found)
    if total.requires_grad:
        torch.autograd.backward([total])
        part.zero_grad()


@law
def training_obeys_laws_of_rows(make: Callable[[], AnyModule]) -> None:
    """In training, with the same random numbers, padding, batchmates and (if causal) later steps have no effect.

    Whether the amount of padding has one is seen without dropout, whose random numbers depend on the width.
    """
    part = prepare(make).train()
    rows = draw_rows(LENGTHS[0], choose_input_size(part))
    batch = make_batch(rows, extra=2)
    # All batches have one shape, so that every call draws the same random numbers for the same places.
    first = _run_seeded(part, batch, 1)
    if not isinstance(part, Attention):
        _check_padding_in_training(part, batch, first)
        _check_width_in_training(part, rows)
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


def _check_width_in_training(part: AnyModule, rows: Sequence[Tensor]) -> None:
    with _WithoutDropout():
        narrow, wide = (make_batch(rows, extra=extra) for extra in (0, 3))
        # What draws random numbers in another way draws others for another width.
        if not _is_random(part, narrow):
            found, wanted = (_run_seeded(part, batch, 1) for batch in (wide, narrow))
            check_equal(found, wanted, "in training, with 3 more columns of padding", fix=WIDTH)


@law
def dropout_is_scaled_and_independent(make: Callable[[], AnyModule]) -> None:
    """Random numbers in training differ from row to row, and leave the mean of the results as it is in evaluation."""
    part = prepare(make)
    batch = make_batch(draw_rows((6,), choose_input_size(part)) * _ROWS)
    wanted = run_rows(part, batch)
    part.train()
    if not _is_random(part, batch):
        return
    _check_rows_differ(torch.stack(_run_seeded(part, batch, 1)))
    with _WithoutDropout():
        draws_itself = _is_random(part, batch)
    if draws_itself:
        _check_scale(part, batch, wanted)


def _check_rows_differ(found: Tensor) -> None:
    """Reject equal random numbers for all rows, for neighboring rows, and for every n-th row."""
    for size in (2, 8, 32, _ROWS):
        groups = found.reshape(_ROWS // size, size, -1)
        within = torch.equal(groups, groups[:, :1].expand_as(groups))
        across = size < _ROWS and torch.equal(groups, groups[:1].expand_as(groups))
        if within or across:
            raise FaultError(
                "in training, equal rows of a batch get equal random numbers; draw a mask of the batch's full shape."
            )


def _check_scale(part: AnyModule, batch: Padded[Vectors], wanted: Sequence[Tensor]) -> None:
    fix = "divide by 1 - p what dropout keeps, as nn.functional.dropout does."
    # A mask such as rand() > p or rand() < 1 - p keeps all for one of these numbers. A scaled result then differs from
    # evaluation, by the factor 1 / (1 - p).
    for number in (0.0, 1 - 1e-6):
        with _ConstantRandomness(number):
            found = run_rows(part, batch)
        if all(torch.allclose(one, other, rtol=1e-9, atol=1e-12) for one, other in zip(found, wanted, strict=True)):
            msg = f"in training, results in which dropout keeps everything equal those of evaluation; {fix}"
            raise FaultError(msg)
    # Without scale, the mean of the results changes by sqrt(p / (1 - p)) of their standard deviation: by all of it for
    # p = 0.5. A correct nonlinear part changes it a little, and the mean of 512 samples is off by 4% of it.
    with torch.no_grad():
        samples = torch.cat([torch.stack(_run_seeded(part, batch, seed)) for seed in range(_SEEDS)])
    gap = (samples.mean(0) - wanted[0]).square().mean().sqrt()
    spread = samples.var(0).mean().sqrt()
    if bool(gap > spread / 3):
        msg = (
            f"in training, the mean result differs from evaluation by {float(gap / spread):.2g} standard deviations; "
            f"{fix}"
        )
        raise FaultError(msg)


def _run_seeded(part: AnyModule, batch: Batch[Vectors], seed: int) -> list[Tensor]:
    with seeded(seed):
        return run_rows(part, batch)


def _is_random(part: AnyModule, batch: Batch[Vectors]) -> bool:
    """Return whether two seeds give two results."""
    first, second = (_run_seeded(part, batch, seed) for seed in (1, 2))
    # NaN equals nothing, and is no random number.
    return any(not torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(first, second, strict=True))


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


class _ConstantRandomness(TorchFunctionMode):
    """Make torch's uniform random numbers constant, and let Bernoulli draws keep everything."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self._number = number

    @override
    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        if isinstance(result, Tensor) and name in {"rand", "rand_like", "uniform_"}:
            return result.fill_(self._number)
        return result.fill_(1) if isinstance(result, Tensor) and "bernoulli" in name else result


TRAINING_LAWS: Final[tuple[Law[AnyModule], ...]] = (
    training_without_randomness_equals_evaluation,
    training_obeys_laws_of_rows,
    dropout_is_scaled_and_independent,
)
"""The laws of this file."""
