"""Several heads on one body: one prediction per row that joins those of all heads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Generic, TypeAlias, cast, final, overload

import attrs
from typing_extensions import TypeVar, override

from pipeline.checks.hints import describe
from pipeline.core.stage import I_contra, ModuleStage, Spec, Stage, StageBase
from pipeline.data.scores import Predictions
from pipeline.data.values import D_co, Joint
from pipeline.errors import OptionError, ShapeError
from pipeline.parts.config import POSITIONAL
from pipeline.stages.branches import Branching, build_branch
from pipeline.stages.join import Branch, name_branches

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
D = TypeVar("D")
D1 = TypeVar("D1")
D2 = TypeVar("D2")
D3 = TypeVar("D3")
D4 = TypeVar("D4")
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")

_Head: TypeAlias = Stage[B, Predictions[R, D]]


@final
class Heads(Branching, ModuleStage[I_contra, Joint[R, D_co]], Generic[I_contra, R, D_co]):
    """Run several heads on the same input, each with targets and a loss of its own.

    The prediction of a row joins those of its heads: in a tuple, or in the class that is passed as `into`, whose
    arguments they become in their order. Targets are several by name: `Pad(targets={"label": labels, "amount":
    Numbers()})`, with a mapping per row. A row without a target for one of the heads has no weight in that head's loss.

    Args:
        first: a head, or a chain that ends with one.
        more: the other heads.
        into: makes one prediction of those of the heads, usually an attrs class or a dataclass with a field per head.
        names: the name of each head, under which are its targets, its loss and its weights in the state-dict. By
            default the fields of `into`, or else the names of the stages.
        weights: the weight of each head's loss, by name; 1 by default.
        name: the stage's name in its chain.

    Raises:
        OptionError: if there are fewer than two heads, names are not one per head and unique, or a weight has no head.

    Example:
        >>> import torch
        >>> from pipeline import Classify, Labels, Pooled, Regress
        >>> @attrs.frozen
        ... class Verdict:
        ...     label: str
        ...     amount: float
        >>> heads = Heads(Classify(Labels(["ham", "spam"])), Regress(), into=Verdict, weights={"amount": 0.1})
        >>> _ = heads.build(Spec(size=3))
        >>> sorted(heads.state_dict())
        ['amount.linear.bias', 'amount.linear.weight', 'label.linear.bias', 'label.linear.weight']
        >>> [type(verdict).__name__ for _, verdict in heads(Pooled(torch.ones(1, 3))).rows()]
        ['Verdict']
    """

    @overload
    def __init__(
        self: "Heads[A, tuple[R1, R2], tuple[D1, D2]]",
        first: Branch[A, B, Predictions[R1, D1]],
        second: _Head[B, R2, D2],
        /,
        *,
        names: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Heads[A, C, tuple[D1, D2]]",
        first: Branch[A, B, Predictions[R1, D1]],
        second: _Head[B, R2, D2],
        /,
        *,
        into: Callable[[R1, R2], C],
        names: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Heads[A, tuple[R1, R2, R3], tuple[D1, D2, D3]]",
        first: Branch[A, B, Predictions[R1, D1]],
        second: _Head[B, R2, D2],
        third: _Head[B, R3, D3],
        /,
        *,
        names: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Heads[A, C, tuple[D1, D2, D3]]",
        first: Branch[A, B, Predictions[R1, D1]],
        second: _Head[B, R2, D2],
        third: _Head[B, R3, D3],
        /,
        *,
        into: Callable[[R1, R2, R3], C],
        names: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Heads[A, tuple[R1, R2, R3, R4], tuple[D1, D2, D3, D4]]",
        first: Branch[A, B, Predictions[R1, D1]],
        second: _Head[B, R2, D2],
        third: _Head[B, R3, D3],
        fourth: _Head[B, R4, D4],
        /,
        *,
        names: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Heads[A, C, tuple[D1, D2, D3, D4]]",
        first: Branch[A, B, Predictions[R1, D1]],
        second: _Head[B, R2, D2],
        third: _Head[B, R3, D3],
        fourth: _Head[B, R4, D4],
        /,
        *,
        into: Callable[[R1, R2, R3, R4], C],
        names: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        *heads: Any,
        into: Callable[..., Any] | None = None,
        names: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None:
        if len(heads) == 1 and hasattr(heads[0], "__iter__"):
            msg = f"Heads must get its heads one by one, got {describe(heads[0])} of them; pass Heads(*heads)."
            raise OptionError(msg, heads=heads[0])
        if len(heads) < 2:
            msg = f"Heads must get two heads or more, got {len(heads)}; a single head needs no Heads."
            raise OptionError(msg, heads=len(heads))
        stages = cast("Sequence[StageBase]", heads)
        super().__init__(dict(zip(_name_heads(stages, into, names), stages, strict=True)))
        self.name = name
        unknown = next((each for each in weights or {} if each not in self.branches), None)
        if unknown is not None:
            msg = f"weights must be for the heads {', '.join(self.branches)}, got one for {unknown!r}."
            raise OptionError(msg, weights=weights)
        for head, weight in (weights or {}).items():
            given = cast("object", weight)
            if isinstance(given, bool) or not isinstance(given, int | float) or not isfinite(given):
                msg = f"weights[{head!r}] must be a finite number, got {given!r:.60}; leave it out for 1."
                raise OptionError(msg, weights=weights)
        self.weights: Mapping[str, float] = {each: (weights or {}).get(each, 1.0) for each in self.branches}
        self.into: Callable[..., R] = _make_tuple if into is None else into

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        into = None if self.into is _make_tuple else self.into
        options = {"into": into, "names": list(self.branches), "weights": self.weights, "name": self.name}
        return {POSITIONAL: list(self.branches.values()), **options}

    @override
    def build(self, spec: Spec, /) -> Spec:
        for name, stage in self.branches.items():
            build_branch(stage, spec, f"head {name!r}")
        return Spec()

    @override
    def forward(self, value: I_contra) -> Joint[R, D_co]:
        """Return the predictions of all heads.

        Raises:
            ShapeError: if the input is no batch, or a head returns no predictions.
            TargetError: if the batch has targets by name, but not for a head.
        """
        metadata = getattr(value, "metadata", None)
        if metadata is None:
            msg = f"the input of Heads must be Pooled or States, got {describe(value)}; join it after Pool or Encode."
            raise ShapeError(msg)
        has_names = metadata.named_targets is not None
        parts: dict[str, Predictions[object]] = {}
        for name, stage in self.branches.items():
            # Each head sees its own targets only, as if it were alone.
            own = _with_metadata(value, metadata.select_targets(name)) if has_names else value
            found: object = cast("Stage[Any, Any]", stage)(own)
            if not isinstance(found, Predictions):
                msg = (
                    f"head {name!r} must return predictions, got {describe(found)}; end it with a head, like Classify."
                )
                raise ShapeError(msg, head=name)
            parts[name] = cast("Predictions[object]", found)
        return Joint(parts, self.into, self.weights, metadata=metadata)


def _make_tuple(*predictions: object) -> Any:  # noqa: ANN401 - the overloads state the type
    return predictions


def _with_metadata(value: A, metadata: object) -> A:
    # States have the metadata of their steps.
    evolve = cast("Callable[..., Any]", attrs.evolve)
    steps = getattr(value, "steps", None)
    return cast(
        "A",
        evolve(value, metadata=metadata) if steps is None else evolve(value, steps=evolve(steps, metadata=metadata)),
    )


def _name_heads(
    heads: Sequence[StageBase], into: Callable[..., object] | None, names: Sequence[str] | None
) -> Sequence[str]:
    """Return the names of the heads.

    Raises:
        OptionError: if there is not one name per head, or two are equal.
    """
    if names is None and isinstance(into, type):
        if attrs.has(into):
            names = [field.name for field in attrs.fields(into)]
        else:
            found: object = getattr(into, "__dataclass_fields__", None) or getattr(into, "_fields", ())
            names = list(cast("Iterable[str]", found)) or None
    if names is None:
        names = list(name_branches(heads))
    if len(names) != len(heads) or len(set(names)) != len(names):
        msg = f"Heads must have one name per head, got {list(names)} for {len(heads)} heads; pass names=[...]."
        raise OptionError(msg, names=names)
    return names
