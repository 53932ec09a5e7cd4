"""ncps: liquid networks over padded sequences."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from court.case import Case, Library
from court.libraries.torch import NO_LENGTHS


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    library: Any = import_module("ncps.torch")
    return [
        Case(
            name=f"CfC, {what}",
            call=f"output, state = CfC(3, 4, return_sequences={each == 'step'})(values)",
            make=partial(library.CfC, 3, 4, return_sequences=each == "step"),
            options={
                "input_size": 3,
                "call": "values",
                "each": "step" if each == "step" else "row",
                "causal": each == "step",
                "empty_rows": False,
            },
            unsupported={"empty_rows_have_no_effect": NO_LENGTHS},
            note="" if each == "step" else "It takes no lengths: the vector of a row is that of the last column.",
        )
        for each, what in (("step", "per step"), ("row", "last state"))
    ]


LIBRARY = Library(
    name="ncps",
    packages=["ncps"],
    list_cases=list_cases,
    better="It takes the time between steps, for readings at irregular times.",
)
