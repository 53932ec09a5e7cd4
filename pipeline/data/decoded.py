"""Texts that a decoder generated, and its scores of the target texts."""

from collections.abc import Iterator, Sequence
from typing import Generic

import attrs
from torch import Tensor
from typing_extensions import TypeVar, Unpack, override

from pipeline.data.generation import Generation
from pipeline.data.loss_options import ClassLossOptions
from pipeline.data.metadata import BatchMetadata, Collated
from pipeline.data.predictions import LocateSteps
from pipeline.data.rows import FILLER
from pipeline.data.scores import Predictions, StepScores, make_missing_error
from pipeline.data.tensors import to_ints
from pipeline.data.trees import as_pytree
from pipeline.errors import CompositionError

R = TypeVar("R", default=str)


@as_pytree
@attrs.frozen(eq=False)
class Decoded(Collated, Predictions[R, list[Generation[R]]], Generic[R]):
    """The output of a decoder: generated texts, and scores of the target texts.

    Attributes:
        scores: the scores of each token of the targets, each given the true tokens before it (teacher forcing), as rows
            of their own; None if the batch has no targets.
        generated: the generated texts of each row, best first; None in training mode, where none are generated.
        metadata: row ids and targets.
    """

    scores: StepScores[int] | None
    generated: Sequence[Sequence[Generation[R]]] | None
    metadata: BatchMetadata = attrs.field(kw_only=True)

    def rows(self) -> Iterator[tuple[int, R]]:
        """Yield the row id and the best text of each row.

        Raises:
            CompositionError: if the decoder was in training mode.
        """
        return ((row_id, found[0].output) for row_id, found in self.scored_rows())

    @override
    def scored_rows(self, locate: LocateSteps | None = None, /) -> Iterator[tuple[int, list[Generation[R]]]]:
        """Yield the row id and the generated texts of each row, best first, with their log-probabilities."""
        if self.generated is None:
            msg = "a decoder generates nothing in training mode; set it to evaluation mode, or use predict."
            raise CompositionError(msg)
        for row_id, found in zip(to_ints(self.metadata.row_ids), self.generated, strict=True):
            if row_id != FILLER:
                yield row_id, list(found)

    @property
    def values(self) -> Tensor | None:
        """The scores of the target tokens before softmax, as other heads have them; None without targets."""
        return None if self.scores is None else self.scores.values

    def get_scores(self) -> StepScores[int]:
        """Return the scores of the target tokens.

        Raises:
            TargetError: if the batch has no target texts.
        """
        if self.scores is None:
            raise make_missing_error("row, a text as in Pad(targets=Texts(tokenize))", self.metadata)
        return self.scores

    def loss(self, **options: Unpack[ClassLossOptions]) -> Tensor:
        """Return the cross-entropy, averaged over all tokens of the targets, eos included.

        Args:
            options: see `ClassLossOptions`; with `reduction="none"`, one loss per token.

        Raises:
            TargetError: if the batch has no target texts.
        """
        return self.get_scores().loss(**options)
