"""Rows of unequal length in a rectangle."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from pipeline.data.lists import from_numpy


def rectangle(
    sequences: Sequence[Tensor], counts: Sequence[int], width: int, value: float
) -> Shaped[Tensor, "batch width *feature"]:
    """The steps of rows, from the left, and a value in all other cells.

    Args:
        sequences: the steps of each row, alike in dtype, device and feature.
        counts: how many steps each row has; rows behind those of `sequences` have none.
        width: how many steps the rectangle is wide: as many as the longest row, or more.
        value: what stands in the padding.

    Example:
        >>> rectangle([torch.tensor([5, 6]), torch.tensor([7])], [2, 1, 0], 3, 0).tolist()
        [[5, 6, 0], [7, 0, 0], [0, 0, 0]]
    """
    values = sequences[0].new_full((len(counts), width, *sequences[0].shape[1:]), value)
    if values.ndim > 2:
        # A row of vectors is best copied as a whole.
        for cells, sequence in zip(values, sequences, strict=False):
            cells[: len(sequence)] = sequence
        return values
    # All at once: with rows of some ten ids, a call a row takes longer than what it copies.
    real = from_numpy(np.arange(width) < np.array(counts)[:, None]).to(values.device)
    return values.masked_scatter_(real, torch.cat(list(sequences)))
