"""Contrastive loss of pairs: each first part must find its second part among those of its batch."""

from collections.abc import Iterator, Mapping
from typing import final

import attrs
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from typing_extensions import Unpack, override

from pipeline import Values
from pipeline.errors import CompositionError, ShapeError, TargetError
from pipeline.extend import (
    FILLER,
    BatchMetadata,
    Collated,
    ModuleStage,
    Pooled,
    Predictions,
    ReductionOptions,
    Spec,
    as_pytree,
    check_bool,
    check_loss_options,
    check_positive,
    checked,
    reduce_losses,
)


@as_pytree
@checked
@attrs.frozen(eq=False)
class PairScores(Collated, Predictions[float, float]):
    """The vectors of both parts of each pair; predictions are their cosine similarities.

    Attributes:
        values: the vectors of the first and of the second part of each row.
        temperature: what similarities are divided by in the loss.
        symmetric: whether the loss also lets each second part find its first part.
        metadata: row ids and targets.

    Example:
        >>> values = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
        >>> list(PairScores(values, metadata=BatchMetadata(torch.tensor([0, 1]))).rows())
        [(0, 1.0), (1, 0.0)]
    """

    values: Float[Tensor, "batch 2 hidden"]
    temperature: float = 0.05
    symmetric: bool = True
    metadata: BatchMetadata = attrs.field(kw_only=True)

    @property
    def similarities(self) -> Float[Tensor, "batch batch"]:
        """The cosine similarity of each first part (row) and each second part (column); 0 for a vector of zeros."""
        # In float32 at least: in bfloat16 a similarity has three digits.
        values = self.values.to(torch.promote_types(self.values.dtype, torch.float32))
        first, second = normalize(values, dim=2).unbind(1)
        return first @ second.t()

    def rows(self) -> Iterator[tuple[int, float]]:
        """Yield the row id and the similarity of the parts of each row."""
        found = self._compare_parts().detach().cpu()
        row_ids: list[int] = [int(row_id) for row_id in self.metadata.row_ids]
        return (
            (row_id, float(similarity)) for row_id, similarity in zip(row_ids, found, strict=True) if row_id != FILLER
        )

    @override
    def for_export(self) -> Values[float]:
        """Return the cosine similarity of the parts of each row."""
        return Values(self._compare_parts(), metadata=self.metadata)

    def _compare_parts(self) -> Float[Tensor, " batch"]:
        values = self.values.to(torch.promote_types(self.values.dtype, torch.float32))
        # Not the diagonal of all similarities, which is more work, and whose last bits depend on the batch.
        return normalize(values, dim=2).prod(1).sum(1)

    def loss(self, **options: Unpack[ReductionOptions]) -> Float[Tensor, " *batch"]:
        """Return the cross-entropy of finding the other part of each pair, averaged over the rows that have a target.

        The choice is among the rows of the batch that have a target, so the loss depends on the size of the batch.

        Args:
            options: see `ReductionOptions`; with `reduction="none"`, one loss per row.

        Raises:
            OptionError: if the loss does not have an option.
            TargetError: if the batch has no targets, or a target is not 1.
        """
        check_loss_options(options, ReductionOptions)
        known = self._find_pairs()
        scores = self.similarities / self.temperature
        places = torch.arange(len(scores), device=scores.device)
        # A row without a target is no choice, except its own, so that its loss, which is dropped, is finite.
        is_no_choice = ~known & (places.unsqueeze(1) != places)
        losses = cross_entropy(scores.masked_fill(is_no_choice, -torch.inf), places, reduction="none")
        if self.symmetric:
            others = cross_entropy(scores.t().masked_fill(is_no_choice, -torch.inf), places, reduction="none")
            losses = (losses + others) / 2
        losses = losses.masked_fill(~known, 0)
        return reduce_losses(losses, known, options.get("reduction", "mean"), options.get("over"))

    def _find_pairs(self) -> Tensor:
        """Return which rows are pairs with a loss.

        Raises:
            TargetError: if targets are missing, or others than 1.
        """
        targets = self.metadata.targets
        if targets is None or targets.ndim != 1:
            msg = "the loss needs a target of 1 per pair, but the batch has none; pass Example((one, other), target=1)."
            raise TargetError(msg)
        known = ~targets.isnan() if targets.is_floating_point() else targets >= 0
        # On the CPU only: elsewhere this would wait for the device.
        if targets.device.type == "cpu" and not bool((targets[known] == 1).all()):
            wrong = int(((targets != 1) & known).nonzero()[0])
            row_id = int(self.metadata.row_ids[wrong])
            msg = (
                f"targets must be 1, for a pair, or missing, got {float(targets[wrong]):g} in row {row_id}; leave out "
                "pairs that do not belong together: the other rows of a batch are the wrong answers."
            )
            raise TargetError(msg, row=row_id)
        return known


@final
class Contrastive(ModuleStage[Pooled, PairScores]):
    """Learn vectors by which the parts of a pair find each other, among the other pairs of the batch.

    Takes the vectors of both parts side by side, as `Join(..., ..., how="concat")` returns them. The prediction for a
    pair is the cosine similarity of its parts.

    Args:
        temperature: what similarities are divided by in the loss: the smaller, the more the most similar wrong answers
            count.
        symmetric: whether each second part must find its first part, too.
        name: the stage's name in its chain.

    Raises:
        OptionError: if the temperature is not above 0.

    Source: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748
    (InfoNCE); Henderson et al. 2017, "Efficient Natural Language Response Suggestion for Smart Reply", arXiv:1705.00652
    (the other rows of a batch as wrong answers); Radford et al. 2021, arXiv:2103.00020 (both directions).

    Example:
        >>> pairs = Pooled(torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, -1.0]]))
        >>> [round(similarity, 1) for _, similarity in Contrastive()(pairs).rows()]
        [1.0, -1.0]
    """

    def __init__(self, temperature: float = 0.05, *, symmetric: bool = True, name: str | None = None) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_bool("symmetric", symmetric)
        self.name = name
        self.temperature = temperature
        self.symmetric = symmetric

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which to make the head again."""
        return {"temperature": self.temperature, "symmetric": self.symmetric, "name": self.name}

    @override
    def build(self, spec: Spec, /) -> Spec:
        if spec.size is not None and spec.size % 2:
            msg = (
                f"Contrastive takes the vectors of both parts side by side, of one size, got {spec.size} features; "
                'join two branches of one size before it: Join(first, second, how="concat").'
            )
            raise CompositionError(msg, axis="hidden", size=spec.size)
        return Spec()

    @override
    def forward(self, value: Pooled) -> PairScores:
        """Return the vectors of both parts of each pair.

        Raises:
            ShapeError: if the number of features is odd.
        """
        if value.values.shape[1] % 2:
            msg = f"Contrastive takes two vectors of one size side by side, got {value.values.shape[1]} features."
            raise ShapeError(msg, size=value.values.shape[1])
        batch, size = value.values.shape
        parts = value.values.reshape(batch, 2, size // 2)
        return PairScores(parts, self.temperature, self.symmetric, metadata=value.metadata)
