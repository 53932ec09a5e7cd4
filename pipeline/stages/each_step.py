"""Turn each step that is a sequence itself into one vector: words by their characters, documents by their sentences."""

from typing import Generic, cast, final

from torch.nn import functional
from typing_extensions import override

from pipeline.checks.hints import describe
from pipeline.core.stage import ModuleStage, Spec, Stage
from pipeline.data.batches import Batch, Packed, derive_vectors
from pipeline.data.kinds import K, Nested, Vectors, format_kind
from pipeline.data.states import Pooled
from pipeline.errors import PipelineError, ShapeError
from pipeline.stages.branches import build_branch


@final
class EachStep(ModuleStage[Batch[Nested[K]], Batch[Vectors]], Generic[K]):
    """Turn each step of nested rows into one vector, with a chain that pools the inner rows.

    Each distinct inner row of a batch is computed once, however often it occurs. So equal words of one batch get equal
    vectors, also with dropout in the chain.

    Args:
        inner: a stage or chain from packed inner rows to one vector per row.
        name: the stage's name in its chain.

    Source: Lample et al. 2016, "Neural Architectures for Named Entity Recognition", arXiv:1603.01360 (words by their
    characters).

    Example:
        >>> import torch
        >>> from pipeline import Embed, Encode, Ids, Pad, Pool, Row
        >>> spell = EachStep(Embed(99, 8) >> Encode("bilstm", hidden_size=5) >> Pool("final"))
        >>> words = Nested(Ids(torch.tensor([7, 4, 9])), torch.tensor([1, 2]))  # a word of one letter, one of two
        >>> spell(Pad(Nested[Ids])([Row(words)])).values.shape
        torch.Size([1, 2, 10])
    """

    stepwise = True

    def __init__(self, inner: Stage[Packed[K], Pooled], *, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.inner = inner

    @override
    def build(self, spec: Spec, /) -> Spec:
        return Spec(size=build_branch(self.inner, Spec(), "the inner chain of EachStep").size)

    @override
    def forward(self, value: Batch[Nested[K]]) -> Batch[Vectors]:
        """Return one vector per step, in the layout of the batch; the padding is zeros.

        Raises:
            ShapeError: if the batch is not nested, or the inner chain does not return one vector per inner row.
        """
        if value.inner is None:
            msg = f"the input of EachStep must be Nested, got {format_kind(value.kind)}; select the nested field first."
            raise ShapeError(msg)
        try:
            pooled = cast("object", self.inner(cast("Packed[K]", value.inner)))
        except PipelineError as error:
            _locate_inner_row(error, value)
            raise
        # Not len(...), which a graph would store as a constant.
        rows = value.inner.lengths.shape[0]
        if not isinstance(pooled, Pooled) or pooled.values.shape[0] != rows:
            msg = (
                f"the inner chain of EachStep must return Pooled with one vector for each of {rows} inner rows, got "
                f"{describe(pooled)}; end it with Pool."
            )
            raise ShapeError(msg)
        vectors = pooled.values
        numbers = value.values if isinstance(value, Packed) else value.fill_padding(0).values
        steps = derive_vectors(functional.embedding(numbers, vectors), value, value.initial_carry)
        return steps if isinstance(steps, Packed) else steps.fill_padding(0)


def _locate_inner_row(error: PipelineError, value: Batch[Nested[K]]) -> None:
    """Say where an inner row first occurs, since its number among the distinct ones is no row id."""
    number = error.details.get("row")
    packed = value.packed()
    for step in (packed.values == number).nonzero().flatten()[:1] if isinstance(number, int) else ():
        row, time = int(packed.metadata.row_ids[packed.order.row_of_step[step]]), int(packed.order.time_of_step[step])
        error.args = (f"in the inner row at step {time} of row {row}, which is distinct row {number}: {error}",)
        error.details = {**error.details, "row": row, "step": time}
