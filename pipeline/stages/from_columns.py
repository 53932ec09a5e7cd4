"""Input stages for rows with several fields, and for rows whose steps are sequences themselves."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, Generic, ParamSpec, TypeAlias, cast, final, overload

import attrs
import torch
from typing_extensions import TypeVar, override

from pipeline.checks.hints import describe
from pipeline.data.kinds import Composite, Ids, K, Kind, Nested, Vectors, check_fields, concat_sequences
from pipeline.data.predictions import Span
from pipeline.data.rows import Example, Row
from pipeline.data.tensors import to_tensor
from pipeline.errors import OptionError, PipelineError, ShapeError, ValuesError
from pipeline.parts.config import POSITIONAL
from pipeline.stages.input_stage import InputStage
from pipeline.text import suggest_name

E = TypeVar("E", bound=Composite)
P = ParamSpec("P")
X = TypeVar("X")

Columns: TypeAlias = Mapping[str, object]
"""The input of `FromColumns`: one row as a mapping from columns to values, such as a JSON object."""


@final
class FromFields(InputStage[E, E], Generic[E]):
    """Turn objects of a class with fields, or with sides, into rows.

    Args:
        record: the class.

    Raises:
        TypeError: if the class has no field, or is not decorated as an attrs class.

    Example:
        >>> import attrs, torch
        >>> from pipeline import Fields, Ids, Vectors
        >>> @attrs.frozen(eq=False)
        ... class Event(Fields):
        ...     code: Ids
        ...     amount: Vectors
        >>> event = Event(Ids(torch.tensor([3, 1])), Vectors(torch.ones(2, 1)))
        >>> [len(row) for row in FromFields(Event).map([event])]
        [2]
    """

    def __init__(self, record: type[E]) -> None:
        check_fields(record)
        self.record: Final = record

    @override
    def make_rows(self, examples: Sequence[Example[E]], row_ids: Sequence[int]) -> list[Row[E]]:
        """Return the rows of some examples.

        Raises:
            ValuesError: if an input is of another class.
        """
        rows: list[Row[E]] = []
        for example, row in zip(examples, row_ids, strict=True):
            given: object = example.input
            if not isinstance(given, self.record):
                msg = (
                    f"row {row} must be an object of {self.record.__name__}, got {describe(given)}; make one, or use "
                    "FromColumns for mappings."
                )
                raise ValuesError(msg, row=row)
            rows.append(Row(example.input, example.target, row))
        return rows


@attrs.frozen
class Reader:
    """The input stage of a field and its columns, in the place of the field's sequence."""

    stage: InputStage[Any, Kind]
    columns: Sequence[str]


@overload
def read(stage: InputStage[Any, K], /, column: str | None = None) -> K: ...
@overload
def read(stage: InputStage[Any, Vectors], /, column: Sequence[str]) -> Vectors: ...
def read(stage: InputStage[Any, K], /, column: str | Sequence[str] | None = None) -> K:
    """Say which input stage reads a field, in `FromColumns`, and from which column; by default the field's name.

    A list of columns, such as several of numbers, gives one sequence of vectors: their features are joined in the order
    of the list. All must have the same number of steps.

    To a type checker the result is the sequence of the field, so that it fits the signature of the fields' class.

    Raises:
        OptionError: if `column` is neither a name nor a list of different names.

    Example:
        >>> import attrs
        >>> from pipeline import Fields, FromFeatures
        >>> @attrs.frozen(eq=False)
        ... class Visit(Fields):
        ...     amounts: Vectors
        >>> stage = FromColumns(Visit, amounts=read(FromFeatures(), ["price", "wait"]))
        >>> stage({"price": [2.5, 1.0], "wait": [3.0, 0.0]}).sequence.amounts.values.tolist()
        [[2.5, 3.0], [1.0, 0.0]]
    """
    given: object = [column] if isinstance(column, str) else column
    names = cast("Sequence[object]", given) if isinstance(given, list | tuple) else ()
    columns = [name for name in names if isinstance(name, str)]
    if column is not None and not 0 < len(names) == len(set(columns)):
        msg = f"column must be a name, or a list of different names, got {column!r}; for example ['price', 'wait']."
        raise OptionError(msg, column=column)
    return cast("K", Reader(cast("InputStage[Any, Kind]", stage), columns))


@final
class FromColumns(InputStage[Columns, E], Generic[E]):
    """Turn mappings from columns to values into rows with several fields, or with several sides.

    Args:
        record: the class of the fields.
        args: for each field in the order of their declaration, `read(stage)`.
        fields: the same, by the field's name.

    Raises:
        TypeError: if the class has no field, or is not decorated as an attrs class.
        OptionError: if a field is missing, or is not `read(stage)`.

    Example:
        >>> import attrs
        >>> from pipeline import Fields, FromFeatures, Ids, TokenizeWords, Vectors
        >>> @attrs.frozen(eq=False)
        ... class Event(Fields):
        ...     code: Ids
        ...     amount: Vectors
        >>> codes = TokenizeWords.train([["buy", "sell"]])
        >>> stage = FromColumns(Event, code=read(codes), amount=read(FromFeatures(), "value"))
        >>> row = stage({"code": ["sell", "buy"], "value": [2.5, 1.0]})
        >>> row.sequence.code.values.tolist(), row.sequence.amount.values.tolist()
        ([5, 4], [[2.5], [1.0]])
    """

    def __init__(self, record: Callable[P, E], /, *args: P.args, **fields: P.kwargs) -> None:
        given: object = record
        if not isinstance(given, type) or not issubclass(given, Composite):
            got = describe(cast("object", record))
            msg = f"record must be a class derived from Fields or Sides, got {got}; declare the fields in one."
            raise OptionError(msg, record=record)
        self.record: type[Composite] = given
        check_fields(given)
        try:
            bound = inspect.signature(given).bind(*args, **fields).arguments
        except TypeError as error:
            msg = f"FromColumns({given.__name__}, ...) must get `read(stage)` for each field: {error}."
            raise OptionError(msg) from error
        self.readers: Final[dict[str, tuple[Sequence[str], InputStage[Any, Kind]]]] = {}
        for name in given.get_kinds():
            reader: object = bound.get(name)
            if not isinstance(reader, Reader):
                msg = f"field {name!r} must be read(stage), got {describe(reader)}; wrap its input stage in `read`."
                raise OptionError(msg, field=name)
            self.readers[name] = (reader.columns or [name], reader.stage)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        readers = {name: Reader(stage, list(columns)) for name, (columns, stage) in self.readers.items()}
        return {POSITIONAL: [self.record], **readers}

    @override
    def make_rows(self, examples: Sequence[Example[Columns]], row_ids: Sequence[int]) -> list[Row[E]]:
        """Return the rows of some examples.

        Raises:
            ValuesError: if an input is not a mapping, or lacks a column.
            ShapeError: if the fields of a row, or the columns of a field, have unequal numbers of steps.
            OptionError: if several columns are read into a field, but not as vectors.
            PipelineError: of the field's input stage, with the field.
        """
        for example, row in zip(examples, row_ids, strict=True):
            if not isinstance(cast("object", example.input), Mapping):
                msg = f"row {row} must be a mapping from columns to values, got {describe(example.input)}."
                raise ValuesError(msg, row=row)
        columns = [
            _join_features(name, {column: self._read(name, column, stage, examples, row_ids) for column in names})
            for name, (names, stage) in self.readers.items()
        ]
        rows: list[Row[E]] = []
        for example, row, parts in zip(examples, row_ids, zip(*columns, strict=True), strict=True):
            try:
                sequences = dict(zip(self.readers, (part.sequence for part in parts), strict=True))
                made = cast("Callable[..., E]", self.record)(**sequences)
            except ShapeError as error:
                msg = f"row {row}: {error}"
                raise ShapeError(msg, **{**error.details, "row": row}) from error
            # A tokenizer may say which steps need a prediction.
            mask = next((part.answer_mask for part in parts if part.answer_mask is not None), None)
            rows.append(Row(made, example.target, row, mask))
        return rows

    @override
    def locate_steps(self, value: Columns, row: Row[E]) -> Sequence[Span] | None:
        """Return the place of each step in the column of the first field with ids, or else its number.

        Sides have steps of their own each, so that one list of places is not enough: None.
        """
        if not self.record.aligned:
            return None
        for name, (columns, stage) in self.readers.items():
            sequence: object = getattr(row.sequence, name)
            if isinstance(sequence, Ids):
                part = Row(sequence, row_id=row.row_id, answer_mask=row.answer_mask, start_step=row.start_step)
                return stage.locate_steps(value[columns[0]], part)
        return super().locate_steps(value, row)

    def _read(
        self,
        field: str,
        column: str,
        stage: InputStage[Any, Kind],
        examples: Sequence[Example[Columns]],
        row_ids: Sequence[int],
    ) -> list[Row[Kind]]:
        inputs: list[Example[Any]] = []
        for example, row in zip(examples, row_ids, strict=True):
            if column not in example.input:
                found = ", ".join(map(str, example.input))
                msg = f"row {row} has no column {column!r} for field {field!r}, only {found}; pass read(stage, column)."
                raise ValuesError(msg + suggest_name(column, list(map(str, example.input))), row=row, column=column)
            inputs.append(Example(example.input[column]))
        try:
            return stage.make_rows(inputs, row_ids)
        except PipelineError as error:
            msg = f"field {field!r}: {error}"
            raise type(error)(msg, **error.details) from error


def _join_features(field: str, columns: Mapping[str, Sequence[Row[Kind]]]) -> Sequence[Row[Kind]]:
    """Return the rows of a field: those of its column, or of several columns with their features joined."""
    if len(columns) == 1:
        return next(iter(columns.values()))
    rows: list[Row[Kind]] = []
    for parts in zip(*columns.values(), strict=True):
        row, vectors = parts[0].row_id, [part.sequence for part in parts if isinstance(part.sequence, Vectors)]
        if len(vectors) < len(parts):
            msg = (
                f"field {field!r} reads several columns, {', '.join(columns)}; their input stage must make Vectors, as "
                f"FromFeatures does, got {type(parts[0].sequence).__name__}; declare a field for each column."
            )
            raise OptionError(msg, field=field)
        if len(set(map(len, vectors))) > 1:
            counts = ", ".join(f"{name} has {len(each)}" for name, each in zip(columns, vectors, strict=True))
            msg = f"row {row}: the columns of field {field!r} must have the same number of steps, but {counts}."
            raise ShapeError(msg, row=row, field=field)
        rows.append(Row(Vectors(torch.cat([each.values for each in vectors], dim=1)), row_id=row))
    return rows


@final
class FromNested(InputStage[Sequence[X], Nested[K]], Generic[X, K]):
    """Turn lists into rows whose steps are sequences themselves: words of characters, documents of sentences.

    Args:
        stage: the input stage of each item of a list.

    Example:
        >>> from pipeline import Tokenize
        >>> words = FromNested(Tokenize.train(["abc"], "characters"))
        >>> row = words(["cab", "a"])
        >>> len(row), row.sequence.counts.tolist(), row.sequence.inner.values.tolist()
        (2, [3, 1], [6, 4, 5, 4])
    """

    def __init__(self, stage: InputStage[X, K]) -> None:
        self.stage: Final = stage

    @override
    def make_rows(self, examples: Sequence[Example[Sequence[X]]], row_ids: Sequence[int]) -> list[Row[Nested[K]]]:
        """Return the rows of some examples.

        Raises:
            ValuesError: if an input is no list.
            PipelineError: of the stage, for an item.
        """
        for example, row in zip(examples, row_ids, strict=True):
            given = cast("object", example.input)
            if isinstance(given, str | bytes) or not isinstance(given, Sequence):
                msg = f"row {row} must be a list with one item per step, got {describe(given)}; pass [item, ...]."
                raise ValuesError(msg, row=row)
        item_rows = [row for example, row in zip(examples, row_ids, strict=True) for _ in example.input]
        items = self._make_items(list(chain.from_iterable(example.input for example in examples)), item_rows)
        empty = items[0].cut(slice(0)) if items else self._make_empty()
        rows: list[Row[Nested[K]]] = []
        start = 0
        for example, row in zip(examples, row_ids, strict=True):
            own = items[start : start + len(example.input)]
            start += len(own)
            # Without empty items: the number of features of an empty list is not known.
            inner = concat_sequences([item for item in own if len(item)] or own[:1] or [empty])
            rows.append(Row(Nested(inner, to_tensor(list(map(len, own)))), example.target, row))
        return rows

    def _make_items(self, items: Sequence[X], item_rows: Sequence[int]) -> list[K]:
        """Return the sequence of each item. Each distinct text is tokenized once: words occur again and again."""
        if not all(isinstance(item, str) for item in items):
            return [row.sequence for row in self.stage.make_rows(_wrap(items), item_rows)]
        first: dict[X, int] = dict(zip(reversed(items), reversed(item_rows), strict=True))
        made = self.stage.make_rows(_wrap(first), list(first.values()))
        sequences = {item: row.sequence for item, row in zip(first, made, strict=True)}
        return [sequences[item] for item in items]

    def _make_empty(self) -> K:
        """Return a sequence without steps, for lists that are all empty."""
        candidates: list[object] = ["", [], torch.zeros(0, 1)]
        for nothing in candidates:
            try:
                return self.stage.make_rows([Example(cast("X", nothing))], [0])[0].sequence.cut(slice(0))
            except PipelineError:
                continue
        msg = "all lists are empty, so that the kind of their items is not known; leave such rows out."
        raise ValuesError(msg)


def _wrap(items: Iterable[X]) -> list[Example[X]]:
    return [Example(item) for item in items]
