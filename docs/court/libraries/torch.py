"""torch, used as its documentation and its tutorials do."""

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from court.case import Case, Library

NO_LENGTHS: Final = "the module is called without lengths, so a row may not be empty"


class PackedLSTM(nn.Module):
    """A bidirectional LSTM on packed rows, and the last states of both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True, bidirectional=True)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return hidden vectors of steps."""
        packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=values.shape[1])[0]


class LastColumn(nn.Module):
    """The last column of a bidirectional LSTM on padded rows."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True, bidirectional=True)

    def forward(self, values: Tensor) -> Tensor:
        """Return a vector per row."""
        output: Tensor = self.lstm(values)[0]
        return output[:, -1]


class MaskedAttention(nn.Module):
    """Self-attention with a mask of the keys."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return contexts of steps."""
        contexts: Tensor = self.attention(values, values, values, key_padding_mask=mask)[0]
        return contexts


def make_transformer() -> nn.Module:
    """Return a small encoder."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def make_bag() -> nn.Module:
    """Return a mean of embeddings that leaves out the padding id."""
    return nn.EmbeddingBag(9, 4, mode="mean", padding_idx=0)


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    return [
        Case(
            name="LSTM, packed",
            call="packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)\n"
            "output, _ = nn.LSTM(3, 4, batch_first=True, bidirectional=True)(packed)",
            make=PackedLSTM,
            options={"input_size": 3, "empty_rows": False},
            unsupported={"empty_rows_have_no_effect": "pack_padded_sequence requires lengths above 0"},
        ),
        Case(
            name="LSTM, bidirectional, the last column",
            call="output, _ = nn.LSTM(3, 4, batch_first=True, bidirectional=True)(values)\noutput[:, -1]",
            make=LastColumn,
            options={"input_size": 3, "call": "values", "each": "row", "empty_rows": False},
            unsupported={"empty_rows_have_no_effect": NO_LENGTHS},
            note="Many tutorials classify texts so. For rows of unequal length, torch documents the packed form above.",
        ),
        Case(
            name="TransformerEncoder",
            call="nn.TransformerEncoder(layer, 1)(values, src_key_padding_mask=mask)",
            make=make_transformer,
            options={
                "input_size": 4,
                "call": "padding_mask",
                "names": ["src", "src_key_padding_mask"],
                "each": "step",
                "empty_rows": False,
            },
            unsupported={"empty_rows_have_no_effect": "a softmax over nothing is NaN"},
        ),
        Case(
            name="MultiheadAttention",
            call="nn.MultiheadAttention(4, 2, batch_first=True)(values, values, values, key_padding_mask=mask)",
            make=MaskedAttention,
            options={
                "input_size": 4,
                "call": "padding_mask",
                "each": "step",
                "empty_rows": False,
            },
            unsupported={"empty_rows_have_no_effect": "a softmax over nothing is NaN"},
        ),
        Case(
            name="EmbeddingBag",
            call='nn.EmbeddingBag(9, 4, mode="mean", padding_idx=0)(ids)',
            make=make_bag,
            options={"vocab_size": 9, "call": "values", "each": "row"},
        ),
    ]


LIBRARY = Library(
    name="torch",
    packages=["torch"],
    list_cases=list_cases,
    better="Everything here is built on it, and on a GPU its cuDNN kernels are the ones that this library uses.",
)
