"""Show the options of a transformer in signatures."""

import inspect
from collections.abc import Callable
from typing import TypeVar

from pipeline_transformer.transformer import BaseTransformer, Options

F = TypeVar("F", bound=Callable[..., object])


def expand_options(function: F) -> F:
    """Show the options of `BaseTransformer.__init__` in a function's signature, in place of its `**options`.

    A type checker reads `**options: Unpack[Options]`. The registry reads names and defaults from the signature.
    """
    signature = inspect.signature(function)
    own = [option for option in signature.parameters.values() if option.kind is not option.VAR_KEYWORD]
    base = inspect.signature(BaseTransformer.__init__).parameters
    shared = [base[name] for name in Options.__annotations__]
    setattr(function, "__signature__", signature.replace(parameters=[*own, *shared]))  # noqa: B010 - not on the type
    return function
