"""Embedders of words by their characters: by convolution and by recurrence."""

from typing import Final, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from pipeline import Dropout, EachStep, Embed, Encode, Nested, Pool
from pipeline.extend import (
    Batch,
    Hidden,
    Ids,
    InferenceOptions,
    ModuleStage,
    OptionError,
    Packed,
    Padded,
    Pooled,
    Spec,
    Vectors,
    check_int,
    check_probability,
    compact,
    max_by_row,
    multiply_exactly,
)


@final
class CharacterCNN(ModuleStage[Batch[Nested[Ids]], Batch[Vectors]]):
    """Embed words by a convolution over their characters, and the maximum over the word.

    Each distinct word of a batch is computed once. Only real characters are computed; around a word are zero vectors.
    A word without characters gives zeros.

    Args:
        num_embeddings: the number of ids of characters, such as `tokenize.num_characters` of `SpellWords`.
        embedding_dim: the number of features of a character.
        filters: the number of filters, which is the number of features of a word.
        kernel_size: the number of characters that a filter sees, an odd number.
        dropout: the dropout probability of embedded characters.

    Raises:
        OptionError: if a size is below 1, or the kernel size is even.

    Source: Ma and Hovy 2016, "End-to-end Sequence Labeling via Bi-directional LSTM-CNNs-CRF", arXiv:1603.01354,
    section 2.1. As there, no nonlinearity follows the convolution.

    Example:
        >>> from pipeline import Pad, Row
        >>> words = Nested(Ids(torch.tensor([7, 4, 9])), torch.tensor([1, 2]))  # a word of one letter, one of two
        >>> CharacterCNN(99)(Pad(Nested[Ids])([Row(words)])).values.shape
        torch.Size([1, 2, 30])
    """

    stepwise = True

    def __init__(
        self,
        num_embeddings: int,
        *,
        embedding_dim: int = 30,
        filters: int = 30,
        kernel_size: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_probability("dropout", dropout)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.filters = filters
        self.kernel_size = kernel_size
        self.dropout = dropout
        embed = Embed(num_embeddings, embedding_dim, init="uniform")
        convolve = _ConvolveAndPool(embedding_dim, filters, kernel_size)
        self.inner: EachStep[Ids] = EachStep(embed >> Dropout(dropout) >> convolve)

    @override
    def build(self, spec: Spec, /) -> Spec:
        return Spec(size=self.filters)

    @override
    def forward(self, value: Batch[Nested[Ids]]) -> Batch[Vectors]:
        """Return one vector per word, in the layout of the batch.

        Raises:
            ShapeError: if the batch does not hold words of characters.
            ValuesError: if an id is out of range (on a GPU, torch's kernel asserts instead).
        """
        return self.inner(value)


@final
class CharacterLSTM(ModuleStage[Batch[Nested[Ids]], Batch[Vectors]]):
    """Embed words by a bidirectional recurrent encoder over their characters: its two final states.

    Each distinct word of a batch is computed once. A word without characters gives zeros.

    Args:
        num_embeddings: the number of ids of characters, such as `tokenize.num_characters` of `SpellWords`.
        embedding_dim: the number of features of a character.
        hidden_size: the number of features of a state, in each direction; a word has twice as many.
        encoder: the registered name of a bidirectional encoder.
        dropout: the dropout probability of embedded characters.

    Raises:
        OptionError: if a size is below 1.
        UnknownNameError: if no plugin offers the encoder.

    Source: Lample et al. 2016, "Neural Architectures for Named Entity Recognition", arXiv:1603.01360, section 4.1; both
    sizes are 25 there.

    Example:
        >>> from pipeline import Pad, Row
        >>> words = Nested(Ids(torch.tensor([7, 4, 9])), torch.tensor([1, 2]))  # a word of one letter, one of two
        >>> CharacterLSTM(99)(Pad(Nested[Ids])([Row(words)])).values.shape
        torch.Size([1, 2, 50])
    """

    stepwise = True

    def __init__(
        self,
        num_embeddings: int,
        *,
        embedding_dim: int = 25,
        hidden_size: int = 25,
        encoder: str = "bilstm",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_probability("dropout", dropout)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.hidden_size = hidden_size
        self.encoder = encoder
        self.dropout = dropout
        embedded = Embed(num_embeddings, embedding_dim, init="uniform") >> Dropout(dropout)
        self.inner: EachStep[Ids] = EachStep(embedded >> Encode(encoder, hidden_size=hidden_size) >> Pool("final"))

    @override
    def build(self, spec: Spec, /) -> Spec:
        return self.inner.build(spec)

    @override
    def forward(self, value: Batch[Nested[Ids]]) -> Batch[Vectors]:
        """Return one vector per word, in the layout of the batch.

        Raises:
            ShapeError: if the batch does not hold words of characters.
            ValuesError: if an id is out of range (on a GPU, torch's kernel asserts instead).
        """
        return self.inner(value)


@final
class _ConvolveAndPool(ModuleStage[Batch[Vectors], Pooled]):
    """Convolve the steps of each row, which zero vectors surround, and take the maximum over the row."""

    def __init__(self, input_size: int, filters: int, kernel_size: int) -> None:
        super().__init__()
        check_int("filters", filters, minimum=1)
        if check_int("kernel_size", kernel_size, minimum=1) % 2 == 0:
            msg = f"kernel_size must be an odd number of 1 or more, got {kernel_size}; use 3, as Ma and Hovy do."
            raise OptionError(msg, kernel_size=kernel_size)
        self.kernel_size: Final = kernel_size
        self.linear = nn.Linear(kernel_size * input_size, filters)
        self.deterministic = False

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Note whether results may depend on the other rows of a batch."""
        self.deterministic = options.deterministic

    @override
    def build(self, spec: Spec, /) -> Spec:
        return Spec(size=self.linear.out_features)

    @override
    def forward(self, value: Batch[Vectors]) -> Pooled:
        """Return one vector per row."""
        steps = compact(value)
        windows = self._pack_windows(steps) if isinstance(steps, Packed) else self._pad_windows(steps)
        return Pooled(max_by_row(steps.with_values(self._project(windows))), metadata=value.metadata)

    def _pack_windows(self, steps: Packed[Hidden]) -> Float[Tensor, "steps window"]:
        """Return the vectors around each step, joined."""
        # A zero vector at the end stands for each place outside of a row.
        padded = torch.cat([steps.values, steps.values.new_zeros(1, steps.values.shape[1])])
        return nn.functional.embedding(_find_neighbors(steps, self.kernel_size), padded).flatten(1)

    def _pad_windows(self, steps: Padded[Hidden]) -> Float[Tensor, "batch time window"]:
        """Return the same for rows of one length, and for graphs, which keep the rectangle."""
        half = self.kernel_size // 2
        padded = nn.functional.pad(steps.fill_padding(0).values, (0, 0, half, half))
        shifted = [padded[:, first : first + steps.values.shape[1]] for first in range(self.kernel_size)]
        return torch.cat(shifted, dim=2)

    def _project(self, windows: Float[Tensor, "*steps window"]) -> Float[Tensor, "*steps filter"]:
        if self.deterministic:
            return multiply_exactly(windows, self.linear.weight.t()) + self.linear.bias
        projected: Tensor = self.linear(windows)
        return projected


def _find_neighbors(steps: Packed[Hidden], count: int) -> Int64[Tensor, "steps neighbor"]:
    """Return the packed indices of the steps around each step; the number of steps for those outside of its row."""
    row, time = steps.order.locate_steps(steps.values)
    total, half = steps.values.shape[0], count // 2
    # Rows in a rectangle with room on both sides: a neighbor is found by adding to the time.
    shape = (steps.lengths.shape[0], steps.width + 2 * half)
    places = torch.full(shape, total, dtype=torch.int64, device=row.device)
    places[row, time + half] = torch.arange(total, device=row.device)
    return places[row.unsqueeze(1), time.unsqueeze(1) + torch.arange(count, device=row.device)]
