"""Pool each row's states into one vector."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, final, overload

import attrs
from typing_extensions import override

from pipeline.builtin.pools import FinalPool, FirstPool, LastPool
from pipeline.checks.hints import describe
from pipeline.checks.switches import checks_enabled
from pipeline.core.stage import ModuleStage, Spec, Stage, Stream, TypePreserving
from pipeline.data.batches import Batch
from pipeline.data.kinds import Hidden, Kind
from pipeline.data.states import MaybeCausal, Pooled, States, last_by_row
from pipeline.errors import CompositionError, ShapeError
from pipeline.parts.config import POSITIONAL
from pipeline.parts.pooling import Pooling
from pipeline.registry import registry
from pipeline.registry.catalogue import Catalogue
from pipeline.stages.part_stage import PartStage

if TYPE_CHECKING:
    from pipeline.core.chain import Chain
    from pipeline.core.stream_chain import StreamChain

A = TypeVar("A")
C = TypeVar("C")


@final
class Pool(PartStage[Pooling], ModuleStage[States[MaybeCausal], Pooled]):
    """Pool each row into one vector, from its real steps only; an empty row gives zeros.

    It takes states, and after a stage such as `Embed` also vectors that no encoder has read: a bag of embeddings. For
    several poolings at once, join them: `Join(Pool("mean"), Pool("max"))`.

    Args:
        pooling: a pooling, or the name of a registered one: `final` (the encoder's final state), `last` and `first`
            (the vector of that step; not for a bidirectional encoder, of which one direction begins there: joining both
            gives a warning), `mean`, `max`, `min`, `sum`, `mean_sqrt`, `mean_std`, `logsumexp`, `kmax`,
            `quantiles`, or a plugin's.
        name: the stage's name in its chain.
        options: options of the pooling, if it is given by name. `input_size`, if it needs one, may be left out; it is
            then taken from the stage before.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the pooling does not take an option.

    Example:
        >>> import torch
        >>> states = States.from_padded(torch.tensor([[[1.0], [3.0], [torch.nan]]]), torch.tensor([2]))
        >>> Pool("mean")(states).values.tolist()
        [[2.0]]

        Without an encoder:

        >>> from pipeline import Classify, Embed
        >>> sorted((Embed(9, 4) >> Pool("mean") >> Classify(3)).state_dict())
        ['classify.linear.bias', 'classify.linear.weight', 'embed.weight']
    """

    pooling: Pooling | None

    @overload
    def __init__(self, pooling: Pooling, *, name: str | None = None) -> None: ...
    @overload
    def __init__(self, pooling: str, *, name: str | None = None, **options: object) -> None: ...
    def __init__(self, pooling: Pooling | str, *, name: str | None = None, **options: object) -> None:
        super().__init__(pooling, "pooling", name, options)

    if TYPE_CHECKING:
        # Batches of vectors are accepted too. They are no part of the type of the input: with a union, the input of
        # `AttendEarlier() >> Pool(...)`, and of branches of which one is a pool, would have no type.
        @overload
        def __rrshift__(self: Stage[A, C], before: TypePreserving[A], /) -> "Chain[A, C]": ...
        @overload
        def __rrshift__(self, before: Stage[A, Batch[Hidden]], /) -> "Chain[A, Pooled]": ...
        @overload
        def __rrshift__(self, before: Stream[A, Batch[Hidden]], /) -> "StreamChain[A, Pooled]": ...
        def __rrshift__(self, before: Any, /) -> Any: ...

    @property
    def reads_final_states(self) -> bool:
        """Whether the pooling reads the encoder's final states instead of the steps."""
        return isinstance(self.part, FinalPool)

    @property
    def reads_one_step(self) -> Literal["first", "last"] | None:
        """The only step that the pooling reads; None if it reads others or all."""
        return "first" if isinstance(self.part, FirstPool) else "last" if isinstance(self.part, LastPool) else None

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        pooling, options = self.get_part_config()
        return {POSITIONAL: [pooling], "name": self.name, **options}

    @override
    def get_catalogue(self) -> Catalogue[Pooling]:
        return registry().pools

    @override
    def build(self, spec: Spec, /) -> Spec:
        pooling = self.make_part(spec)
        if self.reads_final_states and spec.outdated is not None:
            msg = (
                f"{spec.outdated} has no effect on Pool('final'), which reads the encoder's final states and no steps; "
                f"choose another pooling, such as 'last' or 'mean', or leave {spec.outdated} out (Dropout may follow "
                "Pool)."
            )
            raise CompositionError(msg, stage=spec.outdated)
        size = None if pooling is None else spec.size or pooling.input_size
        return attrs.evolve(
            spec, size=None if pooling is None or size is None else pooling.output_size(size), outdated=None
        )

    @override
    def forward(self, value: States[MaybeCausal] | Batch[Hidden]) -> Pooled:
        """Return one vector per row.

        Raises:
            CompositionError: if the pooling's input size is not known yet; for the pooling `final`, if the steps were
                changed after the encoder, or no final states were given.
            ShapeError: if the states have another size than the pooling's input size, or a batch holds no vectors.
        """
        states = value if isinstance(value, States) else _make_states(value)
        size = states.steps.values.shape[-1]
        pooling = self.get_part(size)
        vectors = pooling(states)
        if checks_enabled():
            if self.reads_final_states and states.outdated is not None:
                msg = (
                    f"Pool('final') reads the final states, but {states.outdated}; choose another pooling, such as "
                    "'last' or 'mean', or pass final states: States(steps, final), or from_padded(..., final=...)."
                )
                raise CompositionError(msg)
            wanted = (len(states.lengths), pooling.output_size(size))
            if vectors.shape != wanted:
                msg = (
                    f"pooling {self.part_name!r} must return one vector per row, batch x output_size of {wanted}, "
                    f"got {describe(vectors)}; fix its forward, or its output_size."
                )
                raise ShapeError(msg, part=self.part_name)
        return Pooled(vectors, metadata=states.metadata)


def _make_states(batch: Batch[Hidden]) -> States[MaybeCausal]:
    """Return a batch of vectors as states, for poolings of its steps."""
    kind = cast("type[Kind]", batch.kind)
    if not issubclass(kind, Hidden):
        msg = f"the input of Pool must be states or vectors, got {kind.__name__}; embed ids first, with Embed."
        raise ShapeError(msg)
    return States(batch, last_by_row(batch), outdated="the batch was not encoded")
