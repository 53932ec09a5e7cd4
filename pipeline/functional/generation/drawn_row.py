"""The tokens that were generated for one row, with their log-probabilities."""

from collections.abc import Sequence
from typing import Self, final

import attrs

from pipeline.errors import ValuesError


@final
@attrs.frozen
class Drawn:
    """A continuation of a prompt: its tokens, and whether it ended.

    Attributes:
        ids: the tokens, eos included.
        log_probabilities: the log-probability of each token, as the model gives it.
        ended: whether the last token is eos.
        total: the sum of the log-probabilities.
    """

    ids: Sequence[int] = ()
    log_probabilities: Sequence[float] = ()
    ended: bool = False
    total: float = 0.0

    def extend(self, token: int, log_probability: float, *, ended: bool) -> Self:
        """Return the continuation with one more token."""
        return type(self)(
            (*self.ids, token), (*self.log_probabilities, log_probability), ended, self.total + log_probability
        )


def reject_nan(is_nan: bool, prompt: int) -> None:
    """Reject scores that are NaN, from which no token follows.

    Raises:
        ValuesError: naming the prompt.
    """
    if is_nan:
        msg = (
            f"the scores after prompt {prompt} are NaN; train the model with a lower learning rate, or clip gradients."
        )
        raise ValuesError(msg, prompt=prompt)
