"""PyTorch Geometric: aggregations of the elements of sets and sequences, on flat values with an index."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor, nn

from court.case import Case, Library

_CALL: Final = "aggr = {}\naggr(values, index, dim_size=rows)  # values: all steps of all rows, index: the row of each"


def call_flat(module: Any, values: Tensor, lengths: Tensor) -> Tensor:  # noqa: ANN401 - a module of any class
    """Call an aggregation on the real steps of all rows, one after the other."""
    mask = torch.arange(values.shape[1]) < lengths.unsqueeze(1)
    index = torch.arange(len(lengths)).repeat_interleave(lengths)
    result: Tensor = module(values[mask], index, dim_size=len(lengths))
    return result


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    aggr: Any = import_module("torch_geometric.nn.aggr")
    modules: dict[str, Callable[[], nn.Module]] = {
        "LSTMAggregation(3, 4)": partial(aggr.LSTMAggregation, 3, 4),
        "GRUAggregation(3, 4)": partial(aggr.GRUAggregation, 3, 4),
        "MeanAggregation()": aggr.MeanAggregation,
        "SoftmaxAggregation(learn=True)": partial(aggr.SoftmaxAggregation, learn=True),
        "StdAggregation()": aggr.StdAggregation,
        "Set2Set(3, processing_steps=2)": partial(aggr.Set2Set, 3, processing_steps=2),
        "AttentionalAggregation(gate_nn)": lambda: aggr.AttentionalAggregation(nn.Linear(3, 1)),
        "SetTransformerAggregation(4, heads=2)": partial(aggr.SetTransformerAggregation, 4, heads=2),
    }
    return [
        Case(
            name=name.partition("(")[0],
            call=_CALL.format(name),
            make=make,
            options={"input_size": 4 if "Transformer" in name else 3, "call": call_flat, "each": "row"},
        )
        for name, make in modules.items()
    ]


LIBRARY = Library(
    name="PyTorch Geometric",
    packages=["torch_geometric"],
    list_cases=list_cases,
    better="Its flat layout has no padding at all, so most aggregations cannot break these laws, and it has about "
    "thirty of them, learned ones included.",
)
