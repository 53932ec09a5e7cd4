"""Broken parts, and the laws that each breaks. The laws must catch these, and nothing else.

Each is a correct part except for the lines of its class, so those lines break the laws.
"""

from typing import Final

from broken import attentions, conditions, corners, encoders, modules, pools, tokenizers
from broken.trial import Trial

TRIALS: Final[tuple[Trial, ...]] = (
    *encoders.TRIALS,
    *attentions.TRIALS,
    *pools.TRIALS,
    *tokenizers.TRIALS,
    *modules.TRIALS,
    *conditions.TRIALS,
    *corners.TRIALS,
)
"""Every broken part."""
