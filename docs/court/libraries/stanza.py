"""Stanza: its LSTM on rows with lengths."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from court.case import Case, Library


class SortedLSTM(nn.Module):
    """Stanza's LSTM on rows that are sorted first, as its models sort them."""

    def __init__(self, lstm: nn.Module) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return hidden vectors of steps."""
        order = lengths.argsort(descending=True, stable=True)
        output: Tensor = self.lstm(values[order], lengths[order])[0]
        padded = nn.functional.pad(output, (0, 0, 0, values.shape[1] - output.shape[1]))
        return padded[order.argsort()]


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    library: Any = import_module("stanza.models.common.packed_lstm")
    return [
        Case(
            name="PackedLSTM",
            call="PackedLSTM(3, 4, 1, batch_first=True, bidirectional=True, pad=True)(values, lengths)  # sorted rows",
            make=lambda: SortedLSTM(library.PackedLSTM(3, 4, 1, batch_first=True, bidirectional=True, pad=True)),
            options={"input_size": 3, "each": "step", "empty_rows": False},
            unsupported={"empty_rows_have_no_effect": "pack_padded_sequence requires lengths above 0"},
        )
    ]


LIBRARY = Library(
    name="Stanza",
    packages=["stanza"],
    list_cases=list_cases,
    better="It has trained pipelines from text to dependency trees for seventy languages.",
)
