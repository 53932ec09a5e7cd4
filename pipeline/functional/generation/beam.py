"""Beam search: keep the most probable continuations of each prompt, and extend all of them by each token."""

from collections.abc import Callable, Iterator, Sequence
from typing import final

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pipeline.data.tensors import to_floats, to_ints
from pipeline.functional.generation.drawn_row import Drawn, reject_nan
from pipeline.functional.generation.sampling import LOWEST, widen
from pipeline.functional.generation.token_model import C, TokenModel, select_rows


@final
@attrs.frozen
class Beams:
    """The options of a beam search.

    Attributes:
        num_beams: the number of continuations to keep.
        max_new_tokens: the maximum number of tokens of a continuation.
        length_penalty: the power of the length by which the log-probability of a continuation is divided.
        eos: the tokens that end a continuation.
        find_blocked: returns which tokens must not occur, for the first scores; None if all may.
    """

    num_beams: int
    max_new_tokens: int
    length_penalty: float
    eos: frozenset[int]
    find_blocked: Callable[[Tensor], Bool[Tensor, " token"] | None]

    def rate(self, total: float, tokens: int) -> float:
        """Return the score of a continuation: its log-probability, divided by a power of its length."""
        divisor: float = tokens**self.length_penalty
        return total / divisor

    def bound(self, total: float, tokens: int) -> float:
        """Return the highest score that a continuation may reach with more tokens: each can only lower its total."""
        # The power of the length grows or falls evenly, so one of the ends is the best.
        return max(self.rate(total, tokens + 1), self.rate(total, self.max_new_tokens))


@attrs.define(eq=False)
class _Search:
    """The search for one prompt: its unfinished continuations, best first, and the best finished ones."""

    live: list[Drawn]
    done: list[tuple[float, Drawn]] = attrs.field(factory=list[tuple[float, Drawn]])

    def finish(self, found: Drawn, beams: Beams) -> None:
        self.done.append((beams.rate(found.total, len(found.ids)), found))
        # Stable: of equal scores the one that was found first is the best.
        self.done.sort(key=lambda scored: -scored[0])
        del self.done[beams.num_beams :]

    def is_over(self, beams: Beams) -> bool:
        """Return whether no unfinished continuation can still become one of the best."""
        if not self.live or len(self.live[0].ids) == beams.max_new_tokens:
            return True
        best = max(beams.bound(each.total, len(each.ids)) for each in self.live)
        return len(self.done) == beams.num_beams and best <= self.done[-1][0]


def search_beams(
    steps: TokenModel[C], prompts: Sequence[Sequence[int]], beams: Beams, first: int = 0
) -> list[list[Drawn]]:
    """Return the best continuations of each prompt, best first: at most `num_beams`.

    A step extends the unfinished continuations of a prompt by every token, and keeps the `num_beams` most probable
    results that do not end. A result that ends is finished if it is among the `num_beams` most probable of all. The
    search for a prompt ends when no unfinished one can still get a higher score than the finished ones, or after
    `max_new_tokens`; unfinished ones then count too.

    Args:
        steps: the model.
        prompts: the tokens of each prompt.
        beams: the options.
        first: the number of the first prompt, for errors.

    Raises:
        ValuesError: if the scores after a prompt are NaN.

    Source: Graves 2012, "Sequence Transduction with Recurrent Neural Networks", arXiv:1211.3711 (beam search); Wu et
    al. 2016, "Google's Neural Machine Translation System", arXiv:1609.08144 (scores by length). Our penalty is a power
    of the length itself, as in Hugging Face.
    """
    searches = [_Search([Drawn()]) for _ in prompts]
    scores, carry = steps.read(prompts)
    blocked = beams.find_blocked(scores)
    active = list(range(len(prompts)))
    while True:
        parents: list[int] = []
        chosen: list[int] = []
        row = 0
        log_probabilities = widen(scores).log_softmax(-1)
        allowed = log_probabilities if blocked is None else log_probabilities.masked_fill(blocked, LOWEST)
        for number in active:
            search = searches[number]
            rows = range(row, row + len(search.live))
            row = rows.stop
            reject_nan(bool(log_probabilities[rows.start].isnan().any()), first + number)
            for parent, token in _extend(search, allowed[rows.start : rows.stop], beams):
                parents.append(rows.start + parent)
                chosen.append(token)
        over = {number for number in active if searches[number].is_over(beams)}
        kept = [number for number in active if number not in over]
        keep = [number not in over for number in active for _ in searches[number].live]
        if not kept:
            break
        active = kept
        rows_kept = [parent for parent, is_kept in zip(parents, keep, strict=True) if is_kept]
        tokens = [token for token, is_kept in zip(chosen, keep, strict=True) if is_kept]
        carry = select_rows(carry, rows_kept, scores.shape[0])
        scores, carry = steps.step(torch.tensor(tokens, device=scores.device), carry)
    return [list(_rank(search, beams)) for search in searches]


def _extend(search: _Search, log_probabilities: Float[Tensor, "live token"], beams: Beams) -> Iterator[tuple[int, int]]:
    """Extend the live continuations of a prompt; yield the parent and the token of each that is live then."""
    totals = log_probabilities.new_tensor([each.total for each in search.live])
    found = (log_probabilities + totals.unsqueeze(1)).flatten()
    # Enough candidates that `num_beams` of them do not end.
    best = _find_best(found, beams.num_beams * (1 + len(beams.eos)))
    live: list[Drawn] = []
    own = log_probabilities.flatten()[best]
    ranked = zip(to_ints(best), to_floats(found[best]), to_floats(own), strict=True)
    for rank, (index, total, each) in enumerate(ranked):
        parent, token = divmod(index, log_probabilities.shape[1])
        if total == LOWEST or len(live) == beams.num_beams:
            break
        extended = search.live[parent].extend(token, each, ended=token in beams.eos)
        if not extended.ended:
            live.append(extended)
            yield parent, token
        elif rank < beams.num_beams:
            search.finish(extended, beams)
    search.live = live


def _find_best(found: Float[Tensor, " candidate"], count: int) -> Int64[Tensor, " best"]:
    """Return the indices of the best candidates, best first; of equal ones, the first."""
    # `topk` chooses among equal totals as it likes. So it only finds the lowest one to keep.
    least = found.topk(min(count, len(found))).values[-1]
    candidates = (found >= least).nonzero().squeeze(1)
    return candidates[found[candidates].argsort(descending=True, stable=True)[:count]]


def _rank(search: _Search, beams: Beams) -> Iterator[Drawn]:
    """Yield the best continuations: finished ones, and those that reached the maximum number of tokens."""
    for each in search.live:
        if len(each.ids) == beams.max_new_tokens:
            search.finish(each, beams)
    yield from (found for _, found in search.done)
