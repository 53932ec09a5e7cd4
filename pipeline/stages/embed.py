"""Embed ids: a vector for each id."""

from collections.abc import Mapping
from typing import final

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.checks.switches import checks_enabled
from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.batches import Batch, Packed, derive_vectors
from pipeline.data.kinds import Ids, Vectors
from pipeline.errors import OptionError, ShapeError, ValuesError


@final
class Embed(ModuleStage[Batch[Ids], Batch[Vectors]]):
    """Look up a vector for each id. The output has the layout of the input; its padding is zeros.

    Args:
        num_embeddings: the number of ids.
        embedding_dim: the number of features of a vector.
        sparse: whether the weights get a sparse gradient, of the rows of a batch's ids alone, as in
            `nn.Embedding(sparse=True)`. For a large vocabulary this saves most of the time of the optimizer, which
            must support it; `fit` then uses a lazy Adam, see its documentation.
        name: the stage's name in its chain.

    Raises:
        OptionError: if a size is below 1.

    Example:
        >>> from pipeline import Padded
        >>> batch = Padded(Ids, torch.tensor([[4, 2, 0]]), torch.tensor([2]))
        >>> Embed(5, 3)(batch).values.shape
        torch.Size([1, 3, 3])
    """

    stepwise = True

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, sparse: bool = False, name: str | None = None
    ) -> None:
        super().__init__()
        for option, number in (("num_embeddings", num_embeddings), ("embedding_dim", embedding_dim)):
            if number < 1:
                msg = f"{option} must be 1 or more, got {number}; pass the number of ids, and of features per id."
                raise OptionError(msg, **{option: number})
        self.name = name
        self.sparse = sparse
        self.weight: nn.Parameter = nn.Parameter(torch.randn(num_embeddings, embedding_dim))

    @classmethod
    def from_vectors(
        cls, vectors: Float[Tensor, "id feature"], *, trained: bool = False, name: str | None = None
    ) -> "Embed":
        """Make an embedding from given vectors, one per id; it is frozen unless `trained`.

        Raises:
            ShapeError: if the vectors are not a floating-point matrix.
        """
        if vectors.ndim != 2 or not vectors.is_floating_point():
            msg = (
                f"vectors must be floating-point, of id x feature, got {vectors.dtype} of {tuple(vectors.shape)}; "
                "stack one vector per id."
            )
            raise ShapeError(msg, argument="vectors")
        embed = cls(*vectors.shape, name=name)
        embed.weight = nn.Parameter(vectors.detach().clone(), requires_grad=trained)
        return embed

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        rows, features = self.weight.shape
        return {"num_embeddings": rows, "embedding_dim": features, "sparse": self.sparse, "name": self.name}

    @override
    def build(self, spec: Spec, /) -> Spec:
        return attrs.evolve(spec, size=self.weight.shape[1])

    @override
    def forward(self, value: Batch[Ids]) -> Batch[Vectors]:
        """Return the vectors of a batch's ids.

        Raises:
            ShapeError: if the batch holds vectors already, or is on another device than the weights.
            ValuesError: if an id is out of range (on a GPU, torch's kernel asserts instead).
        """
        batch = self.check_ids(value)
        # Not nn.Embedding's padding_idx: padding may hold any id, and id 0 may be a real one.
        vectors = derive_vectors(
            nn.functional.embedding(batch.values, self.weight, sparse=self.sparse), batch, batch.initial_carry
        )
        return vectors if isinstance(vectors, Packed) else vectors.fill_padding(0)

    def check_ids(self, value: Batch[Ids]) -> Batch[Ids]:
        """Return the batch with its padding set to 0, after checking that all ids are in range.

        Raises:
            ShapeError: if the batch holds vectors already, or is on another device than the weights.
            ValuesError: if an id is out of range (on a GPU, torch's kernel asserts instead).
        """
        if value.kind is not Ids:
            msg = f"the input of Embed must be Ids, got {value.kind.__name__}; pass vectors to Encode directly."
            raise ShapeError(msg)
        if value.values.device != self.weight.device:
            msg = (
                f"values are on {value.values.device}, but Embed's weights are on {self.weight.device}; "
                "move the batch: batch.to(device)."
            )
            raise ShapeError(msg)
        batch = value if isinstance(value, Packed) else value.fill_padding(0)
        self._check_range(batch)
        return batch

    def _check_range(self, batch: Batch[Ids]) -> None:
        ids = batch.values
        # Not on a GPU: reading ids back would wait for all work queued on it.
        if not checks_enabled() or ids.device.type != "cpu" or not ids.numel():
            return
        if int(ids.min()) < 0 or int(ids.max()) >= len(self.weight):
            packed = batch.packed()
            step = int(((packed.values < 0) | (packed.values >= len(self.weight))).nonzero()[0])
            row, found = int(packed.metadata.row_ids[packed.order.row_of_step[step]]), int(packed.values[step])
            msg = (
                f"row {row}, step {int(packed.order.time_of_step[step])} holds id {found}, but Embed has ids 0 to "
                f"{len(self.weight) - 1}; make it as large as the vocabulary: Embed(tokenize.vocab_size, ...)."
            )
            raise ValuesError(msg, row=row, id=found)

    @override
    def extra_repr(self) -> str:
        return ", ".join(map(str, self.weight.shape))
