"""Stages joined by `>>`: chains, chains over a stream, and what is checked when they are made."""

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, final

import attrs
import torch
from torch import nn
from typing_extensions import override

from pipeline.core.stage import I_contra, ModuleStage, O_co, Spec, Stage, StageBase, Stream, TypePreserving, is_stream
from pipeline.data.batches import is_batch
from pipeline.data.rows import is_row, refuse_text
from pipeline.data.scores import Predictions
from pipeline.errors import CompositionError, PipelineError

if TYPE_CHECKING:
    from pipeline.summary.inspection import Inspection
    from pipeline.summary.summary import Summary

A = TypeVar("A")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)


class _Joined(tuple[StageBase, ...]):
    """Parts in a row, by `join`. A type of its own: what is not joined by `>>` does not type-check."""

    __slots__ = ()


class _Parts(nn.Module):
    """The parts of a chain in order; those with weights are its children, by name."""

    def __init__(self, parts: _Joined) -> None:
        super().__init__()
        self.parts: Mapping[str, StageBase] = name_stages(parts)
        for name, part in self.parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)

    def build(self, spec: Spec, /) -> Spec:
        return _build_parts(self.parts, spec)

    def check(self) -> "Summary":
        """Walk the whole chain without data, and give what goes in and out of each stage, its weights and its work.

        Stages with weights run as copies that have shapes and no content; the others are asked for their types.
        Nothing is changed by it. The first time in a process takes some seconds, since torch loads what it needs.

        Raises:
            CompositionError: if two stages do not fit each other, or one still waits for its input size.
            ShapeError: if a stage refuses what comes in, as it would in a run.

        Example:
            >>> from pipeline import Classify, Pool
            >>> head = Pool("max") >> Classify(6, input_size=8)
            >>> head.check().parameters, str(head.check().entries[-1].gives)
            (54, 'Scores batch x 6')
        """
        from pipeline.summary.build import survey  # noqa: PLC0415

        overview = survey(self.parts)
        if overview.problem is not None:
            raise overview.problem
        return overview

    def mermaid(self) -> str:
        """The chain as a flowchart in Mermaid's language, as text."""
        from pipeline.summary.build import survey  # noqa: PLC0415
        from pipeline.summary.mermaid import flowchart  # noqa: PLC0415

        return flowchart(survey(self.parts))

    def __repr__(self) -> str:
        return " >> ".join(type(part).__name__ for part in self.parts.values())

    def __str__(self) -> str:
        """The table of `check`, and what is missing where the chain cannot run yet."""
        from pipeline.summary.build import survey  # noqa: PLC0415

        return str(survey(self.parts))

    def __rich__(self) -> "Summary":
        from pipeline.summary.build import survey  # noqa: PLC0415

        return survey(self.parts)

    def _repr_html_(self) -> str:
        from pipeline.summary.build import survey  # noqa: PLC0415
        from pipeline.summary.html import page  # noqa: PLC0415

        return page(survey(self.parts))


@final
class Chain(_Parts, ModuleStage[I_contra, O_co], border=False):
    """Stages in a row, as one stage: an ordinary `nn.Module` whose state-dict keys begin with the stages' names.

    Example:
        >>> from pipeline import Classify, Embed, Pack, Pool
        >>> head = Pool("max") >> Classify(6, input_size=8)
        >>> sorted(head.state_dict())
        ['classify.linear.bias', 'classify.linear.weight']
    """

    @override
    def forward(self, value: I_contra) -> O_co:
        return cast("O_co", _through_each(self.parts, value))

    def inspect(self, value: I_contra) -> "Inspection":
        """Take one thing through every stage, and show what each made of it."""
        from pipeline.summary.inspection import inspect_stages  # noqa: PLC0415

        with _predicting(self):
            return inspect_stages(value, self.parts)


@final
class TypePreservingChain(_Parts, TypePreserving[T_contra], border=False):
    """Several `TypePreserving` in a row, as one."""

    def forward(self, value: A) -> A:
        """Send a value through each."""
        return cast("A", _through_each(self.parts, value))


@final
class StreamChain(_Parts, Stream[I_contra, O_co], border=False):
    """Stages around a stream: an iterable of inputs to an iterator of outputs, lazily.

    A call gives the outputs in the stream's own order, batches in bucket order; `predict` gives one
    answer an input, in the order of the inputs.
    """

    if TYPE_CHECKING:

        @override
        def __call__(self, values: Iterable[I_contra], /) -> Iterator[O_co]: ...

    def forward(self, values: Iterable[I_contra]) -> Iterator[O_co]:
        """The outputs, in the order in which the stream gives them."""
        return self._through(values, serving=False)

    @override
    def predict_batches(self, values: Iterable[I_contra], /) -> Iterator[O_co]:
        """The outputs as for prediction: nothing shuffled, and little held back."""
        return self._through(values, serving=True)

    def predict(self: "StreamChain[A, Predictions[R]]", inputs: Iterable[A]) -> Iterator[R]:
        """One answer an input, in the order of the inputs, lazily.

        Runs without gradients and in evaluation mode, and leaves the mode as it found it. Holds back no
        more answers than the bucket looks ahead.

        Raises:
            TextError: if one text arrives where many inputs are meant.
            CompositionError: if a stage lost an input or answered one twice.
        """
        refuse_text(inputs)
        batches = self.predict_batches(_placed(inputs))
        waiting: dict[int, R] = {}
        due = 0
        while True:
            with _predicting(self):
                batch = next(batches, None)
            if batch is None:
                break
            for place, answer in batch.rows():
                if place < due or place in waiting:
                    msg = f"row {place} was answered twice; let each row keep the place that its door gave it."
                    raise CompositionError(msg, place=place)
                waiting[place] = answer
            while due in waiting:
                yield waiting.pop(due)
                due += 1
        if waiting:
            msg = f"row {due} was never answered, but later ones were; a stage of {self!r} lost it."
            raise CompositionError(msg, place=due)

    def inspect(self, value: I_contra) -> "Inspection":
        """Take one input through every stage, and show what each made of it."""
        from pipeline.summary.inspection import inspect_stages  # noqa: PLC0415

        with _predicting(self):
            return inspect_stages(next(_placed([value])), self.parts)

    def _through(self, values: Iterable[Any], *, serving: bool) -> Iterator[Any]:
        device = next((tensor.device for tensor in self.parameters()), None)
        flow: Iterable[Any] = values
        for number, part in enumerate(self.parts.values(), start=1):
            if is_stream(part):
                given = part.predict_batches(flow) if serving else part(flow)
            elif isinstance(part, nn.Module):
                given = map(part, map(_sender(device), flow))
            else:
                given = cast("Stage[Any, Any]", part).map(flow)
            flow = _each_told(given, number, part)
        return iter(flow)


_KINDS: Final = (Chain, TypePreservingChain, StreamChain)


def _through_each(parts: Mapping[str, StageBase], value: Any) -> Any:  # noqa: ANN401 - what each gives, the next takes
    if torch.compiler.is_compiling():
        for part in parts.values():
            value = cast("Any", part)(value)
        return value
    for number, part in enumerate(parts.values(), start=1):
        try:
            value = cast("Any", part)(value)
        except PipelineError as error:
            _tell(error, number, part)
            raise
    return value


def _each_told(given: Iterable[A], number: int, part: StageBase) -> Iterator[A]:
    """What a stage gives, one after another; an error on the way names the stage."""
    try:
        yield from given
    except PipelineError as error:
        _tell(error, number, part)
        raise


def _tell(error: PipelineError, number: int, part: StageBase) -> None:
    """Add to an error the stage at which it arose, unless one before this has done so."""
    if "stage_number" not in error.details:
        error.args = (f"stage {number} `{type(part).__name__}`: {error}", *error.args[1:])
        error.details = {**error.details, "stage_number": number}


def join(*row: StageBase) -> StageBase:
    """Parts in a row, or chains of them, as one chain, its sizes inferred and checked.

    Raises:
        CompositionError: if a size or the direction of sight does not fit, or two stages with weights
            have one name.
    """
    parts = _Joined(flat for part in row for flat in _flat(part))
    if any(is_stream(part) for part in parts):
        chain: StageBase = cast("StageBase", StreamChain(parts))
    elif all(isinstance(part, TypePreserving) for part in parts):
        chain = cast("StageBase", TypePreservingChain(parts))
    else:
        chain = cast("StageBase", Chain(parts))
    chain.build(Spec())
    return chain


def _flat(part: StageBase) -> Iterable[StageBase]:
    return part.parts.values() if isinstance(part, _Parts) else [part]


def name_stages(parts: Sequence[StageBase]) -> dict[str, StageBase]:
    """Give each part its name: those with weights first, so that their state-dict keys hang on nothing else."""
    names: dict[int, str] = {}
    for index, part in enumerate(parts):
        if part.name is None and not _has_weights(part):
            continue
        name = part.name or _snake(type(part).__name__)
        if not name.isidentifier() or name == "parts" or any(hasattr(kind, name) for kind in _KINDS):
            msg = f"stage {index + 1} is named {name!r}, which a chain cannot call it; choose another identifier."
            raise CompositionError(msg, name=name)
        if name in names.values():
            other = next(place for place, taken in names.items() if taken == name)
            msg = (
                f"stage {other + 1} `{type(parts[other]).__name__}` and stage {index + 1} `{type(part).__name__}` "
                f"are both named {name!r}, and both would keep their weights under it; give one a name: "
                f'{type(part).__name__}(..., name="{name}_2").'
            )
            raise CompositionError(msg, name=name)
        names[index] = name
    for index, part in enumerate(parts):
        name, number = _snake(type(part).__name__), 1
        while index not in names:
            candidate = name if number == 1 else f"{name}_{number}"
            if candidate not in names.values():
                names[index] = candidate
            number += 1
    return {names[index]: part for index, part in enumerate(parts)}


def _has_weights(part: StageBase) -> bool:
    """Whether a part has parameters or buffers, or will have them once it knows its size."""
    if not isinstance(part, nn.Module):
        return False
    return (
        getattr(part, "is_lazy", False) is True
        or any(True for _ in part.parameters())
        or any(True for _ in part.buffers())
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _build_parts(parts: Mapping[str, StageBase], spec: Spec) -> Spec:
    before: StageBase | None = None
    for index, part in enumerate(parts.values()):
        try:
            spec = part.build(spec)
        except CompositionError as error:
            if before is None:
                raise
            names = f"stage {index} `{type(before).__name__}` and stage {index + 1} `{type(part).__name__}`"
            msg = f"between {names}: {error}"
            raise CompositionError(msg, **error.details) from error
        before = part
    return spec


def _placed(inputs: Iterable[A]) -> Iterator[A]:
    """Inputs that are rows already, numbered anew: their own places may be from anywhere."""
    for place, value in enumerate(inputs):
        yield attrs.evolve(value, row_id=place) if is_row(value) else value


@contextmanager
def _predicting(module: nn.Module) -> Generator[None]:
    """Evaluation mode and no gradients for a while; each module's own mode is restored."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for child, training in modes.items():
            child.training = training


def _sender(device: torch.device | None) -> Callable[[Any], Any]:
    """What moves a collated batch to where the weights are."""

    def send(value: object) -> object:
        return value.to(device) if device is not None and is_batch(value) and value.values.device != device else value

    return send
