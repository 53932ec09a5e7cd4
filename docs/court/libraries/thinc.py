"""thinc: layers over lists of arrays, which convert between flat and padded layouts by themselves."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor, nn

from court.case import Case, Library

_GRADIENT: Final = "thinc computes gradients by callbacks of its own, and returns arrays"


class Arrays(nn.Module):
    """A model of thinc on lists of arrays, as a module of torch."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - thinc has no types here
        super().__init__()
        self.model = model
        self.model.initialize(X=[torch.zeros(2, 3).numpy()])

    def forward(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return a result per row."""
        found: Any = self.model.predict([row.float().numpy() for row in rows])
        return [torch.as_tensor(each).double() for each in found]


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    api: Any = import_module("thinc.api")

    def make(create: Callable[[], Any]) -> Callable[[], nn.Module]:
        return lambda: Arrays(create())

    unsupported = {
        "no_gradient_reaches_padding": _GRADIENT,
        "training_obeys_laws_of_rows": _GRADIENT,
        "empty_rows_have_no_effect": "its documentation has no empty rows",
    }
    return [
        Case(
            name="reduce_mean",
            call="model = chain(list2ragged(), reduce_mean())\nmodel.predict(rows)",
            make=make(lambda: api.chain(api.list2ragged(), api.reduce_mean())),
            options={"input_size": 3, "call": "rows", "each": "row", "empty_rows": False},
            unsupported=unsupported,
        ),
        Case(
            name="with_padded(PyTorchLSTM)",
            call="model = with_padded(PyTorchLSTM(4, 3, bi=True))\nmodel.predict(rows)",
            make=make(lambda: api.with_padded(api.PyTorchLSTM(4, 3, bi=True))),
            options={"input_size": 3, "call": "rows", "each": "step", "empty_rows": False},
            unsupported=unsupported,
            note="The arrays are in float32.",
        ),
    ]


LIBRARY = Library(
    name="thinc",
    packages=["thinc"],
    list_cases=list_cases,
    better="Its layers are plain functions with a backward callback, on NumPy, CuPy, torch and MXNet alike.",
)
