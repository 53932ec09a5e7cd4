"""x-transformers: an encoder and a decoder with masks."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from court.case import Case, Library


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    library: Any = import_module("x_transformers")
    return [
        Case(
            name=name,
            call=f"{name}(dim=8, depth=1, heads=2)(values, mask=mask)",
            make=partial(getattr(library, name), dim=8, depth=1, heads=2, attn_dim_head=4),
            options={
                "input_size": 8,
                "call": "mask",
                "names": ["x", "mask"],
                "each": "step",
                "causal": name == "Decoder",
                "empty_rows": False,
            },
            unsupported={"empty_rows_have_no_effect": "its documentation has no rows without tokens"},
        )
        for name in ("Encoder", "Decoder")
    ]


LIBRARY = Library(
    name="x-transformers",
    packages=["x-transformers"],
    list_cases=list_cases,
    better="It has many more variants of transformers than this library, each by one option.",
)
