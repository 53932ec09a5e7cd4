"""Whether a backward pass may write over what the forward pass kept for it."""

from collections.abc import Callable
from importlib import import_module
from typing import Final

_NAME: Final = "_get_current_graph_task_keep_graph"

_kept: Callable[[], bool] = getattr(import_module("torch._C._autograd"), _NAME, lambda: True)
"""What torch's own compiler asks. Where it is gone, a graph counts as kept: that costs memory, and is never wrong."""


def last_pass() -> bool:
    """Whether nobody can go through this graph again: asked in a backward pass.

    Torch drops what was kept for such a pass, even if it fails, and refuses another.
    """
    return not _kept()
