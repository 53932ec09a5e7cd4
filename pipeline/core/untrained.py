"""Warn of recurrent weights that the pooling after an encoder leaves untrained."""

import warnings
from typing import Final
from weakref import WeakSet

from pipeline.core.chain_base import ChainBase
from pipeline.core.stage import StageBase, TypePreserving

_WARNED: Final[WeakSet[StageBase]] = WeakSet()
"""The poolings that were warned of: a chain is joined again with every stage after them."""

_BEGINS: Final = {"last": "backward", "first": "forward"}
"""The direction that begins at a step: its vector of this step depends on no other step."""


def warn_of_one_step(chain: StageBase, *, stacklevel: int) -> None:
    """Warn of a pooling of the first or last step right after a bidirectional encoder.

    One of the two directions has read this step only. It never uses its recurrent weights, whose gradient is zero.

    Args:
        chain: a chain.
        stacklevel: as in `warnings.warn`, for the caller of this function.
    """
    assert isinstance(chain, ChainBase)
    encoder: object = None
    for number, stage in enumerate(chain.stages.values(), start=1):
        step: object = getattr(stage, "reads_one_step", None)
        if isinstance(step, str) and getattr(encoder, "bidirectional", False) is True and stage not in _WARNED:
            _WARNED.add(stage)
            msg = (
                f"stage {number} `{type(stage).__name__}` takes the {step} step of each row, where the "
                f"{_BEGINS[step]} direction of {type(encoder).__name__} begins: this direction has read one step only, "
                "and the recurrent weights of its last layer get no gradient; choose the pooling 'final', for which "
                "both directions have read the whole row, or another one."
            )
            warnings.warn(msg, UserWarning, stacklevel=stacklevel + 1)
        # Whatever else stands between may mix steps.
        if not (stage.stepwise and isinstance(stage, TypePreserving)):
            encoder = getattr(stage, "encoder", None)
