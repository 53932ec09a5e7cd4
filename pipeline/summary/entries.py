"""The stages of a pipe, made ready for a walk without data: what stands in for each, and what is known of it."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, cast

import attrs
from torch import nn

from pipeline.core.stage import Spec, StageBase, TypePreserving
from pipeline.errors import CompositionError, PipelineError
from pipeline.summary.shapes import twin
from pipeline.summary.types import candidates, narrower, types_of

_PROBE: Final = -1
"""A size that no part has: what becomes of it shows whether a stage passes sizes on."""


@attrs.frozen(eq=False)
class Stop:
    """A stage of a pipe, and what stands in for it.

    Attributes:
        number: its place, from 1.
        part: the stage itself, which is only looked at.
        twin: a copy without content, which is run; None if there is none.
        takes: the type of what comes in.
        gives: the type of what goes out.
        before: what the stages before it say of what comes in.
        after: what it says of what goes out.
        passes: whether what goes out has the size of what comes in.
        reads: the size that comes in, by what this stage and those after it say; None if they do not.
        unknown: why there is no twin; empty if there is one, or none is needed.
        problem: why it does not fit the stage before it; None if it may.
    """

    number: int
    part: StageBase
    twin: nn.Module | None
    takes: object
    gives: object
    before: Spec
    after: Spec
    passes: bool
    reads: int | None = None
    unknown: str = ""
    problem: PipelineError | None = None

    @property
    def size(self) -> int | None:
        """The size that comes in; None if nothing says it."""
        return self.reads if self.before.size is None else self.before.size

    @property
    def is_lazy(self) -> bool:
        """Whether it has a part that is not made yet, for want of its input size."""
        return getattr(self.part, "is_lazy", False) is True

    @property
    def open(self) -> bool:
        """Whether it leaves open which size it gives, though it could say it."""
        return self.after.size is None and type(self.part).build is StageBase.build


def prepared(parts: Mapping[str, StageBase]) -> Sequence[Stop]:
    """A stop for every stage. The stages are not changed, nor are their weights copied."""
    memo: dict[int, Any] = {}
    stops: list[Stop] = []
    spec = Spec()
    for number, part in enumerate(parts.values(), start=1):
        copied, unknown = _copied(part, memo)
        takes, gives = types_of(part)
        before, problem = spec, None
        spec = Spec()
        try:
            spec = _stand_in(part, copied).build(before)
        except CompositionError as error:
            problem = error
        except Exception:  # noqa: BLE001 - a stranger's `fit` may raise anything; nothing is known then
            spec = Spec()
        passes = _passes(part, copied)
        stops.append(Stop(number, part, copied, takes, gives, before, spec, passes, unknown=unknown, problem=problem))
    return [attrs.evolve(stop, reads=_reads(stops[index:])) for index, stop in enumerate(stops)]


def allowed(stops: Sequence[Stop]) -> Sequence[object]:
    """The types that may come in: what keeps its type takes only what the stage after it takes."""
    hints = candidates(stops[0].takes)
    for before, stop in pairwise(stops):
        if not isinstance(before.part, TypePreserving):
            break
        others = candidates(stop.takes)
        hints = [both for one in hints for other in others if (both := narrower(one, other)) is not None] or hints
    return hints


def modules(stops: Sequence[Stop]) -> Iterator[nn.Module]:
    """The stages that are modules."""
    return (stop.part for stop in stops if isinstance(stop.part, nn.Module))


def brief(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 120 else text[:117] + '...'}"


def _copied(part: StageBase, memo: dict[int, Any]) -> tuple[nn.Module | None, str]:
    if not isinstance(part, nn.Module):
        return None, ""
    try:
        return twin(part, memo), ""
    except Exception as error:  # noqa: BLE001 - a stranger's module may hold what cannot be copied
        return None, f"cannot be copied: {brief(error)}"


def _stand_in(part: StageBase, copied: nn.Module | None) -> StageBase:
    return copy.copy(part) if copied is None else cast("StageBase", copied)


def _passes(part: StageBase, copied: nn.Module | None) -> bool:
    try:
        stand_in = copy.copy(part) if copied is None else cast("StageBase", copy.deepcopy(copied))
        return stand_in.build(Spec(_PROBE)).size == _PROBE
    except Exception:  # noqa: BLE001 - a size that no part has may be refused in any way
        return False


def _reads(stops: Sequence[Stop]) -> int | None:
    """The size that the first stage reads that says so, if those before it pass sizes on."""
    for stop in stops:
        size = _declared(stop.part)
        if size is not None:
            return size
        if stop.is_lazy or not stop.passes:
            return None
    return None


def _declared(part: StageBase) -> int | None:
    children = list(part.children()) if isinstance(part, nn.Module) else []
    said: list[object] = [getattr(part, "input_size", None)]
    said += [getattr(child, "input_size", getattr(child, "in_features", None)) for child in children]
    sizes = [size for size in said if isinstance(size, int)]
    # Of two, nothing says which one reads what comes in.
    return sizes[0] if len(sizes) == 1 and sizes[0] > 0 else None
