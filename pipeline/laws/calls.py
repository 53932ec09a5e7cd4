"""Call any module on rows of unequal length: by the convention that it follows, whatever it returns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, cast, final, get_args

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence
from typing_extensions import override

from pipeline.checks.hints import describe
from pipeline.checks.options import check_choice
from pipeline.data.tensors import to_ints
from pipeline.errors import OptionError
from pipeline.laws.law import FaultError

Call: TypeAlias = Literal["lengths", "mask", "padding_mask", "attention_mask", "packed", "nested", "rows", "values"]
"""How a module takes rows of unequal length:

- `lengths`: `module(values, lengths)`, int64 on the CPU.
- `mask`: `module(values, mask)`, where True is a real step.
- `padding_mask`: `module(values, mask)`, where True is padding, as in `nn.TransformerEncoder`.
- `attention_mask`: `module(values, mask)`, where 1 is a real step and 0 is padding, int64, as in transformers.
- `packed`: `module(packed)`, a `PackedSequence`.
- `nested`: `module(nested)`, a nested tensor with the layout `torch.jagged`.
- `rows`: `module(rows)`, a list with a tensor per row.
- `values`: `module(values)`, with zeros, or the padding id, in the padding.
"""

CallFunction: TypeAlias = Callable[[Any, Tensor, Tensor], object]
"""Calls a module by a convention of its own: the module, padded values and lengths; returns what the module returns."""

Result: TypeAlias = str | int | Callable[[Any], object]
"""The part of a module's output that is checked: an attribute or key, an index, or a function of the output."""

# Below it, ids are special tokens in most vocabularies: padding, unknown, beginning, end.
_FIRST_ID: Final = 1

# In the padding instead of NaN, infinity and 1e38, for modules that need ordinary numbers there.
_FINITE: Final = 1e4


@final
@attrs.frozen
class Convention:
    """How modules are called, and which part of their output is checked.

    Attributes:
        call: the convention, or a function that calls a module.
        names: the names of the module's arguments, if they must be passed by name: that of the values, and of the
            lengths or mask.
        result: the part of the output; by default the output itself, or the first tensor in it.
        batch_first: whether the batch is the first axis of values, masks and results, and not time.
        vocab_size: for modules that take ids, the number of ids; None for modules that take vectors.
        padding_id: the id in the padding.
        nan_in_padding: whether padding may hold NaN, infinity and 1e38; otherwise ordinary numbers replace them.
    """

    call: Call | CallFunction = "lengths"
    names: Sequence[str] = ()
    result: Result | None = None
    batch_first: bool = True
    vocab_size: int | None = None
    padding_id: int = 0
    nan_in_padding: bool = True

    def __attrs_post_init__(self) -> None:
        if not callable(self.call):
            check_choice("call", self.call, get_args(Call))
        wanted = 1 if self.call in {"packed", "nested", "rows", "values"} else 2
        if self.names and (callable(self.call) or len(self.names) != wanted):
            msg = f"names must be the {wanted} names of the arguments, got {list(self.names)}."
            raise OptionError(msg, names=list(self.names))
        if self.vocab_size is not None and self.vocab_size < _FIRST_ID + 2:
            msg = f"vocab_size must be {_FIRST_ID + 2} or more, got {self.vocab_size}."
            raise OptionError(msg, vocab_size=self.vocab_size)


@final
class CalledModule(nn.Module):
    """A module that follows a convention, as one that is called with padded values and lengths.

    Args:
        module: the module.
        convention: how it is called.

    Example:
        >>> class Mean(nn.Module):
        ...     def forward(self, values, src_key_padding_mask):
        ...         return {"pooled": values.masked_fill(src_key_padding_mask.unsqueeze(-1), 0).mean(1)}
        >>> convention = Convention("padding_mask", names=["values", "src_key_padding_mask"], result="pooled")
        >>> CalledModule(Mean(), convention)(torch.ones(2, 2, 1), torch.tensor([2, 1])).tolist()
        [[1.0], [0.5]]
    """

    def __init__(self, module: nn.Module, convention: Convention) -> None:
        super().__init__()
        self.module = module
        self.convention = convention

    @override
    def forward(self, values: Float[Tensor, "batch time feature"], lengths: Int64[Tensor, " batch"]) -> Tensor:
        """Call the module, and return what is checked as one tensor: batch x time x anything, or batch x anything.

        Raises:
            FaultError: if the output has no such part.
        """
        convention, width = self.convention, values.shape[1]
        if convention.vocab_size is not None:
            values = to_token_ids(values, convention)
        elif not convention.nan_in_padding:
            values = torch.where(_make_mask(values, lengths).unsqueeze(-1) | (values.abs() <= _FINITE), values, _FINITE)
        output = self._call(values, lengths)
        return _to_tensor(_select(output, convention.result), width, batch_first=convention.batch_first)

    def _call(self, values: Tensor, lengths: Tensor) -> object:
        call, module = self.convention.call, cast("Callable[..., object]", self.module)
        if callable(call):
            return call(self.module, values, lengths)
        arguments = [*self._make_arguments(call, values, lengths)]
        if self.convention.names:
            return module(**dict(zip(self.convention.names, arguments, strict=True)))
        return module(*arguments)

    def _make_arguments(self, call: Call, values: Tensor, lengths: Tensor) -> Sequence[object]:
        first = self.convention.batch_first
        if call in {"rows", "nested"}:
            rows = [row[:length] for row, length in zip(values, to_ints(lengths), strict=True)]
            return [rows if call == "rows" else _nest(rows)]
        if call == "packed":
            # As its documentation says: lengths on the CPU, and rows in any order.
            return [pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)]
        mask = _make_mask(values, lengths)
        if call == "values":
            fill = 0 if self.convention.vocab_size is None else self.convention.padding_id
            values = values.masked_fill(~mask.reshape(*mask.shape, *[1] * (values.ndim - 2)), fill)
        ordered, mask = (values, mask) if first else (values.transpose(0, 1), mask)
        second: Mapping[Call, Sequence[object]] = {
            "lengths": [lengths],
            "mask": [mask],
            "padding_mask": [~mask],
            "attention_mask": [mask.long()],
            "values": [],
        }
        return [ordered, *second[call]]


# By name: torch declares the type of `layout` only in part.
_as_nested: Final[Callable[..., Tensor]] = getattr(torch.nested, "as_nested_tensor")  # noqa: B009


def _nest(rows: list[Tensor]) -> Tensor:
    return _as_nested(rows, layout=torch.jagged)


def _make_mask(values: Tensor, lengths: Tensor) -> Tensor:
    """Return batch x time, True at real steps."""
    return torch.arange(values.shape[1], device=values.device) < lengths.to(values.device).unsqueeze(1)


def to_token_ids(values: Float[Tensor, "batch time feature"], convention: Convention) -> Int64[Tensor, "batch time"]:
    """Turn the first feature of test rows into ids: 0 into the padding id, others into the ids after the first one.

    The laws fill padding with 0, NaN, infinity and 1e38, which become different ids.

    Example:
        >>> values = torch.tensor([[[-0.5], [0.5], [0.0], [torch.nan]]])
        >>> to_token_ids(values, Convention(vocab_size=11)).tolist()
        [[3, 7, 0, 10]]
    """
    assert convention.vocab_size is not None
    number, last = values[..., 0].detach(), convention.vocab_size - 1
    # The cumulative distribution of a normal variable is from 0 to 1, so that drawn numbers use all ids.
    share = (1 + torch.erf(number / 2**0.5)) / 2
    ids = _FIRST_ID + (share.nan_to_num(1.0) * (last - _FIRST_ID)).floor().long()
    ids = torch.where(number.isnan(), last, ids.clamp(max=last))
    return torch.where(number == 0, convention.padding_id, ids)


def _select(output: object, result: Result | None) -> object:
    """Return the part of an output that is checked."""
    whole = output
    if result is None:
        return _find_first(output)
    if callable(result):
        return result(output)
    try:
        if isinstance(result, int):
            return cast("Sequence[object]", output)[result]
        if isinstance(output, Mapping):
            return cast("Mapping[str, object]", output)[result]
        return cast("object", getattr(output, result))
    except (LookupError, AttributeError, TypeError) as error:
        msg = f"the output must have {result!r}, got {describe(whole)}; pass result=, its attribute, key or index."
        raise FaultError(msg) from error


def _find_first(output: object) -> object:
    """Return a tensor, a packed sequence or rows, or the first of them in a tuple, a mapping or a dataclass."""
    whole = output
    if isinstance(output, Tensor | PackedSequence | str | nn.Module):
        return output
    if isinstance(output, Mapping):
        items: list[object] = [*cast("Mapping[object, object]", output).values()]
    elif isinstance(output, Sequence):
        items = [*cast("Sequence[object]", output)]
        if isinstance(output, list) and all(isinstance(row, Tensor) for row in items):
            return items
    else:
        items = [*cast("Mapping[str, object]", getattr(output, "__dict__", {})).values()]
    return _find_first(items[0]) if items else whole


def _to_tensor(output: object, width: int, *, batch_first: bool) -> Tensor:
    """Return an output as a tensor with the batch as its first axis; steps are padded with zeros.

    Raises:
        FaultError: if it is neither a tensor, a packed sequence, nor rows.
    """
    whole = output
    if isinstance(output, PackedSequence):
        return pad_packed_sequence(output, batch_first=True, total_length=width)[0]
    if isinstance(output, Tensor) and output.is_nested:
        return _join_rows(list(output.unbind()), width)
    if isinstance(output, list | tuple):
        rows = cast("Sequence[object]", output)
        tensors = [row for row in rows if isinstance(row, Tensor)]
        if len(tensors) == len(rows) and tensors:
            return _join_rows(tensors, width)
    if not isinstance(output, Tensor):
        msg = (
            f"the module must return a tensor, a PackedSequence or a list of tensors, or result= must select one; got "
            f"{describe(whole)}."
        )
        raise FaultError(msg)
    # Time first: only results per step have a time axis, which is then as long as that of the input.
    if not batch_first and output.ndim > 2 and output.shape[0] == width:
        return output.transpose(0, 1)
    return output


def _join_rows(rows: list[Tensor], width: int) -> Tensor:
    """Return the results of rows as one tensor, with zeros after the last step of each."""
    if not all(row.ndim for row in rows):
        return torch.stack(rows)
    padded = pad_sequence(rows, batch_first=True)
    # Vectors of steps are padded to the width of the batch; vectors of rows are complete.
    missing = width - padded.shape[1]
    is_per_step = padded.ndim > 2 and missing > 0
    return nn.functional.pad(padded, (0, 0) * (padded.ndim - 2) + (0, missing)) if is_per_step else padded
