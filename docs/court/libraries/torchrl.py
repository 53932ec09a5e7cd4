"""TorchRL: recurrent layers over trajectories that stand one after another."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor

from court.case import Case, Library
from pipeline.data.tensors import to_ints

_KEYS: Final = {"LSTMModule": ("h", "c"), "GRUModule": ("h",)}


def call_on_trajectories(module: Any, values: Tensor, lengths: Tensor) -> list[Tensor]:  # noqa: ANN401
    """Call a module on all rows one after another; `is_init` marks the first step of each."""
    sizes = to_ints(lengths)
    steps = torch.cat([row[:size] for row, size in zip(values, sizes, strict=True)]).unsqueeze(0)
    starts = lengths.cumsum(0) - lengths
    is_init = torch.zeros(1, steps.shape[1], 1, dtype=torch.bool)
    is_init[0, starts] = True
    library: Any = import_module("tensordict")
    with import_module("torchrl.modules").set_recurrent_mode(True):
        found = module(library.TensorDict({"x": steps, "is_init": is_init}, [1, steps.shape[1]]))
    return list(found["y"][0].split(sizes))


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    library: Any = import_module("torchrl.modules")
    return [
        Case(
            name=f"{name}, trajectories one after another",
            call=f'{name}(input_size=3, hidden_size=4, in_key="x", out_key="y")\n'
            'module(TensorDict({"x": values, "is_init": is_init}))["y"]  # in set_recurrent_mode(True)',
            make=partial(
                getattr(library, name),
                input_size=3,
                hidden_size=4,
                in_keys=["x", *states],
                out_keys=["y", *(("next", state) for state in states)],
            ),
            options={
                "input_size": 3,
                "call": call_on_trajectories,
                "each": "step",
                "causal": True,
                "empty_rows": False,
            },
            unsupported={"empty_rows_have_no_effect": "is_init marks the first step of a trajectory, so it has one"},
            note="A row is a trajectory; there is no padding between them.",
        )
        for name, states in _KEYS.items()
    ]


LIBRARY = Library(
    name="TorchRL",
    packages=["torchrl", "tensordict"],
    list_cases=list_cases,
    better="It has the losses, replay buffers and environments of reinforcement learning.",
)
