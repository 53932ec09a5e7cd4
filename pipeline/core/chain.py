"""Stages joined by `>>`: chains, chains over a stream, and the checks made when they are joined."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count, groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast, final

import attrs
import torch
from torch import nn
from typing_extensions import override

from pipeline.core.border import explain_error, make_stop_error
from pipeline.core.contexts import temporary_mode
from pipeline.core.stage import I_contra, ModuleStage, O_co, Spec, Stage, StageBase, Stream, TypePreserving, is_stream
from pipeline.data.batches import is_batch
from pipeline.data.iteration import SizedIterator, check_ordered, is_map_style, iterate
from pipeline.data.kinds import Kind
from pipeline.data.metadata import Collated
from pipeline.data.rows import FILLER, Example, Row, is_row, reject_single_text
from pipeline.data.scores import Predictions
from pipeline.errors import CompositionError, PipelineError

if TYPE_CHECKING:
    from pipeline.summary.inspection import Inspection
    from pipeline.summary.summary import Summary

A = TypeVar("A")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
NumberedStage: TypeAlias = tuple[int, StageBase]
"""A stage with its position in a chain, from 1."""


class _JoinedStages(tuple[StageBase, ...]):
    """Stages in order. A type of its own, so that a chain made without `>>` does not type-check."""

    __slots__ = ()


class _ChainBase(nn.Module):
    """The stages of a chain in order. Stages with weights are child modules under their names."""

    def __init__(self, stages: _JoinedStages) -> None:
        super().__init__()
        self.stages: Mapping[str, StageBase] = name_stages(stages)
        for name, stage in self.stages.items():
            if isinstance(stage, nn.Module):
                self.add_module(name, stage)

    def build(self, spec: Spec, /) -> Spec:
        before: StageBase | None = None
        for number, stage in self._numbered():
            try:
                spec = stage.build(spec)
            except CompositionError as error:
                if before is None:
                    raise
                names = f"stage {number - 1} `{type(before).__name__}` and stage {number} `{type(stage).__name__}`"
                msg = f"between {names}: {error}"
                raise CompositionError(msg, **error.details) from error
            before = stage
        return spec

    def check(self) -> "Summary":
        """Check the whole chain without data; return the input, output, weights and work of each stage.

        Stages with weights run on torch's `meta` device, as copies with shapes and no values. Of other stages the
        annotations are compared. The chain is not changed. The first call in a process takes some seconds, because
        torch loads its support for shapes without values.

        Raises:
            CompositionError: if two stages do not fit each other, or a stage does not know its input size yet.
            ShapeError: if a stage rejects its input, as it would in a run.

        Example:
            >>> from pipeline import Classify, Pool
            >>> head = Pool("max") >> Classify(6, input_size=8)
            >>> head.check().parameters, str(head.check().entries[-1].output)
            (54, 'Scores batch x 6')
        """
        summary = self._summarize()
        if summary.problem is not None:
            raise summary.problem
        return summary

    def mermaid(self) -> str:
        """Return the chain as a flowchart in Mermaid's language."""
        return self._summarize().to_mermaid()

    def __repr__(self) -> str:
        return " >> ".join(type(stage).__name__ for stage in self.stages.values())

    def __str__(self) -> str:
        """Return the table of `check`, and what is missing if the chain cannot run yet."""
        return str(self._summarize())

    def __rich__(self) -> "Summary":
        return self._summarize()

    def _repr_html_(self) -> str:
        return self._summarize().to_html()

    def _summarize(self) -> "Summary":
        # The summary is above the core and imported when it is needed: `check` is a method for convenience.
        from pipeline.summary.build import summarize  # noqa: PLC0415

        return summarize(self.stages)

    def _inspect(self, value: object) -> "Inspection":
        from pipeline.summary.inspection import inspect_stages  # noqa: PLC0415

        with temporary_mode(self, training=False), torch.no_grad():
            return inspect_stages(value, self.stages)

    def _numbered(self) -> Iterable[NumberedStage]:
        return enumerate(self.stages.values(), start=1)


@final
class Chain(_ChainBase, ModuleStage[I_contra, O_co], border=False):
    """Stages in order, as one stage: an ordinary `nn.Module` whose state-dict keys begin with the stages' names.

    Example:
        >>> from pipeline import Classify, Embed, Pack, Pool
        >>> head = Pool("max") >> Classify(6, input_size=8)
        >>> sorted(head.state_dict())
        ['classify.linear.bias', 'classify.linear.weight']
    """

    @override
    def forward(self, value: I_contra) -> O_co:
        return cast("O_co", _run_stages(self._numbered(), value))

    def inspect(self, value: I_contra) -> "Inspection":
        """Run one value through every stage, and return a table of each stage's output."""
        return self._inspect(value)


@final
class TypePreservingChain(_ChainBase, TypePreserving[T_contra], border=False):
    """Several `TypePreserving` stages in order, as one."""

    def forward(self, value: A) -> A:
        """Run a value through every stage."""
        return cast("A", _run_stages(self._numbered(), value))


@final
class StreamChain(_ChainBase, Stream[I_contra, O_co], border=False):
    """Stages around a stream: an iterable of inputs to an iterator of outputs, lazily.

    A call yields outputs in the order of the stream, for example batches in the order of `Bucket`. `predict` yields
    one prediction per input, in the order of the inputs.
    """

    if TYPE_CHECKING:

        @override
        def __call__(self, values: Iterable[I_contra], /) -> Iterator[O_co]: ...

    def forward(self, values: Iterable[I_contra]) -> Iterator[O_co]:
        """Yield the outputs in the order of the stream.

        Raises:
            TextError: if `values` is one text.
            StageError: if a stage raises StopIteration.
            CompositionError: if a stage loses or doubles values.
        """
        return self._run(values, predicts=False)

    @override
    def predict_batches(self, values: Iterable[I_contra], /) -> Iterator[O_co]:
        """Yield the outputs for prediction: without shuffling, and buffering little."""
        return self._run(values, predicts=True)

    def predict(self: "StreamChain[A, Predictions[R]]", inputs: Iterable[A]) -> Iterator[R]:
        """Yield one prediction per input, in the order of the inputs, lazily.

        Runs in evaluation mode without gradients, and restores the mode. Buffers at most as many predictions as the
        bucket reads ahead. Targets of the inputs are ignored.

        Raises:
            TextError: if `inputs` is one text.
            StageError: if a stage raises StopIteration.
            CompositionError: if a stage lost a row or returned one twice.
        """
        reject_single_text(inputs)
        number_inputs = count()
        numbered = _count_values(_number_rows(iterate(inputs)), number_inputs)
        batches = _locate_errors(self._run(numbered, predicts=True), inputs)
        # Batches arrive sorted by length. A prediction waits until all rows before it were predicted.
        waiting: dict[int, R] = {}
        due = 0
        while True:
            # Not around the loop: between two predictions the caller must find the model in its own mode.
            with temporary_mode(self, training=False), torch.no_grad():
                batch = next(batches, None)
            if batch is None:
                break
            for row_id, prediction in batch.rows():
                if row_id < due or row_id in waiting:
                    msg = f"row {row_id} was predicted twice; each row must keep the row id of its input."
                    raise CompositionError(msg, place=row_id)
                waiting[row_id] = prediction
            while due in waiting:
                yield waiting.pop(due)
                due += 1
        total = next(number_inputs)
        if due < total:
            msg = f"row {due} of {total} was not predicted; a stage of {self!r} lost it."
            raise CompositionError(msg, place=due)

    def inspect(self, value: I_contra) -> "Inspection":
        """Run one input through every stage, and return a table of each stage's output."""
        return self._inspect(next(_number_rows([value])))

    def _run(self, values: Iterable[Any], *, predicts: bool) -> Iterator[Any]:
        reject_single_text(values)
        device = next((tensor.device for tensor in self.parameters()), None)
        check_ordered(values)
        flow: Iterable[Any] = iterate(values) if is_map_style(values) else values
        has_length = not predicts
        # Neighbors that take one value at a time run in one loop: fewer nested generators.
        for takes_one, group in groupby(self._numbered(), key=_takes_one_value):
            if takes_one:
                flow = _map_stages(list(group), flow, device, predicts=predicts)
                continue
            for number, stage in group:
                if is_stream(stage):
                    if has_length:
                        # The stages so far map one value to one: the stream may use the length of the input.
                        flow, has_length = SizedIterator(iter(flow), values), False
                    flow = _run_stream(stage, flow, number, predicts=predicts)
                else:
                    flow = _map_together(cast("Stage[Any, Any]", stage), flow, number)
        return _locate_errors(iter(flow), values)


_CHAINS: Final = (Chain, TypePreservingChain, StreamChain)
_DEFAULT_MAP: Final[object] = cast("Any", Stage).map


def _takes_one_value(numbered: NumberedStage) -> bool:
    """Return whether a stage has no implementation of its own for several values."""
    _, stage = numbered
    return not isinstance(stage, Stream) and getattr(type(stage), "map", _DEFAULT_MAP) is _DEFAULT_MAP


def _run_stages(
    stages: Iterable[NumberedStage],
    value: Any,  # noqa: ANN401 - the types were checked when the stages were joined
    device: torch.device | None = None,
    *,
    predicts: bool = False,
) -> Any:  # noqa: ANN401
    """Run one value through stages. An error names the stage. With a device, batches are moved to it for modules."""
    if torch.compiler.is_compiling():
        for _, stage in stages:
            value = cast("Any", stage)(value)
        return value
    for number, stage in stages:
        if device is not None and isinstance(stage, nn.Module) and is_batch(value) and value.values.device != device:
            value = value.to(device)
        try:
            before, value = value, cast("Any", stage)(value)
            # A list of rows in, a batch or a list out. Two batches are compared around the stage itself.
            if predicts and isinstance(before, list):
                _check_rows_kept(type(stage).__name__, cast("object", before), value)
        except Exception as error:
            # The border does this too, but not for a `forward` from a class that is not a stage.
            named = make_stop_error(type(stage).__name__) if isinstance(error, StopIteration) else error
            _name_stage(named, number, stage)
            if named is not error:
                raise named from error
            raise
    return value


def _map_stages(
    stages: Sequence[NumberedStage], values: Iterable[Any], device: torch.device | None, *, predicts: bool
) -> Iterator[Any]:
    for value in values:
        yield _run_stages(stages, value, device, predicts=predicts)


def _map_together(stage: Stage[Any, Any], values: Iterable[Any], number: int) -> Iterator[Any]:
    """Map a stage with an implementation of its own for several values. An error names the stage.

    Raises:
        CompositionError: if it does not yield one output per input.
    """
    given, returned = count(), count()
    yield from _count_values(_run_named(stage.map(_count_values(iter(values), given)), number, stage), returned)
    expected, found = next(given), next(returned)
    if expected != found:
        name = type(stage).__name__
        msg = (
            f"stage {number} `{name}`: it returned {found} outputs for {expected} inputs; {name}.map must yield one "
            "output per input."
        )
        raise CompositionError(msg, stage_number=number, inputs=expected, outputs=found)


def _run_stream(stage: Stream[Any, Any], values: Iterable[Any], number: int, *, predicts: bool) -> Iterator[Any]:
    """Run a stream. An error names the stage.

    Raises:
        CompositionError: if it loses or doubles rows in prediction.
    """
    if not predicts:
        return _run_named(stage(values), number, stage)
    rows = _RowCounter()
    return rows.check(_run_named(stage.predict_batches(rows.count(values)), number, stage), number, stage)


class _RowCounter:
    """Counts the rows that a stream takes and yields, if its inputs and outputs are rows."""

    def __init__(self) -> None:
        self.given: int = 0
        self.is_known = True

    def count(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield the inputs of the stream."""
        for value in values:
            rows = 1 if isinstance(value, Row) else _count_rows(value)
            self.is_known = self.is_known and rows is not None
            self.given += rows or 0
            yield value

    def check(self, outputs: Iterable[Any], number: int, stage: StageBase) -> Iterator[Any]:
        """Yield the outputs of the stream, and compare the numbers of rows at the end."""
        returned = 0
        for output in outputs:
            rows = 1 if isinstance(output, Row) else _count_rows(output)
            self.is_known = self.is_known and rows is not None
            returned += rows or 0
            yield output
        if self.is_known and returned != self.given:
            msg = (
                f"stage {number} `{type(stage).__name__}`: it returned {returned} rows for {self.given}; in prediction "
                "each row must be returned once. Leave rows out in training only: override predict_batches."
            )
            raise CompositionError(msg, stage_number=number, rows=self.given, returned=returned)


def _count_rows(value: object) -> int | None:
    """Return the number of rows of a batch, or of a list of rows; None for other values."""
    row_ids = _get_row_ids(value)
    return None if row_ids is None else len(row_ids)


def _get_row_ids(value: object) -> list[int] | None:
    """Return the row ids of a batch, or of a list of rows; None for other values."""
    if isinstance(value, Collated):
        found: list[int] = cast("Any", value).row_ids.tolist()
    elif isinstance(value, list) and set(map(type, cast("list[object]", value))) == {Row}:
        found = [row.row_id for row in cast("list[Row[Kind]]", value)]
    else:
        return None
    return [row_id for row_id in found if row_id != FILLER]


def _check_rows_kept(stage: str, before: object, after: object) -> None:
    """Reject rows that were lost, doubled or swapped between a list of rows and the batch made of it."""
    given, returned = _get_row_ids(before), _get_row_ids(after)
    # Sorted: a stage may sort the rows of a batch, if it sorts their row ids too.
    if given is not None and returned is not None and sorted(given) != sorted(returned):
        msg = (
            f"{stage} returned rows {returned[:8]} for rows {given[:8]}; in prediction each row must be returned once, "
            "with its row id."
        )
        raise CompositionError(msg, stage=stage)


_first: Callable[[tuple[Any, int]], Any] = itemgetter(0)


def _count_values(values: Iterator[A], counter: "count[int]") -> Iterator[A]:
    """Yield the values; the next number of the counter is how many were yielded. In C, since it runs once per row."""
    return map(_first, zip(values, counter, strict=False))


def _run_named(outputs: Iterable[A], number: int, stage: StageBase) -> Iterator[A]:
    """Yield the outputs of a stage. An error on the way names the stage."""
    try:
        yield from outputs
    except Exception as error:
        # Python's own error for a StopIteration inside a generator.
        is_stop = type(error) is RuntimeError and isinstance(error.__cause__, StopIteration)
        named = make_stop_error(type(stage).__name__) if is_stop else error
        # A `map` of the stage's own has no border.
        explain_error(named, stage)
        _name_stage(named, number, stage)
        if is_stop:
            raise named from error.__cause__
        raise


def _name_stage(error: Exception, number: int, stage: StageBase) -> None:
    """Name the stage that raised an error, unless an earlier stage was named already.

    Errors of this library get a prefix; others a note, since programs may read their message.
    """
    name = f"stage {number} `{type(stage).__name__}`"
    if isinstance(error, PipelineError):
        if "stage_number" not in error.details:
            error.args = (f"{name}: {error}", *error.args[1:])
            error.details = {**error.details, "stage_number": number}
    elif not any(note.startswith(f"{_NOTE}stage ") for note in getattr(error, "__notes__", ())):
        error.add_note(f"{_NOTE}{name}.")


_NOTE: Final = "It was raised in "


def _locate_errors(outputs: Iterator[A], inputs: object) -> Iterator[A]:
    """Yield outputs. An error that names a row names its file and line too, if the inputs are a source that knows."""
    where: Callable[[int], str] | None = getattr(inputs, "where", None)
    return outputs if where is None else _add_location(outputs, where)


def _add_location(outputs: Iterator[A], where: Callable[[int], str]) -> Iterator[A]:
    try:
        yield from outputs
    except PipelineError as error:
        row = error.details.get("row")
        if isinstance(row, int) and row >= 0 and "where" not in error.details and f"row {row}" in str(error):
            # A source that cannot tell must not hide the error.
            with suppress(Exception):
                place = where(row)
                error.args = (f"{error} Row {row} is {place}.", *error.args[1:])
                error.details = {**error.details, "where": place}
        raise


def join(*stages: StageBase) -> StageBase:
    """Return one chain of stages, or of chains of stages, with sizes inferred and checked.

    Raises:
        CompositionError: if a size or causality does not fit, or two stages with weights have one name.
    """
    flat = _JoinedStages(
        each for stage in stages for each in (stage.stages.values() if isinstance(stage, _ChainBase) else [stage])
    )
    if any(is_stream(stage) for stage in flat):
        chain: StageBase = cast("StageBase", StreamChain(flat))
    elif all(isinstance(stage, TypePreserving) for stage in flat):
        chain = cast("StageBase", TypePreservingChain(flat))
    else:
        chain = cast("StageBase", Chain(flat))
    _check_types(stages)
    # Along the whole chain at every join: a size that only the new stages know may reach a stage that waited for it.
    chain.build(Spec())
    return chain


def _check_types(stages: Sequence[StageBase]) -> None:
    """Reject neighbors whose types exclude each other, as a type checker does.

    Raises:
        CompositionError: naming both, and the stage that is missing between them.
    """
    from pipeline.summary.types import explain_misfit  # noqa: PLC0415 - above the core, as in `_summarize`

    number = 0
    for before, after in pairwise(stages):
        left = list(before.stages.values()) if isinstance(before, _ChainBase) else [before]
        right = list(after.stages.values()) if isinstance(after, _ChainBase) else [after]
        number += len(left)
        problem = explain_misfit(left, right)
        if problem is not None:
            names = f"stage {number} `{type(left[-1]).__name__}` and stage {number + 1} `{type(right[0]).__name__}`"
            msg = f"between {names}: {problem}"
            raise CompositionError(msg)


def name_stages(stages: Sequence[StageBase]) -> dict[str, StageBase]:
    """Give each stage its name, by default that of its class in snake case.

    Stages with weights, or with a name of their own, are named first. So their state-dict keys do not depend on the
    other stages, which are numbered if their name is taken.

    Raises:
        CompositionError: if a name is not possible, or two stages with weights have one name.
    """
    names: dict[int, str] = {}
    for index, stage in enumerate(stages):
        if stage.name is None and not has_weights(stage):
            continue
        name = stage.name or make_default_name(type(stage))
        if not name.isidentifier() or _is_attribute(name):
            msg = (
                f"the name of stage {index + 1} must be an identifier and no attribute of a chain, got {name!r}; "
                "choose another name."
            )
            raise CompositionError(msg, name=name)
        if name in names.values():
            other = next(taken for taken in names if names[taken] == name)
            msg = (
                f"stage {other + 1} `{type(stages[other]).__name__}` and stage {index + 1} `{type(stage).__name__}` "
                f"are both named {name!r}, but names must be unique in the state-dict; give one another name: "
                f'{type(stage).__name__}(..., name="{name}_2").'
            )
            raise CompositionError(msg, name=name)
        names[index] = name
    for index, stage in enumerate(stages):
        name, number = make_default_name(type(stage)), 1
        while index not in names:
            candidate = name if number == 1 else f"{name}_{number}"
            if candidate not in names.values() and not _is_attribute(candidate):
                names[index] = candidate
            number += 1
    return {names[index]: stage for index, stage in enumerate(stages)}


def _is_attribute(name: str) -> bool:
    """Return whether a chain has an attribute of this name, such as `double` or `stages`."""
    return name == "stages" or any(hasattr(kind, name) for kind in _CHAINS)


def make_default_name(cls: type) -> str:
    """Return the name of a stage class in snake case; an acronym is one word.

    Example:
        >>> from pipeline import BPTTWindows, NextToken
        >>> make_default_name(BPTTWindows), make_default_name(NextToken)
        ('bptt_windows', 'next_token')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()


def has_weights(stage: StageBase) -> bool:
    """Return whether a stage has parameters or buffers, or will have them once it knows its input size."""
    if not isinstance(stage, nn.Module):
        return False
    return getattr(stage, "is_lazy", False) is True or bool([*stage.parameters(), *stage.buffers()])


def _number_rows(inputs: Iterable[A]) -> Iterator[A]:
    """Yield the inputs without their targets, which may be missing or unknown where predictions are wanted.

    Inputs that are rows already get new row ids, since theirs may be from anywhere.
    """
    for row_id, value in enumerate(inputs):
        if is_row(value):
            yield cast("A", attrs.evolve(value, row_id=row_id, target=None))
        elif isinstance(value, Example):
            yield cast("A", Example(cast("Example[object]", value).input))
        else:
            yield value
