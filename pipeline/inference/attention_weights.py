"""The weights of a pipe's attentions, computed from the inputs of its attention stages and poolings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar, cast

import attrs
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from pipeline.core.chain import Chain, StreamChain
from pipeline.core.running import Observer, run_stages
from pipeline.core.stage import Stage
from pipeline.data.predictions import Span
from pipeline.data.rows import FILLER
from pipeline.data.states import MaybeCausal, States
from pipeline.data.tensors import to_ints
from pipeline.errors import CompositionError
from pipeline.inference.in_order import Run, run_in_order
from pipeline.inference.locator import Locator
from pipeline.parts.attention import Attention
from pipeline.parts.pooling import Pooling
from pipeline.stages.attend import AttentionStage
from pipeline.stages.branches import Branching
from pipeline.stages.pool import Pool

A = TypeVar("A")
C = TypeVar("C")


@attrs.frozen(eq=False)
class AttentionWeights:
    """The weights of all attentions of a pipe for one row.

    Attributes:
        weights: by the name of the stage, the weight of each step (key) in the context of each step (query), or, for a
            pooling, the weight of each step in the row's vector. Within a branch the name is `join.branch.stage`. The
            weights of a context sum to 1. On the CPU.
        spans: the start and the end of each step in the input, as in `StepPrediction`; None if they are not known.
    """

    weights: Mapping[str, Float[Tensor, "*query key"]]
    spans: Sequence[Span] | None


class _Weigher(Locator):
    """Computes the weights of each attention from its input, by row."""

    def __init__(self, pipe: StreamChain[A, C]) -> None:
        super().__init__(pipe.stages)
        self._names = list(pipe.stages)
        self.found: dict[int, dict[str, Tensor]] = {}

    @override
    def see_output(self, number: int, stage: object, value: object, output: object) -> None:
        self.weigh(self._names[number - 1], stage, value)

    def weigh(self, name: str, stage: object, value: object) -> None:
        """Compute the weights of a stage, or of those inside its branches, from its input."""
        if isinstance(stage, Branching):
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

    def _keep(self, name: str, stage: object, states: States[MaybeCausal]) -> None:
        weights = None
        if isinstance(stage, AttentionStage):
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
        msg = f"attention_weights needs Attend, AttendEarlier or Pool('attention'), but {pipe!r} has none of them."
        raise CompositionError(msg)
    weigher = _Weigher(pipe)

    def unpack(_: C) -> Iterator[tuple[int, AttentionWeights]]:
        found, weigher.found = weigher.found, {}
        for row_id, weights in found.items():
            spans = weigher.locate(row_id)
            weigher.forget(row_id)
            yield row_id, AttentionWeights(weights, spans)

    return run_in_order(pipe, run, inputs, unpack, weigher)


def _has_weights(stage: object) -> bool:
    """Return whether a stage, or one in its branches, is an attention or a pooling with weights."""
    if isinstance(stage, Pool):
        return stage.pooling is None or type(stage.pooling).weights is not Pooling.weights
    inner: Mapping[str, object] = {}
    if isinstance(stage, Branching):
        inner = stage.branches
    elif isinstance(stage, Chain | StreamChain):
        inner = cast("Mapping[str, object]", stage.stages)
    return isinstance(stage, AttentionStage) or any(map(_has_weights, inner.values()))


def _check_weights(attention: Attention) -> None:
    """Reject an attention whose weights are not those of its contexts.

    Raises:
        CompositionError: naming it.
    """
    cls = type(attention)
    if cls.forward is not Attention.forward and cls.weights is Attention.weights:
        msg = f"{cls.__name__} overrides forward but not weights, so that its weights are not known; override both."
        raise CompositionError(msg)
