"""Input stages: they turn inputs into rows and number them. Those for ids and features; text is in `tokenize.py`."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from pipeline.checks.hints import describe
from pipeline.core.stage import Spec, Stage
from pipeline.data.iteration import iterate
from pipeline.data.kinds import Ids, K, Kind, Vectors
from pipeline.data.predictions import Span
from pipeline.data.rows import Example, Row, reject_single_text
from pipeline.data.tensors import to_ints, to_tensors
from pipeline.errors import ShapeError, ValuesError
from pipeline.labels import get_scalar

X = TypeVar("X")

IdSequence: TypeAlias = Sequence[int] | Tensor
"""The input of `FromIds`: ids as a list or as a tensor."""

FeatureSequence: TypeAlias = Tensor | Sequence[float] | Sequence[Sequence[float]]
"""The input of `FromFeatures`: a tensor of time x feature, or the same as lists; a list of numbers is one feature."""

_CHUNK: Final = 256
"""The number of inputs that `map` handles together. Tokenizers are fastest on hundreds of texts per call."""


class InputStage(Stage[X | Example[X], Row[K]], Generic[X, K]):
    """A stage that turns inputs of one type, bare or in an `Example`, into rows."""

    @abstractmethod
    def make_rows(self, examples: Sequence[Example[X]], row_ids: Sequence[int]) -> list[Row[K]]:
        """Return the rows of some examples, with these row ids."""

    def locate_steps(self, value: X, row: Row[K]) -> Sequence[Span] | None:  # noqa: ARG002 - for stages that override it
        """Return the start and the end of each step of a row in the input that it was made of.

        Args:
            value: the input.
            row: its row.

        Returns:
            for a text the offsets of the tokens, for other inputs the number of each step and the one after; None if
            offsets were not kept.
        """
        return locate_in_row(row)

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def __call__(self, value: X | Example[X], /) -> Row[K]:
        """Return the row of one input."""
        return self.make_rows(to_examples([value]), [0])[0]

    @override
    def map(self, values: Iterable[X | Example[X]], /) -> Iterator[Row[K]]:
        """Yield the rows of many inputs, lazily; each row's id is its position in the input.

        Raises:
            TextError: if `values` is a single text.
            OptionError: if `values` have no fixed order, such as a set.
        """
        reject_single_text(values)
        return self._map(iterate(values))

    def _map(self, inputs: Iterator[X | Example[X]]) -> Iterator[Row[K]]:
        first = 0
        while chunk := to_examples(islice(inputs, _CHUNK)):
            yield from self.make_rows(chunk, range(first, first + len(chunk)))
            first += len(chunk)


def locate_in_row(row: Row[Kind]) -> Sequence[Span]:
    """Return the offsets of a row's tokens, or else the number of each step and the one after."""
    sequence = row.sequence
    if isinstance(sequence, Ids) and sequence.offsets is not None:
        return list(zip(to_ints(sequence.offsets[:, 0]), to_ints(sequence.offsets[:, 1]), strict=True))
    return [(row.start_step + step, row.start_step + step + 1) for step in range(len(row))]


def to_examples(values: Iterable[X | Example[X]]) -> list[Example[X]]:
    """Wrap each input in an `Example`, unless it is one."""
    return [cast("Example[X]", value) if isinstance(value, Example) else Example(value) for value in values]


@final
class FromIds(InputStage[IdSequence, Ids]):
    """Turn sequences of ids, as lists or tensors, into rows.

    Example:
        >>> [len(row) for row in FromIds().map([[1, 2, 3], [], [4]])]
        [3, 0, 1]
    """

    @override
    def make_rows(self, examples: Sequence[Example[IdSequence]], row_ids: Sequence[int]) -> list[Row[Ids]]:
        """Return the rows of some examples.

        Raises:
            ValuesError: if an input is not a sequence of integers, all 0 or more.
        """
        inputs = [example.input for example in examples]
        ids = _convert_lists(inputs) or [_convert_ids(value, row) for value, row in zip(inputs, row_ids, strict=True)]
        return [
            Row(Ids(values), example.target, row) for values, example, row in zip(ids, examples, row_ids, strict=True)
        ]


@final
class FromFeatures(InputStage[FeatureSequence, Vectors]):
    """Turn tensors of time x feature, such as audio features or sensor readings, into rows.

    Lists of lists are as good; a list of numbers has one feature per step.

    Example:
        >>> [len(row) for row in FromFeatures().map([torch.ones(3, 12), torch.ones(0, 12)])]
        [3, 0]
        >>> FromFeatures()([2.5, 1.0]).sequence.values.tolist()
        [[2.5], [1.0]]
    """

    @override
    def make_rows(self, examples: Sequence[Example[FeatureSequence]], row_ids: Sequence[int]) -> list[Row[Vectors]]:
        """Return the rows of some examples.

        Raises:
            ShapeError: if an input is not a floating-point tensor of time x feature.
            ValuesError: if a feature is NaN or infinite.
        """
        return [
            Row(Vectors(_check_features(example.input, row)), example.target, row)
            for example, row in zip(examples, row_ids, strict=True)
        ]


def _convert_lists(inputs: Sequence[object]) -> list[Tensor] | None:
    """Fast path: convert all inputs at once; None unless all are lists of plain integers, 0 or more."""
    if any(type(value) is not list for value in inputs):
        return None
    lists = cast("Sequence[list[object]]", inputs)
    # type(), not isinstance(): a bool is an int, and is rejected below.
    if not {type(number) for number in chain.from_iterable(lists)} <= {int}:
        return None
    numbers = cast("Sequence[list[int]]", lists)
    if min(chain.from_iterable(numbers), default=0) < 0:
        return None
    try:
        return to_tensors(numbers)
    except OverflowError:
        return None


def _convert_ids(value: object, row: int) -> Tensor:
    try:
        ids = value if isinstance(value, Tensor) else _copy_array(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _make_ids_error(value, row) from error
    if ids.shape == (0,):
        return ids.to(torch.int64)
    if ids.ndim != 1 or ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool:
        raise _make_ids_error(value, row)
    # Ids above the range of int64 become negative here, and are rejected.
    ids = ids.to(torch.int64)
    if int(ids.min()) < 0:
        step = int(ids.argmin())
        msg = (
            f"row {row}, step {step} is {_get_item(value, step)}, but ids must be 0 or more, up to 2**63 - 1; shift or "
            "map them first."
        )
        raise ValuesError(msg, row=row, step=step)
    return ids


def _copy_array(value: object) -> Tensor:
    array: NDArray[Any] = np.array(value)
    # torch does not accept all names of unsigned types.
    return torch.as_tensor(array.astype(np.int64) if array.dtype.kind == "u" else array)


def _get_item(value: object, step: int) -> int:
    return int(cast("Sequence[int]", value)[step])


def _convert_numbers(value: Sequence[object]) -> object:
    """Return a list of numbers, or of lists of numbers, as a tensor of time x feature; unchanged if it is neither."""
    try:
        array: NDArray[Any] = np.array(value)
        # As float64 NumPy converts texts, too, if they look like numbers.
        if array.dtype.kind not in "biufO" or any(isinstance(item, str | bytes) for item in _list_objects(array)):
            return value
        array = array.astype(np.float64)
    except (TypeError, ValueError):
        return value
    tensor = torch.as_tensor(array, dtype=torch.get_default_dtype())
    return tensor.unsqueeze(1) if tensor.ndim == 1 else tensor


def _list_objects(array: NDArray[Any]) -> list[object]:
    """Return the items of an array of Python objects; of an array of numbers, nothing."""
    return array.ravel().tolist() if array.dtype.kind == "O" else []


def _describe_fault(value: object, kind: type[int | float]) -> str:
    """Describe the first step of a list that is not a number of a kind, or else the value."""
    is_list = isinstance(value, list | tuple)
    for step, item in enumerate(cast("Sequence[object]", value) if is_list else ()):
        numbers = cast("Sequence[object]", item if kind is float and isinstance(item, list | tuple) else [item])
        for number in numbers:
            plain = get_scalar(number)
            if isinstance(plain, bool) or not isinstance(plain, int | kind):
                return f"{number!r:.60} at step {step}"
    return describe(value)


def _make_ids_error(value: object, row: int) -> ValuesError:
    msg = (
        f"row {row} must be a sequence of integers, got {_describe_fault(value, int)}; "
        "use Tokenize for text, or FromFeatures for features."
    )
    return ValuesError(msg, row=row)


def _check_features(value: object, row: int) -> Float[Tensor, "time feature"]:
    if isinstance(value, list | tuple):
        value = _convert_numbers(cast("Sequence[object]", value))
    if not isinstance(value, Tensor) or value.ndim != 2 or not value.is_floating_point():
        msg = (
            f"row {row} must be a floating-point tensor of time x feature, got {_describe_fault(value, float)}; "
            "convert an array with torch.from_numpy(array).float(), or use FromIds for ids, Tokenize for text."
        )
        raise ShapeError(msg, row=row)
    if not value.isfinite().all():
        step, feature = to_ints((~value.isfinite()).nonzero()[0])
        msg = (
            f"row {row}, step {step}, feature {feature} is {value[step, feature].item()}, but features must be "
            "finite; fill the gap, or cut the row before it."
        )
        raise ValuesError(msg, row=row, step=step, feature=feature)
    return value
