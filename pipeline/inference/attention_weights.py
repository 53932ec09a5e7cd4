"""The weights of a pipe's attentions, computed from the inputs of its attention stages and poolings."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import attrs
import numpy as np
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeIs, override

from pipeline.core.chain import Chain
from pipeline.core.running import Observer, run_stages
from pipeline.core.stage import Stage
from pipeline.core.stream_chain import StreamChain
from pipeline.data.batches import Batch
from pipeline.data.kinds import Kind, Nested
from pipeline.data.predictions import Span
from pipeline.data.rows import FILLER
from pipeline.data.states import MaybeCausal, States
from pipeline.data.tensors import to_floats, to_ints
from pipeline.errors import CompositionError, OptionError
from pipeline.inference.in_order import Run, run_in_order
from pipeline.inference.locator import Locator
from pipeline.parts.attention import Attention
from pipeline.parts.pooling import Pooling
from pipeline.stages.attend_local import AttendLocal
from pipeline.stages.attention_stage import AttentionStage
from pipeline.stages.branches import Branching
from pipeline.stages.cross_attend import CrossAttend
from pipeline.stages.each_step import EachStep
from pipeline.stages.pool import Pool

A = TypeVar("A")
C = TypeVar("C")

_EMPTY: Final = "·"
"""The label of a step without text, such as the end of a sentence."""


@attrs.frozen(eq=False)
class AttentionWeights:
    """The weights of all attentions of a pipe for one row.

    Attributes:
        weights: by the name of the stage, the weight of each step (key) in the context of each step (query), or, for a
            pooling, the weight of each step in the row's vector. Within a branch the name is `join.branch.stage`. The
            weights of a context sum to 1. On the CPU.
        spans: the start and the end of each step in the input, as in `StepPrediction`; None if they are not known.
        inner_weights: for rows whose steps are sequences themselves, the weights of the attentions in `EachStep`: by
            the name of the stage, such as `each_step.pool`, one tensor per step, like those of `weights`.
    """

    weights: Mapping[str, Float[Tensor, "*query key"]]
    spans: Sequence[Span] | None
    inner_weights: Mapping[str, Sequence[Float[Tensor, "*query key"]]] = attrs.field(
        factory=dict[str, Sequence[Tensor]]
    )

    def plot(self, file: str | os.PathLike[str], tokens: Sequence[str], *, names: Sequence[str] | None = None) -> Path:
        """Draw the weights as heat maps, one per stage: a row per query and a column per key. Needs the extra `plots`.

        Args:
            file: a path that ends in .svg, .png or .pdf.
            tokens: the text of each step; or the whole text of the row, from which the steps are cut by their spans.
            names: the stages to draw; all by default.

        Raises:
            MissingExtraError: if matplotlib is not installed.
            OptionError: for a suffix of another format, if there is not one token per step, if a text is given but the
                spans are not known, or if there is no such stage or no step.
        """
        from pipeline.pictures import draw_heat_map, draw_picture  # noqa: PLC0415 - opened for a picture only

        shown = self._select(names)
        steps = self._list_tokens(tokens, next(iter(shown.values())).shape[-1])
        # A pooling has one row, and an attention one per step.
        heights = [max(len(weights), 3) if weights.ndim > 1 else 3 for weights in shown.values()]
        width = min(3 + 0.25 * len(steps), 20)
        height = min(0.25 * sum(heights) + 1.2 * len(heights), 30)
        with draw_picture(file, width=width, height=height) as figure:
            panels = figure.subplots(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
            for axes, (name, weights) in zip(panels, shown.items(), strict=True):
                table = weights.reshape(-1, weights.shape[-1])
                rows = steps if weights.ndim > 1 else [name]
                values = np.array([to_floats(row) for row in table.double()], np.float64)
                draw_heat_map(axes, values, rows, steps, [[f"{value:.2f}" for value in row] for row in values])
                axes.set_title(f"{name}: weight of each step", loc="left", fontsize=9, parse_math=False)
        return Path(file)

    def _select(self, names: Sequence[str] | None) -> Mapping[str, Tensor]:
        """Return the weights of some stages.

        Raises:
            OptionError: if there is no such stage, or the row has no steps.
        """
        known = ", ".join(self.weights)
        unknown = next((name for name in names or () if name not in self.weights), None)
        if unknown is not None or (names is not None and not names):
            msg = f"names must be some of the stages {known}, got {names!r}."
            raise OptionError(msg, names=names)
        shown = {name: self.weights[name] for name in names or self.weights}
        if not all(weights.shape[-1] for weights in shown.values()):
            raise OptionError("the row has no steps, so that there are no weights to draw.")
        return shown

    def _list_tokens(self, tokens: Sequence[str], steps: int) -> Sequence[str]:
        """Return the text of each step.

        Raises:
            OptionError: if there is not one per step.
        """
        if isinstance(tokens, str):
            if self.spans is None:
                msg = "tokens must be one text per step, since their places in the text are not known; pass a list."
                raise OptionError(msg)
            tokens = [tokens[start:end] or _EMPTY for start, end in self.spans]
        if len(tokens) != steps:
            msg = f"tokens must have one text for each of {steps} steps, got {len(tokens)}; pass the steps of this row."
            raise OptionError(msg, tokens=len(tokens), steps=steps)
        return tokens


class _Weigher(Locator):
    """Computes the weights of each attention from its input, by row."""

    def __init__(self, pipe: StreamChain[A, C]) -> None:
        super().__init__(pipe.stages)
        self._names = list(pipe.stages)
        self.found: dict[int, dict[str, Tensor]] = {}
        self.found_inside: dict[int, dict[str, list[Tensor]]] = {}

    @override
    def see_output(self, number: int, stage: object, value: object, output: object) -> None:
        self.weigh(self._names[number - 1], stage, value)

    def weigh(self, name: str, stage: object, value: object) -> None:
        """Compute the weights of a stage, or of those inside its branches, from its input."""
        if _is_cross(stage):
            self._keep_cross(name, stage, value)
        if _is_each_step(stage):
            if _has_weights(stage.inner):
                self._keep_inside(name, stage, cast("Batch[Nested[Kind]]", value))
        elif isinstance(stage, Branching):
            # What a branch computes inside is not seen from outside: those with weights run again.
            for branch, inner in stage.branches.items():
                if _has_weights(inner):
                    self.weigh(f"{name}.{branch}", inner, value)
        elif isinstance(stage, Chain):
            stages = cast("Mapping[str, Stage[object, object]]", stage.stages)
            inside = _Inside(self, [f"{name}.{each}" for each in stages])
            run_stages(enumerate(stages.values(), start=1), value, observer=inside)
        elif isinstance(value, States):
            self._keep(name, stage, cast("States[MaybeCausal]", value))

    def _keep_cross(self, name: str, stage: "CrossAttend[Any, Any]", value: object) -> None:
        weights, query, key = stage.weigh(value)
        row_ids = to_ints(query.metadata.row_ids)
        sizes = zip(to_ints(query.lengths), to_ints(key.lengths), strict=True)
        for row_id, (steps, attended), row in zip(row_ids, sizes, weights.cpu(), strict=True):
            if row_id != FILLER:
                self.found.setdefault(row_id, {})[name] = row[:steps, :attended].clone()

    def _keep_inside(self, name: str, stage: "EachStep[Any]", batch: Batch[Nested[Kind]]) -> None:
        """Compute the weights of each distinct inner row once, and keep them for each step that has it."""
        outer, self.found = self.found, {}
        self.weigh(name, stage.inner, batch.inner)
        # The rows of the inner batch are numbered from 0, as the steps name them.
        found, self.found = [self.found[number] for number in sorted(self.found)], outer
        padded = batch.padded()
        row_ids, lengths = to_ints(batch.metadata.row_ids), to_ints(batch.lengths)
        for row, (row_id, length) in enumerate(zip(row_ids, lengths, strict=True)):
            if row_id != FILLER:
                inner = [found[number] for number in to_ints(padded.values[row, :length])]
                names = found[0] if found else ()
                kept = {each: [weights[each] for weights in inner] for each in names}
                self.found_inside.setdefault(row_id, {}).update(kept)
                self.found.setdefault(row_id, {})

    def _keep(self, name: str, stage: object, states: States[MaybeCausal]) -> None:
        weights = None
        if isinstance(stage, AttentionStage | AttendLocal):
            _check_weights(stage.get_part(states.steps.values.shape[-1]))
            weights = stage.weights(states)
        elif isinstance(stage, Pool):
            weights = stage.get_part(states.steps.values.shape[-1]).weights(states)
        if weights is None:
            return
        row_ids, lengths = to_ints(states.metadata.row_ids), to_ints(states.lengths)
        for row_id, length, row in zip(row_ids, lengths, weights.cpu(), strict=True):
            if row_id != FILLER:
                # A copy, since the row may wait for others, and would keep its whole batch.
                real = row[(slice(length),) * row.ndim].clone()
                self.found.setdefault(row_id, {})[name] = real


class _Inside(Observer):
    """Sees the stages of a branch, under the name of the branch."""

    def __init__(self, weigher: _Weigher, names: Sequence[str]) -> None:
        self._weigher = weigher
        self._names = names

    @override
    def see_output(self, number: int, stage: object, value: object, output: object) -> None:
        self._weigher.weigh(self._names[number - 1], stage, value)


def compute_attention_weights(pipe: StreamChain[A, C], run: Run[C], inputs: Iterable[A]) -> Iterator[AttentionWeights]:
    """Yield the weights for each input; see `StreamChain.attention_weights`."""
    if not _has_weights(pipe):
        msg = (
            f"attention_weights needs Attend, AttendEarlier, CrossAttend or Pool('attention'), but {pipe!r} has none "
            "of them."
        )
        raise CompositionError(msg)
    weigher = _Weigher(pipe)

    def unpack(_: C) -> Iterator[tuple[int, AttentionWeights]]:
        found, weigher.found = weigher.found, {}
        inside, weigher.found_inside = weigher.found_inside, {}
        for row_id, weights in found.items():
            spans = weigher.locate(row_id)
            weigher.forget(row_id)
            yield row_id, AttentionWeights(weights, spans, inside.get(row_id, {}))

    return run_in_order(pipe, run, inputs, unpack, weigher)


def _has_weights(stage: object) -> bool:
    """Return whether a stage, or one in its branches, is an attention or a pooling with weights."""
    if isinstance(stage, Pool):
        return stage.pooling is None or type(stage.pooling).weights is not Pooling.weights
    inner: Mapping[str, object] = {}
    if _is_each_step(stage):
        return _has_weights(stage.inner)
    if isinstance(stage, Branching):
        inner = stage.branches
    elif isinstance(stage, Chain | StreamChain):
        inner = cast("Mapping[str, object]", stage.stages)
    return isinstance(stage, AttentionStage | AttendLocal | CrossAttend) or any(map(_has_weights, inner.values()))


def _is_cross(stage: object) -> TypeIs[CrossAttend[Any, Any]]:
    return isinstance(stage, CrossAttend)


def _is_each_step(stage: object) -> TypeIs[EachStep[Any]]:
    return isinstance(stage, EachStep)


def _check_weights(attention: Attention) -> None:
    """Reject an attention whose weights are not those of its contexts.

    Raises:
        CompositionError: naming it.
    """
    cls = type(attention)
    if cls.forward is not Attention.forward and cls.weights is Attention.weights:
        msg = f"{cls.__name__} overrides forward but not weights, so that its weights are not known; override both."
        raise CompositionError(msg)
