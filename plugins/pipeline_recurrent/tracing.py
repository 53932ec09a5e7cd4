"""What an encoder does while torch.compile or torch.export trace it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import TypeVar, cast

import torch
from torch import Tensor

from pipeline_recurrent.engines.engine import Weights
from pipeline_recurrent.torch_modules import TorchModule

F = TypeVar("F", bound=Callable[..., object])


def exclude_from_compile(function: F) -> F:
    """Wrap a function so that a compiler leaves it, and what it calls, alone. Torch leaves the type of this open."""
    disable: Callable[[F], F] = getattr(torch.compiler, "disable")  # noqa: B009
    return disable(function)


def _run_while_tracing(function: F) -> F:
    """Mark a function without arguments so that a compiler calls it, and takes its result for a constant."""
    # As torch.compiler.assume_constant_result does, which would import the compiler: two seconds at each start.
    setattr(function, "_dynamo_marked_constant", True)  # noqa: B010 - private
    return function


def allow_access() -> AbstractContextManager[object]:
    """Let torch.compile read a module of class `nn.LSTM`, `nn.GRU` or `nn.RNN`, any access to which it rejects."""
    return _make_patch() if torch.compiler.is_dynamo_compiling() else nullcontext()


@_run_while_tracing
def _make_patch() -> AbstractContextManager[object]:
    # Torch's function for such patches takes few options only; its class takes all.
    config, decorators = (import_module(f"torch._dynamo.{name}") for name in ("config", "decorators"))
    patch: Callable[..., object] = getattr(config, "patch")  # noqa: B009 - private, as the next one
    make: Callable[[object], AbstractContextManager[object]] = getattr(decorators, "DynamoConfigPatchProxy")  # noqa: B009
    return make(patch(allow_rnn=True))


def read_graph_weights(rnn: TorchModule, num_layers: int, directions: int) -> list[list[Weights]]:
    """Return the weights of each direction of each layer, so that a graph reads them at each call."""
    held = cast("Mapping[str, Tensor | None]", getattr(rnn, "_parameters"))  # noqa: B009 - private
    names = [[f"_l{layer}{suffix}" for suffix in ("", "_reverse")[:directions]] for layer in range(num_layers)]
    return [
        [
            (
                cast("Tensor", held[f"weight_ih{name}"]),
                cast("Tensor", held[f"weight_hh{name}"]),
                held.get(f"bias_ih{name}"),
                held.get(f"bias_hh{name}"),
            )
            for name in layer
        ]
        for layer in names
    ]
