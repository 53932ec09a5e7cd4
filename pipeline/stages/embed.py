"""Embed ids: a vector for each id."""

import math
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, cast, final, get_args

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.checks.options import check_bool, check_choice, check_int, check_positive
from pipeline.checks.switches import checks_enabled
from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.batches import Batch, Packed, derive_vectors
from pipeline.data.kinds import Ids, Vectors
from pipeline.errors import OptionError, ShapeError, ValuesError

Initialization: TypeAlias = Literal["normal", "uniform", "xavier"]
"""How the vectors of `Embed` start."""


@final
class Embed(ModuleStage[Batch[Ids], Batch[Vectors]]):
    """Look up a vector for each id. The output has the layout of the input; its padding is zeros.

    Args:
        num_embeddings: the number of ids.
        embedding_dim: the number of features of a vector.
        sparse: whether the weights get a sparse gradient, of the rows of a batch's ids alone, as in
            `nn.Embedding(sparse=True)`. For a large vocabulary this saves most of the time of the optimizer, which
            must support it; `fit` then uses a lazy Adam, see its documentation.
        init: how the vectors start: `normal`; `uniform`, on both sides of 0; or `xavier`, uniform with the bound
            sqrt(6 / (num_embeddings + embedding_dim)), as in `nn.init.xavier_uniform_`.
        std: the standard deviation of the initial numbers, for `normal` and `uniform`. By default 1 for `normal`, as in
            `nn.Embedding`, and sqrt(1 / embedding_dim) for `uniform`, whose bound is then sqrt(3 / embedding_dim).
        name: the stage's name in its chain.

    Raises:
        OptionError: if a size is below 1, `sparse` is neither True nor False, or an option of the initialization is
            invalid.

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks"
    (`xavier`); Ma and Hovy 2016, arXiv:1603.01354, section 3.1 (the bound of `uniform`).

    Example:
        >>> from pipeline import Padded
        >>> batch = Padded(Ids, torch.tensor([[4, 2, 0]]), torch.tensor([2]))
        >>> Embed(5, 3)(batch).values.shape
        torch.Size([1, 3, 3])
    """

    stepwise = True

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        sparse: bool = False,
        init: Initialization = "normal",
        std: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        for option, number in (("num_embeddings", num_embeddings), ("embedding_dim", embedding_dim)):
            check_int(option, number, minimum=1)
        check_bool("sparse", sparse)
        check_choice("init", init, get_args(Initialization))
        if std is not None:
            check_positive("std", std, advice="leave it out for the deviation of `init`")
            if init == "xavier":
                msg = f"std is for init='normal' or 'uniform', got {std!r} with 'xavier'; leave it out."
                raise OptionError(msg, std=std, init=init)
        self.name = name
        self.sparse = sparse
        self.init: Final[Initialization] = init
        self.std: Final = std
        self.weight: nn.Parameter = nn.Parameter(torch.empty(num_embeddings, embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all vectors again, as at the beginning."""
        if self.init == "normal":
            nn.init.normal_(self.weight, std=1.0 if self.std is None else self.std)
        elif self.init == "uniform":
            std = self.weight.shape[1] ** -0.5 if self.std is None else self.std
            nn.init.uniform_(self.weight, -math.sqrt(3) * std, math.sqrt(3) * std)
        else:
            nn.init.xavier_uniform_(self.weight)

    @classmethod
    def from_pretrained(
        cls,
        vectors: Float[Tensor, "id feature"],
        *,
        freeze: bool = True,
        sparse: bool = False,
        name: str | None = None,
    ) -> "Embed":
        """Make an embedding from given vectors, one per id, such as the `weight` of `pipeline_embeddings.read_vectors`.

        Args:
            vectors: the vectors; they are copied.
            freeze: whether the vectors stay as they are in training, as in `nn.Embedding.from_pretrained`.
            sparse: as in `Embed`.
            name: as in `Embed`.

        Raises:
            ShapeError: if the vectors are not a floating-point matrix.
            OptionError: if `freeze` or `sparse` is neither True nor False, or the matrix is empty.
        """
        if not isinstance(cast("object", vectors), Tensor):
            msg = (
                f"vectors must be a tensor of id x feature, got {type(vectors).__name__}; pass the `weight` of what "
                "`read_vectors` returns, or torch.as_tensor(...) of an array."
            )
            raise OptionError(msg, argument="vectors")
        if vectors.ndim != 2 or not vectors.is_floating_point():
            msg = (
                f"vectors must be floating-point, of id x feature, got {vectors.dtype} of {tuple(vectors.shape)}; "
                "stack one vector per id."
            )
            raise ShapeError(msg, argument="vectors")
        check_bool("freeze", freeze)
        with torch.device("meta"):  # without drawing vectors
            embed = cls(*vectors.shape, sparse=sparse, name=name)
        embed.weight = nn.Parameter(vectors.detach().clone(), requires_grad=not freeze)
        return embed

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        rows, features = self.weight.shape
        return {
            "num_embeddings": rows,
            "embedding_dim": features,
            "sparse": self.sparse,
            "init": self.init,
            "std": self.std,
            "name": self.name,
        }

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
