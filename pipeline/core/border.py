"""Checks around every stage: the types of its input and output, and, on request, that padding affects no result."""

import functools
import math
import types
from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import attrs
import torch
from beartype.door import is_bearable
from torch import Tensor, nn
from typing_extensions import TypeIs

from pipeline.checks.hints import describe, format_hint, get_classes, is_unconstrained, resolve_hints
from pipeline.checks.switches import SWITCHES
from pipeline.core.suggestions import get_type, suggest_fix
from pipeline.data.batches import Padded, is_batch
from pipeline.data.metadata import Collated, check_same_metadata
from pipeline.data.rows import is_row
from pipeline.data.states import MaybeCausal, States
from pipeline.errors import CompositionError, PaddingLeakError, PipelineError, ShapeError, StageError

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

PADDING_ID: Final = -(2**62)
"""The id that the padding check writes into the padding of ids: no table has it, so using it raises an error."""


class _Side:
    """The input or the output of a stage, with the values that its annotation accepts."""

    def __init__(self, hint: object) -> None:
        self.hint: Final = hint
        # None if only beartype can decide. `isinstance` takes a tenth of its time, and suffices for most stages.
        self.classes: Final = (object,) if is_unconstrained(hint) else get_classes(hint)

    def accepts(self, value: object) -> bool:
        return isinstance(value, self.classes) if self.classes else is_bearable(value, cast("Any", self.hint))


def add_border(plain: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Wrap a stage's `forward` or `__call__` so that the types of its input and output are checked.

    Both types are read from the annotations. The tensors inside a batch were checked when the batch was made.

    Raises:
        ShapeError: from the wrapped method, if the input or the output is of another type.
        CompositionError: if the output has other row ids than the input.
        StageError: if the method raised StopIteration.
        PaddingLeakError: while the padding check is on, if padding affected the output.
    """
    # Read at the first call, and kept in a list as the only entry: an annotation may name a class that is defined after
    # the stage.
    sides: list[tuple[str, _Side, _Side]] = []
    loose: Callable[..., R] = plain

    @functools.wraps(plain)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or not (SWITCHES.checks or SWITCHES.padding):
            return plain(self, *args, **kwargs)
        if not sides:
            sides.append(_read_sides(plain))
        name, before, after = sides[0]
        stage = type(self).__name__
        value: object = args[0] if args else kwargs.get(name)
        if SWITCHES.checks and not before.accepts(value):
            fix = suggest_fix(get_type(value), before.hint, stage, "before it")
            msg = f"{stage} takes {format_hint(before.hint)}, got {describe(value)}; {fix}."
            raise ShapeError(msg, stage=stage, argument=name)
        try:
            if SWITCHES.padding:
                marked = {key: mark_padding(each) for key, each in kwargs.items()}
                result = loose(self, *map(mark_padding, args), **marked)
            else:
                result = plain(self, *args, **kwargs)
        except Exception as error:
            stop = explain_error(error, self) or _explain_mismatch(error, self, value)
            if stop is not None:
                raise stop from error
            raise
        if SWITCHES.checks:
            _check_result(stage, after, value, result)
        if SWITCHES.padding:
            check_leaks(stage, value, result)
        return result

    return cast("Callable[Concatenate[S, P], R]", call)


def explain_error(error: Exception, stage: object) -> StageError | None:
    """Return the error to raise instead of one that a stage raised; None to raise the same, perhaps with a note.

    The note names the part and the plugin that offers it. Errors of this library name what is wrong already.
    """
    if isinstance(error, StopIteration):
        # PEP 479's rule for generators: whatever iterates over the results would take the error for their end.
        return make_stop_error(type(stage).__name__)
    describe_part: Callable[[], str] | None = getattr(stage, "describe_part", None)
    if describe_part is not None and not isinstance(error, PipelineError):
        note = f"It was raised in `{type(stage).__name__}`, in {describe_part()}."
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    return None


def _explain_mismatch(error: Exception, stage: object, value: object) -> ShapeError | None:
    """Return a clearer error than torch's if the values of the input are on another device or of another dtype.

    Only after an error: a stage may read several dtypes, or move its input.
    """
    if not isinstance(error, RuntimeError) or isinstance(error, PipelineError) or not isinstance(stage, nn.Module):
        return None
    values: object = getattr(value.steps if isinstance(value, States) else value, "values", None)
    weights = [weight for weight in stage.parameters() if weight.is_floating_point()]
    if not isinstance(values, Tensor) or not weights:
        return None
    # Autocast chooses the dtype of the products itself; ids have that of no weight.
    device = weights[0].device.type
    is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    any_dtype = not values.is_floating_point() or is_autocast
    same_dtype = any_dtype or values.dtype in {weight.dtype for weight in weights}
    if same_dtype and values.device in {weight.device for weight in weights}:
        return None
    name, weight = type(stage).__name__, weights[0]
    msg = (
        f"values are {values.dtype} on {values.device}, but the weights of {name} are {weight.dtype} on "
        f"{weight.device}; move one: batch.to(device), or model.to(dtype)."
    )
    return ShapeError(msg, stage=name)


def make_stop_error(stage: str) -> StageError:
    """Return the error for a StopIteration inside a stage."""
    msg = (
        f"`{stage}` raised StopIteration, which would end the stream as if it had no more rows; catch it in the stage, "
        "or give `next` a default: next(values, None)."
    )
    return StageError(msg, stage=stage)


def _check_result(stage: str, after: _Side, value: object, result: object) -> None:
    """Reject an output of another type than annotated, or with other row ids than the input."""
    if not after.accepts(result):
        msg = f"{stage} must return {format_hint(after.hint)} as annotated, got {describe(result)}; fix the stage."
        raise ShapeError(msg, stage=stage)
    # Nearly always the metadata are the same object: then no function is called.
    metadata: object = getattr(result, "metadata", None)
    if metadata is None or metadata is not getattr(value, "metadata", None):
        check_same_rows(stage, value, result)


def check_same_rows(stage: str, value: object, result: object) -> None:
    """Reject an output whose row ids are not those of the input.

    Raises:
        CompositionError: naming the stage.
    """
    if isinstance(value, Collated) and isinstance(result, Collated):
        check_same_metadata(stage, cast("Any", value).metadata, cast("Any", result).metadata)
    elif is_row(value) and is_row(result) and value.row_id != result.row_id:
        msg = (
            f"{stage} returned row {result.row_id} for row {value.row_id}; keep the row id: "
            "attrs.evolve(row, sequence=...), or Row(..., row_id=row.row_id)."
        )
        raise CompositionError(msg, stage=stage, row=value.row_id)


def _read_sides(plain: Callable[..., object]) -> tuple[str, _Side, _Side]:
    """Return the name of a method's first argument after `self`, and its input and output."""
    code = plain.__code__ if isinstance(plain, types.FunctionType) else None
    name = code.co_varnames[1] if code is not None and code.co_argcount > 1 else "value"
    hints = resolve_hints(plain)
    return name, _Side(hints.get(name, Any)), _Side(hints.get("return", Any))


def mark_padding(value: A) -> A:
    """Return the same batch or states with NaN in the padding, or `PADDING_ID` for ids; other values are unchanged.

    Example:
        >>> from pipeline import Vectors
        >>> mark_padding(Padded(Vectors, torch.ones(1, 2, 1), torch.tensor([1]))).values.flatten().tolist()
        [1.0, nan]
    """
    held: object = value
    if _is_states(held) and isinstance(held.steps, Padded):
        held = attrs.evolve(held, steps=held.steps.fill_padding(math.nan))
    elif is_batch(held) and isinstance(held, Padded):
        if held.fields is not None:
            held = attrs.evolve(held, fields={name: mark_padding(field) for name, field in held.fields.items()})
        else:
            held = held.fill_padding(math.nan if held.values.is_floating_point() else PADDING_ID)
    return cast("A", held)


def check_leaks(stage: str, value: object, result: object) -> None:
    """Reject a result that contains NaN if no real step of the input did.

    Raises:
        PaddingLeakError: naming the stage, the field and the first row.
    """
    # Tensors on `meta` have no values. And if a real step of the input was NaN already, padding is not the cause.
    if any(tensor.is_meta or bool(tensor.isnan().any()) for _, tensor, _ in _get_real_values(value)):
        return
    for field, tensor, rows in _get_real_values(result):
        is_nan = tensor.flatten(1).isnan().any(1) if tensor.ndim > 1 else tensor.isnan()
        if bool(is_nan.any()):
            row = int(rows[int(is_nan.nonzero()[0])])
            row = int(cast("Any", result).row_ids[row]) if isinstance(result, Collated) else row
            msg = (
                f"{stage} let padding affect its {field}: with NaN in the padding of its input, row {row} became NaN; "
                "fill or mask the padding in the stage before computing from it."
            )
            raise PaddingLeakError(msg, stage=stage, row=row, field=field)


def _is_states(value: object) -> TypeIs[States[MaybeCausal]]:
    return isinstance(value, States)


def _get_real_values(value: object) -> list[tuple[str, Tensor, Tensor]]:
    """Return the name, the real values and the row of each value, for every floating-point field of stage data."""
    if _is_states(value):
        final = ("final", value.final, torch.arange(len(value.final), device="cpu"))
        return [*_get_real_values(value.steps), final]
    if is_batch(value):
        packed = value.packed()
        if packed.fields is not None:
            return [found for field in packed.fields.values() for found in _get_real_values(field)]
        return [("values", packed.values, packed.order.row_of_step)] if packed.values.is_floating_point() else []
    held: object = getattr(value, "values", None)
    if isinstance(held, Tensor) and held.is_floating_point():
        order = getattr(value, "order", None)
        rows = order.row_of_step if order is not None else torch.arange(len(held), device="cpu")
        return [("values", held, rows)]
    return []
