"""pytorch-crf: the log-likelihood of tags, with a mask."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from court.case import Case, Library


class Likelihood(nn.Module):
    """The log-likelihood of rows of fixed tags."""

    def __init__(self, crf: nn.Module) -> None:
        super().__init__()
        self.crf = crf

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return one number per row."""
        tags = torch.arange(values.shape[1]).remainder(3).expand(mask.shape)
        result: Tensor = self.crf(values, tags, mask=mask, reduction="none")
        return result.unsqueeze(1)


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    library: Any = import_module("torchcrf")
    return [
        Case(
            name="CRF",
            call='CRF(3, batch_first=True)(emissions, tags, mask=mask, reduction="none")',
            make=lambda: Likelihood(library.CRF(3, batch_first=True)),
            options={"input_size": 3, "call": "mask", "each": "row", "empty_rows": False},
            unsupported={"empty_rows_have_no_effect": "the mask of the first step must be on, as its error says"},
        )
    ]


LIBRARY = Library(name="pytorch-crf", packages=["pytorch-crf"], list_cases=list_cases)
