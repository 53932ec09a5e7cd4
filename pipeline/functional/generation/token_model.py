"""A model that scores the next token of each row, as searches take it."""

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class TokenCarry(Protocol):
    """What a model remembers of each row, from one token to the next."""

    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        """Return what belongs to some rows, by their indices on the CPU; an index may occur several times."""
        ...


C = TypeVar("C", bound=TokenCarry)


class TokenModel(Protocol[C]):
    """A model that scores the next token of each row."""

    def read(self, prompts: Sequence[Sequence[int]]) -> tuple[Float[Tensor, "row token"], C]:
        """Return the scores of the token after each prompt, and what the model remembers."""
        ...

    def step(self, tokens: Int64[Tensor, " row"], carry: C) -> tuple[Float[Tensor, "row token"], C]:
        """Return the scores of the token after the next one of each row, and what the model remembers then."""
        ...


def select_rows(carry: C, rows: list[int], count: int) -> C:
    """Return what belongs to some of `count` rows; the same object if these are all rows in order."""
    return carry if rows == list(range(count)) else carry.select(torch.tensor(rows, dtype=torch.int64, device="cpu"))
