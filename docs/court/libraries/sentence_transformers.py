"""sentence-transformers: its pooling of token embeddings."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from torch import Tensor, nn

from court.case import Case, Library

_EMPTY: Final = "a text has special tokens, and so is never empty"


class Features(nn.Module):
    """The pooling, called with a dictionary of features as the library calls it."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return the embedding of each sentence."""
        found: dict[str, Tensor] = self.pooling({"token_embeddings": values, "attention_mask": mask})
        return found["sentence_embedding"]


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    modules: Any = import_module("sentence_transformers.sentence_transformer.modules")

    def make(mode: str) -> Case:
        return Case(
            name=f"Pooling, {mode}",
            call=f'Pooling(3, "{mode}")({{"token_embeddings": values, "attention_mask": mask}})["sentence_embedding"]',
            make=lambda: Features(modules.Pooling(3, mode)),
            options={
                "input_size": 3,
                "call": "attention_mask",
                "each": "row",
                "empty_rows": False,
            },
            unsupported={"empty_rows_have_no_effect": _EMPTY},
        )

    return [make(mode) for mode in ("mean", "max", "cls", "lasttoken", "mean_sqrt_len_tokens", "weightedmean")]


LIBRARY = Library(
    name="sentence-transformers",
    packages=["sentence-transformers"],
    list_cases=list_cases,
    better="It trains and shares embeddings of sentences, with more losses for pairs and triplets.",
)
