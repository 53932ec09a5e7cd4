"""pytorch-lifestream: encoders of event sequences."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from court.case import Case, Library


class EventEncoder(nn.Module):
    """A recurrent encoder of the library, on its padded batch."""

    def __init__(self, encoder: Any, make_batch: Any) -> None:  # noqa: ANN401 - the library has no types here
        super().__init__()
        self.encoder = encoder
        self.make_batch = make_batch

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return a vector per row, or per step."""
        found: Any = self.encoder(self.make_batch(values, lengths))
        result: Tensor = getattr(found, "payload", found)
        return result


def make_encoder(kind: str, *, bidirectional: bool, is_row: bool) -> nn.Module:
    """Return a small encoder."""
    make_batch: Any = import_module("ptls.data_load.padded_batch").PaddedBatch
    layers: Any = import_module("ptls.nn")
    return EventEncoder(layers.RnnEncoder(3, 4, type=kind, bidir=bidirectional, is_reduce_sequence=is_row), make_batch)


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    cases: list[Case] = []
    for kind, bidirectional, is_row in (("gru", False, True), ("gru", True, True), ("lstm", False, False)):
        options = f'3, 4, type="{kind}", bidir={bidirectional}, is_reduce_sequence={is_row}'
        cases.append(
            Case(
                name=f"RnnEncoder, {'bidirectional ' * bidirectional}{kind}, {'per row' if is_row else 'per step'}",
                call=f"RnnEncoder({options})(PaddedBatch(values, lengths))",
                make=partial(make_encoder, kind, bidirectional=bidirectional, is_row=is_row),
                options={
                    "input_size": 3,
                    "each": "row" if is_row else "step",
                    "causal": not bidirectional and not is_row,
                    "empty_rows": False,
                },
                unsupported={"empty_rows_have_no_effect": "a row has an event or more"},
            )
        )
    return cases


LIBRARY = Library(
    name="pytorch-lifestream",
    packages=["pytorch-lifestream"],
    list_cases=list_cases,
    better="It trains encoders of event sequences without labels, by contrastive losses over parts of a row.",
)
