"""Continue prompts with any model that scores the next token: greedily, at random, or by a beam search."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pipeline.data.tensors import to_floats, to_ints
from pipeline.functional.generation.beam import Beams, search_beams
from pipeline.functional.generation.drawn_row import Drawn, reject_nan
from pipeline.functional.generation.options import GenerateSettings
from pipeline.functional.generation.sampling import LOWEST, draw_numbers, draw_tokens, restrict_scores, widen
from pipeline.functional.generation.token_model import C, TokenModel, select_rows

FindBlocked: TypeAlias = Callable[[Tensor], Bool[Tensor, " token"] | None]
"""Returns which tokens must not occur, for the first scores; None if all may."""


def find_continuations(
    model: TokenModel[C],
    prompts: Sequence[Sequence[int]],
    settings: GenerateSettings,
    eos: frozenset[int],
    find_blocked: FindBlocked,
    numbers: Sequence[int],
) -> list[list[Drawn]]:
    """Return the continuations of each prompt, best first in a beam search.

    Args:
        model: the model.
        prompts: the tokens of each prompt, one or more.
        settings: the options.
        eos: the tokens that end a continuation.
        find_blocked: returns which tokens must not occur.
        numbers: the number of each prompt, for errors; with the seed, they determine what is drawn.

    Raises:
        ValuesError: if the scores after a prompt are NaN.
    """
    if settings.num_beams > 1:
        limits = (settings.num_beams, settings.max_new_tokens, settings.length_penalty)
        beams = Beams(*limits, eos, find_blocked)
        found = search_beams(model, prompts, beams, numbers[0] if numbers else 0)
        return [each[: settings.num_return_sequences] for each in found]
    return _draw(model, prompts, settings, eos, find_blocked, numbers)


def _draw(
    model: TokenModel[C],
    prompts: Sequence[Sequence[int]],
    settings: GenerateSettings,
    eos: frozenset[int],
    find_blocked: FindBlocked,
    numbers: Sequence[int],
) -> list[list[Drawn]]:
    """Return the continuations of prompts, drawn or the most probable token each."""
    copies = settings.num_return_sequences
    found = [Drawn() for _ in prompts for _ in range(copies)]
    names = [(number, copy) for number in numbers for copy in range(copies)]
    chances = draw_numbers(settings.seed, names, settings.max_new_tokens) if settings.do_sample else None
    scores, carry = model.read(prompts)
    blocked = find_blocked(scores)
    active = list(range(len(found)))
    kept = [row for row in range(len(prompts)) for _ in range(copies)]
    # Each prompt is read once, and its copies begin with the same scores and carry.
    scores, carry = scores[kept], select_rows(carry, kept, len(prompts))
    for number in range(settings.max_new_tokens):
        drawn_by = None if chances is None else chances[active, number]
        tokens = _choose(scores if blocked is None else scores.masked_fill(blocked, LOWEST), drawn_by, settings)
        own = widen(scores).log_softmax(-1).gather(1, tokens.unsqueeze(1)).squeeze(1)
        for row, token, log_probability in zip(active, to_ints(tokens), to_floats(own), strict=True):
            reject_nan(log_probability != log_probability, numbers[row // copies])  # noqa: PLR0124 - only NaN differs
            found[row] = found[row].extend(token, log_probability, ended=token in eos)
        # Rows that ended are left out, so that no step of them is computed.
        kept = [index for index, row in enumerate(active) if not found[row].ended]
        if not kept or number == settings.max_new_tokens - 1:
            break
        carry = select_rows(carry, kept, len(active))
        active = [active[index] for index in kept]
        scores, carry = model.step(tokens[torch.tensor(kept, device=tokens.device)], carry)
    return [found[row * copies : (row + 1) * copies] for row in range(len(prompts))]


def _choose(
    scores: Float[Tensor, "row token"], numbers: Float[Tensor, " row"] | None, settings: GenerateSettings
) -> Int64[Tensor, " row"]:
    if numbers is None:
        return scores.argmax(-1)
    restricted = restrict_scores(scores, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
    return draw_tokens(restricted, numbers.to(scores.device))
