"""A switch for exported graphs: stages leave rows padded, since the number of packed steps depends on the lengths."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, final

import attrs
import torch


@final
@attrs.define
class _Switch:
    on: bool = False


_SWITCH: Final = _Switch()


@contextmanager
def keep_rectangles() -> Generator[None]:
    """While a graph is traced inside this block, `Pack` and heads per step return padded values.

    Their types then do not hold, so this is for code that compares the graph with the model, as `export` does.
    """
    before, _SWITCH.on = _SWITCH.on, True
    try:
        yield
    finally:
        _SWITCH.on = before


def keeps_rectangles() -> bool:
    """Return whether a graph is traced whose rows stay padded."""
    return _SWITCH.on and torch.compiler.is_compiling()
