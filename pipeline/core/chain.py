"""Stages joined by `>>`: chains, chains over a stream, and the checks made when they are joined."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast, final

import attrs
import torch
from torch import nn
from typing_extensions import override

from pipeline.core.contexts import temporary_mode
from pipeline.core.stage import I_contra, ModuleStage, O_co, Spec, Stage, StageBase, Stream, TypePreserving, is_stream
from pipeline.data.batches import is_batch
from pipeline.data.rows import is_row, reject_single_text
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
        """Yield the outputs in the order of the stream."""
        return self._run(values, predicts=False)

    @override
    def predict_batches(self, values: Iterable[I_contra], /) -> Iterator[O_co]:
        """Yield the outputs for prediction: without shuffling, and buffering little."""
        return self._run(values, predicts=True)

    def predict(self: "StreamChain[A, Predictions[R]]", inputs: Iterable[A]) -> Iterator[R]:
        """Yield one prediction per input, in the order of the inputs, lazily.

        Runs in evaluation mode without gradients, and restores the mode. Buffers at most as many predictions as the
        bucket reads ahead.

        Raises:
            TextError: if `inputs` is one text.
            CompositionError: if a stage lost a row or returned one twice.
        """
        reject_single_text(inputs)
        batches = self.predict_batches(_number_rows(inputs))
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
        if waiting:
            msg = f"row {due} was not predicted, but later rows were; a stage of {self!r} lost it."
            raise CompositionError(msg, place=due)

    def inspect(self, value: I_contra) -> "Inspection":
        """Run one input through every stage, and return a table of each stage's output."""
        return self._inspect(next(_number_rows([value])))

    def _run(self, values: Iterable[Any], *, predicts: bool) -> Iterator[Any]:
        device = next((tensor.device for tensor in self.parameters()), None)
        flow: Iterable[Any] = values
        # Neighbors that take one value at a time run in one loop: fewer nested generators.
        for takes_one, group in groupby(self._numbered(), key=_takes_one_value):
            if takes_one:
                flow = _map_stages(list(group), flow, device)
                continue
            for number, stage in group:
                if is_stream(stage):
                    outputs = stage.predict_batches(flow) if predicts else stage(flow)
                else:
                    outputs = cast("Stage[Any, Any]", stage).map(flow)
                flow = _name_stage_in_errors(outputs, number, stage)
        return iter(flow)


_CHAINS: Final = (Chain, TypePreservingChain, StreamChain)
_DEFAULT_MAP: Final[object] = cast("Any", Stage).map


def _takes_one_value(numbered: NumberedStage) -> bool:
    """Return whether a stage has no implementation of its own for several values."""
    _, stage = numbered
    return not isinstance(stage, Stream) and getattr(type(stage), "map", _DEFAULT_MAP) is _DEFAULT_MAP


def _run_stages(stages: Iterable[NumberedStage], value: Any, device: torch.device | None = None) -> Any:  # noqa: ANN401
    """Run one value through stages. An error names the stage. With a device, batches are moved to it for modules."""
    if torch.compiler.is_compiling():
        for _, stage in stages:
            value = cast("Any", stage)(value)
        return value
    for number, stage in stages:
        if device is not None and isinstance(stage, nn.Module) and is_batch(value) and value.values.device != device:
            value = value.to(device)
        try:
            value = cast("Any", stage)(value)
        except PipelineError as error:
            _name_stage(error, number, stage)
            raise
    return value


def _map_stages(stages: Sequence[NumberedStage], values: Iterable[Any], device: torch.device | None) -> Iterator[Any]:
    for value in values:
        yield _run_stages(stages, value, device)


def _name_stage_in_errors(outputs: Iterable[A], number: int, stage: StageBase) -> Iterator[A]:
    """Yield the outputs of a stage. An error on the way names the stage."""
    try:
        yield from outputs
    except PipelineError as error:
        _name_stage(error, number, stage)
        raise


def _name_stage(error: PipelineError, number: int, stage: StageBase) -> None:
    """Prefix an error with the stage that raised it, unless an earlier stage did so already."""
    if "stage_number" not in error.details:
        error.args = (f"stage {number} `{type(stage).__name__}`: {error}", *error.args[1:])
        error.details = {**error.details, "stage_number": number}


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
    # Along the whole chain at every join: a size that only the new stages know may reach a stage that waited for it.
    chain.build(Spec())
    return chain


def name_stages(stages: Sequence[StageBase]) -> dict[str, StageBase]:
    """Give each stage its name, by default that of its class in snake case.

    Stages with weights, or with a name of their own, are named first. So their state-dict keys do not depend on the
    other stages, which are numbered if their name is taken.

    Raises:
        CompositionError: if a name is not possible, or two stages with weights have one name.
    """
    names: dict[int, str] = {}
    for index, stage in enumerate(stages):
        if stage.name is None and not _has_weights(stage):
            continue
        name = stage.name or make_default_name(type(stage))
        if not name.isidentifier() or name == "stages" or any(hasattr(kind, name) for kind in _CHAINS):
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
            if candidate not in names.values():
                names[index] = candidate
            number += 1
    return {names[index]: stage for index, stage in enumerate(stages)}


def make_default_name(cls: type) -> str:
    """Return the name of a stage class in snake case; an acronym is one word.

    Example:
        >>> from pipeline import BPTTWindows, NextToken
        >>> make_default_name(BPTTWindows), make_default_name(NextToken)
        ('bptt_windows', 'next_token')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()


def _has_weights(stage: StageBase) -> bool:
    """Return whether a stage has parameters or buffers, or will have them once it knows its input size."""
    if not isinstance(stage, nn.Module):
        return False
    return getattr(stage, "is_lazy", False) is True or bool([*stage.parameters(), *stage.buffers()])


def _number_rows(inputs: Iterable[A]) -> Iterator[A]:
    """Yield the inputs; those that are rows already get new row ids, since theirs may be from anywhere."""
    for row_id, value in enumerate(inputs):
        yield attrs.evolve(value, row_id=row_id) if is_row(value) else value
