"""Run several branches on one input, and combine their outputs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias, cast, final, get_args, overload

import torch
from torch import Tensor
from typing_extensions import TypeVar, override

from pipeline.checks.options import check_choice
from pipeline.core.naming import has_weights, make_default_name
from pipeline.core.stage import I_contra, ModuleStage, O_co, Reads, Spec, Stage, StageBase
from pipeline.data.batches import Batch, Padded
from pipeline.data.kinds import Hidden, Ids, Kind, Nested, Vectors
from pipeline.data.states import MaybeCausal, Pooled, S, States
from pipeline.errors import CompositionError, OptionError, ShapeError
from pipeline.parts.config import POSITIONAL
from pipeline.stages.branches import Branching, build_branch, check_vectors, join_features
from pipeline.stages.fields import Fields

A = TypeVar("A")
A_contra = TypeVar("A_contra", contravariant=True)
B = TypeVar("B")
C_co = TypeVar("C_co", covariant=True)
D = TypeVar("D", bound="Batch[Ids | Hidden | Fields | Nested[Kind]] | States[MaybeCausal]")
"""Inputs with one length per row. `Sides` have several, so that vectors of their steps cannot be joined."""

How: TypeAlias = Literal["concat", "sum", "mean", "max", "mul", "compare"]
"""How the outputs of branches are combined; see `Join`."""

_Vectors: TypeAlias = Batch[Vectors]


class Branch(Protocol[A_contra, B, C_co]):
    """The first branch of a join, whose input determines that of the others."""

    def __call__(self, value: A_contra, /) -> C_co:
        """Return the output of the branch."""
        ...

    def reads(self) -> Reads[B]:
        """Return the type of the input, for the type checker."""
        ...


def _compare(values: list[Tensor]) -> Tensor:
    first, second = values
    return torch.cat([first, second, (first - second).abs(), first * second], dim=-1)


_COMBINE: Final[Mapping[str, Callable[[list[Tensor]], Tensor]]] = {
    "concat": lambda values: torch.cat(values, dim=-1),
    "sum": lambda values: torch.stack(values).sum(0),
    "mean": lambda values: torch.stack(values).mean(0),
    "max": lambda values: torch.stack(values).amax(0),
    "mul": lambda values: torch.stack(values).prod(0),
    "compare": _compare,
}


@final
class Join(Branching, ModuleStage[I_contra, O_co]):
    """Run branches on the same input, and combine their outputs along the feature axis.

    Branches are stages or chains that all return vectors per step, all states, or all pooled vectors. Each may take
    one field of the input: `Join(Event.code >> Embed(9, 4), Event.amount)`. If inputs differ in how general they are,
    the narrowest branch comes first.

    Args:
        first: a branch.
        more: the other branches.
        how: `concat` puts the features side by side; `sum`, `mean`, `max` and `mul` need equal sizes and combine
            number by number; `compare` takes two branches u and v, and gives u, v, |u - v| and u * v side by side.
        name: the stage's name in its chain.

    Raises:
        OptionError: if there are fewer than two branches, or not two for `compare`.
        CompositionError: by `>>`, if sizes differ where they must be equal.

    Source: Conneau et al. 2017, "Supervised Learning of Universal Sentence Representations", arXiv:1705.02364
    (`compare`).

    Example:
        >>> from pipeline import Pool
        >>> states = States.from_padded(torch.tensor([[[1.0], [3.0]]]), torch.tensor([2]))
        >>> Join(Pool("mean"), Pool("max"))(states).values
        tensor([[2., 3.]])
    """

    @overload
    def __init__(
        self: "Join[A, _Vectors]",
        first: Branch[A, D, _Vectors],
        /,
        *more: Stage[D, _Vectors],
        how: How = "concat",
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Join[A, States[S]]",
        first: Branch[A, D, States[S]],
        /,
        *more: Stage[D, States[S]],
        how: How = "concat",
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Join[A, Pooled]",
        first: Branch[A, B, Pooled],
        /,
        *more: Stage[B, Pooled],
        how: How = "concat",
        name: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        first: Any,
        /,
        *more: Any,
        how: How = "concat",
        name: str | None = None,
    ) -> None:
        check_choice("how", how, get_args(How))
        branches = [cast("StageBase", branch) for branch in (first, *more)]
        if len(branches) < 2 or (how == "compare" and len(branches) != 2):
            rule = "two branches" if how == "compare" else "two branches or more"
            msg = f"Join must get {rule}, got {len(branches)}; a single branch needs no Join."
            raise OptionError(msg, branches=len(branches))
        super().__init__(name_branches(branches))
        self.name = name
        self.how: How = how

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        return {POSITIONAL: list(self.branches.values()), "how": self.how, "name": self.name}

    @override
    def build(self, spec: Spec, /) -> Spec:
        built = [build_branch(stage, spec, f"branch {name!r}") for name, stage in self.branches.items()]
        sizes = {name: each.size for name, each in zip(self.branches, built, strict=True)}
        known = {size for size in sizes.values() if size is not None}
        if self.how != "concat" and len(known) > 1:
            got = ", ".join(f"{name} has {size}" for name, size in sizes.items())
            msg = f"branches of Join(how={self.how!r}) must have one size, but {got}; make them equal, or concatenate."
            raise CompositionError(msg, sizes=sizes)
        size = None
        if None not in sizes.values():
            if self.how == "concat":
                size = sum(each for each in sizes.values() if each is not None)
            else:
                size = next(iter(known)) * (4 if self.how == "compare" else 1)
        causal = [each.causal for each in built]
        return Spec(
            size=size,
            causal=False if False in causal else None if None in causal else True,
            outdated=next((each.outdated for each in built if each.outdated is not None), None),
            unsized=next((each.unsized for each in built if each.size is None and each.unsized is not None), None),
        )

    @override
    def forward(self, value: I_contra) -> O_co:
        """Return the combined outputs of all branches.

        Raises:
            ShapeError: if branches return different types, rows or sizes.
        """
        outputs = [cast("Stage[Any, Any]", stage)(value) for stage in self.branches.values()]
        return cast("O_co", self._combine(value, outputs))

    def _combine(self, value: object, outputs: Sequence[object]) -> object:
        combine = _COMBINE[self.how]
        if all(isinstance(output, Pooled) for output in outputs):
            pooled = cast("Sequence[Pooled]", outputs)
            self._check_sizes([each.values for each in pooled])
            return pooled[0].with_values(combine([each.values for each in pooled]))
        if all(isinstance(output, States) for output in outputs):
            states = cast("Sequence[States[MaybeCausal]]", outputs)
            self._check_sizes([each.final for each in states])
            steps = [each.steps for each in states]
            joined = join_features(steps[0], dict(zip(self.branches, steps, strict=True)), combine)
            outdated = next((each.outdated for each in states if each.outdated is not None), None)
            hidden = joined.with_values(joined.values)  # as Hidden, and without an initial carry
            final = combine([each.final for each in states])
            return States(hidden, final, outdated=outdated)
        if all(hasattr(output, "kind") for output in outputs):
            check_vectors(dict(zip(self.branches, outputs, strict=True)))
            batches = cast("Sequence[Batch[Vectors]]", outputs)
            # A graph would count the steps of each branch, and compare their numbers.
            if not torch.compiler.is_compiling():
                self._check_sizes([each.packed().values for each in batches])
            source = cast("Batch[Kind]", value if isinstance(value, Padded) else batches[0])
            return join_features(source, dict(zip(self.branches, batches, strict=True)), combine)
        got = ", ".join(
            f"{name} returns {type(each).__name__}" for name, each in zip(self.branches, outputs, strict=True)
        )
        msg = f"branches of Join must all return vectors, all states or all pooled vectors, but {got}."
        raise ShapeError(msg)

    def _check_sizes(self, values: Sequence[Tensor]) -> None:
        shapes = [tensor.shape if self.how != "concat" else tensor.shape[:1] for tensor in values]
        if any(shape != shapes[0] for shape in shapes):
            got = ", ".join(
                f"{name} returns {tuple(each.shape)}" for name, each in zip(self.branches, values, strict=True)
            )
            msg = f"branches of Join(how={self.how!r}) must return the same rows and sizes that fit, but {got}."
            raise ShapeError(msg)

    def _list(self, outputs: Sequence[str]) -> str:
        return ", ".join(f"{name} returns {output}" for name, output in zip(self.branches, outputs, strict=True))


def name_branches(branches: Sequence[StageBase]) -> dict[str, StageBase]:
    """Give each branch a name: its own, or that of its first stage with weights, numbered if it is taken."""
    names: dict[str, StageBase] = {}
    for branch in branches:
        stages: Mapping[str, StageBase] = getattr(branch, "stages", {})
        weighted = (name for name, stage in stages.items() if has_weights(stage))
        name = branch.name or next(weighted, None) or make_default_name(type(branch))
        number = 1
        while (numbered := name if number == 1 else f"{name}_{number}") in names:
            number += 1
        names[numbered] = branch
    return names
