"""A generated text, or generated ids, with log-probabilities."""

from collections.abc import Sequence
from typing import Generic, final

import attrs
from typing_extensions import TypeVar

X_co = TypeVar("X_co", covariant=True)


@final
@attrs.frozen
class Generation(Generic[X_co]):
    """A generated continuation, with the log-probability of each token.

    Attributes:
        output: the text; or the ids, if the pipe takes ids.
        ids: the tokens of the continuation, eos included.
        log_probabilities: the log-probability of each of them, as the model gives it: at temperature 1, with all
            tokens.
        ended: whether the continuation ended in eos, not at the maximum number of tokens.
    """

    output: X_co
    ids: Sequence[int]
    log_probabilities: Sequence[float]
    ended: bool

    @property
    def log_probability(self) -> float:
        """The log-probability of the continuation: the sum over its tokens."""
        return sum(self.log_probabilities)
