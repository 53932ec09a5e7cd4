"""Parts that are wrong in one way each, and the laws that they break by it: what the kit must catch, and no more.

Each is an honest part but for the lines of its class, so that the laws that it breaks are broken by those lines.
"""

from typing import Final

from broken import attentions, encoders, modules, pools, tokenizers
from broken.trial import Trial

TRIALS: Final[tuple[Trial, ...]] = (
    *encoders.TRIALS,
    *attentions.TRIALS,
    *pools.TRIALS,
    *tokenizers.TRIALS,
    *modules.TRIALS,
)
"""Every broken part."""
