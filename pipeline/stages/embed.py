"""Numbered tokens to vectors."""

from typing import final

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.checks.switches import at_border
from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.batches import Batch, Packed, Padded
from pipeline.data.rows import Ids, Vectors
from pipeline.errors import OptionError, ShapeError, ValuesError


@final
class Embed(ModuleStage[Batch[Ids], Batch[Vectors]]):
    """A vector for each id, in the layout that comes in. Padding is never looked up, and becomes zeros.

    Args:
        num_embeddings: how many ids there are.
        embedding_dim: how many features a vector has.
        name: what the stage is called in its chain.

    Raises:
        OptionError: if a size is below 1.

    Example:
        >>> from pipeline import Padded
        >>> batch = Padded(Ids, torch.tensor([[4, 2, 0]]), torch.tensor([2]))
        >>> Embed(5, 3)(batch).values.shape
        torch.Size([1, 3, 3])
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, *, name: str | None = None) -> None:
        super().__init__()
        for option, number in (("num_embeddings", num_embeddings), ("embedding_dim", embedding_dim)):
            if number < 1:
                msg = f"{option} must be 1 or more, but {number} arrived."
                raise OptionError(msg, **{option: number})
        self.name = name
        self.weight: nn.Parameter = nn.Parameter(torch.randn(num_embeddings, embedding_dim))

    @classmethod
    def from_vectors(
        cls, vectors: Float[Tensor, "id feature"], *, trained: bool = False, name: str | None = None
    ) -> "Embed":
        """An embedding that starts from given vectors, one an id; frozen unless `trained`.

        Raises:
            ShapeError: if the vectors are no floating-point matrix.
        """
        if vectors.ndim != 2 or not vectors.is_floating_point():
            msg = f"vectors must be floats of id x feature, but {vectors.dtype} of {tuple(vectors.shape)} arrived."
            raise ShapeError(msg, argument="vectors")
        embed = cls(*vectors.shape, name=name)
        embed.weight = nn.Parameter(vectors.detach().clone(), requires_grad=trained)
        return embed

    @override
    def build(self, spec: Spec, /) -> Spec:
        return attrs.evolve(spec, size=self.weight.shape[1])

    @override
    def forward(self, value: Batch[Ids]) -> Batch[Vectors]:
        """The vectors of a batch's ids.

        Raises:
            ShapeError: if the batch holds vectors already, or stands on another device than the weights.
            ValuesError: if an id is out of range (on a GPU, torch's kernel asserts instead).
        """
        rows = self.known(value)
        vectors = _with(rows, nn.functional.embedding(rows.values, self.weight))
        return vectors if isinstance(vectors, Packed) else vectors.fill_padding(0)

    def known(self, value: Batch[Ids]) -> Batch[Ids]:
        """A batch all of whose ids have a vector, its padding cleared.

        Raises:
            ShapeError: if the batch holds vectors already, or stands on another device than the weights.
            ValuesError: if an id is out of range (on a GPU, torch's kernel asserts instead).
        """
        if value.kind is not Ids:
            msg = f"Embed takes Ids, but {value.kind.__name__} arrived; vectors go to Encode as they are."
            raise ShapeError(msg)
        if value.values.device != self.weight.device:
            msg = (
                f"values are on {value.values.device}, but Embed's weights are on {self.weight.device}; "
                "move the batch: batch.to(device)."
            )
            raise ShapeError(msg)
        rows = value if isinstance(value, Packed) else value.fill_padding(0)
        self._check(rows)
        return rows

    def _check(self, batch: Batch[Ids]) -> None:
        ids = batch.values
        # On a device, reading the ids back would make every step wait for it.
        if not at_border() or ids.device.type != "cpu" or not ids.numel():
            return
        if int(ids.min()) < 0 or int(ids.max()) >= len(self.weight):
            packed = batch.packed()
            step = int(((packed.values < 0) | (packed.values >= len(self.weight))).nonzero()[0])
            row, found = int(packed.metadata.row_ids[packed.order.row[step]]), int(packed.values[step])
            msg = (
                f"row {row}, step {int(packed.order.time[step])} holds id {found}, but Embed has ids 0 to "
                f"{len(self.weight) - 1}; make it as large as the vocabulary: Embed(tokenize.vocab_size, ...)."
            )
            raise ValuesError(msg, row=row, id=found)

    @override
    def extra_repr(self) -> str:
        return ", ".join(map(str, self.weight.shape))


def _with(batch: Batch[Ids], values: Tensor) -> Batch[Vectors]:
    """The batch with vectors for its ids, everything beside them kept."""
    initial, metadata, order = batch.initial_carry, batch.metadata, batch.order
    if isinstance(batch, Padded):
        return Padded(Vectors, values, batch.lengths, initial_carry=initial, metadata=metadata, order=order)
    return Packed(
        Vectors, values, batch.lengths, width=batch.width, initial_carry=initial, metadata=metadata, order=order
    )
