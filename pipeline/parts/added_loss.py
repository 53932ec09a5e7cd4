"""Terms that parts add to the loss in training, such as the penalty of an attention."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_TERMS: Final[ContextVar[list[Tensor] | None]] = ContextVar("terms", default=None)


def add_to_loss(term: Float[Tensor, ""]) -> None:
    """Add a number to the loss of the batch on which a model is being trained.

    A module calls it in `forward`. The term is a mean over rows or steps of the batch, times the weight that an option
    of the module gives it. `fit` and its adapters add it to the loss of the head, which they still report by itself.
    Elsewhere, as in predictions, the call has no effect. Neither has it in a graph of `torch.compile`, nor in the
    second forward pass of a checkpointed activation.

    Example:
        >>> with collect_added_losses() as terms:
        ...     add_to_loss(torch.tensor(0.5))
        >>> terms
        [tensor(0.5000)]
    """
    if torch.compiler.is_compiling():
        return
    terms = _TERMS.get()
    if terms is not None:
        terms.append(term)


@contextmanager
def collect_added_losses() -> Generator[list[Tensor], None, None]:
    """Collect the terms that modules add to the loss, for a training loop written by hand.

    Example:
        >>> from pipeline import Padded, Pool, States, Vectors
        >>> pool = Pool("structured_attention", input_size=2, hops=3)
        >>> with collect_added_losses() as terms:
        ...     pooled = pool(States.from_padded(torch.ones(1, 4, 2), torch.tensor([4])))
        >>> loss = pooled.values.square().mean() + sum(terms)
        >>> len(terms)
        1
    """
    terms: list[Tensor] = []
    token = _TERMS.set(terms)
    try:
        yield terms
    finally:
        _TERMS.reset(token)


def add_terms(loss: Tensor, terms: Sequence[Tensor], share: Tensor | float = 1.0) -> Tensor:
    """Return a loss with the terms of its batch, times the share of the batch in the group that it is part of."""
    if not terms:
        return loss
    return loss + torch.stack([term.to(loss) for term in terms]).sum() * share


def compute_share(weight: Mapping[str, Tensor], divisor: Mapping[str, Tensor]) -> Tensor:
    """Return the share of a batch in the group of batches whose weight is the divisor; 0 if nothing has a target."""
    own, all_of_them = (torch.stack([*each.values()]).sum() for each in (weight, divisor))
    return own.to(all_of_them.device) / all_of_them.masked_fill(all_of_them == 0, 1)
