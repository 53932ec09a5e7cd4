"""Choosing tokens: filters beside loops that follow their definitions, and draws with known frequencies."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pipeline.functional.generation.sampling import draw_numbers, draw_tokens, restrict_scores
from support.untyped import to_list

SCORES = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=8)


def restrict_by_definition(
    scores: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> list[float]:
    """Return the probabilities that remain, of one row, token by token."""
    scaled = [score / temperature for score in scores]
    kept = sorted(range(len(scaled)), key=lambda token: (-scaled[token], token))[:top_k]
    if top_p is not None:
        total = sum(math.exp(scaled[token]) for token in kept)
        nucleus: list[int] = []
        reached = 0.0
        for token in kept:
            if nucleus and reached >= top_p - 1e-12:
                break
            nucleus.append(token)
            reached += math.exp(scaled[token]) / total
        kept = nucleus
    total = sum(math.exp(scaled[token]) for token in kept)
    return [math.exp(scaled[token]) / total if token in kept else 0.0 for token in range(len(scaled))]


@given(
    SCORES,
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([None, 1, 2, 3, 100]),
    st.sampled_from([None, 0.05, 0.313, 0.777, 0.9, 1.0]),
)
def test_filters_are_those_of_the_definitions(
    scores: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    """Many scores are equal: then the first tokens are kept."""
    rows = torch.tensor([scores, scores[::-1]], dtype=torch.float64)
    found = restrict_scores(rows, temperature=temperature, top_k=top_k, top_p=top_p).softmax(-1)
    wanted = [restrict_by_definition(row, temperature, top_k, top_p) for row in (scores, scores[::-1])]
    assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_top_k_keeps_exactly_k_of_equal_scores() -> None:
    """The first ones."""
    found = restrict_scores(torch.zeros(1, 5), top_k=2)
    assert to_list(found.isfinite()) == [[True, True, False, False, False]]


def test_a_tiny_nucleus_keeps_the_best_token() -> None:
    """There is always a token to draw."""
    assert to_list(restrict_scores(torch.tensor([[0.0, 2.0]]), top_p=1e-9).isfinite()) == [[False, True]]


def test_draws_have_the_frequencies_of_the_scores() -> None:
    """Within four standard deviations; a token of probability 0 is never drawn."""
    count, probabilities = 20_000, torch.tensor([0.5, 0.0, 0.2, 0.3])
    numbers = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn: Counter[int] = Counter(to_list(draw_tokens(probabilities.log().expand(count, -1), numbers)))
    for token, probability in enumerate(to_list(probabilities)):
        deviation = math.sqrt(count * probability * (1 - probability))
        assert abs(drawn[token] - count * probability) <= 4 * deviation


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (1 - 2**-53, 2)], ids=["lowest", "highest"])
def test_the_ends_of_the_numbers_draw_tokens_with_a_probability(number: float, token: int) -> None:
    """Never a blocked one, at the beginning or at the end."""
    scores = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    assert to_list(draw_tokens(scores, torch.tensor([number], dtype=torch.float64))) == [token]


def test_numbers_of_a_row_depend_on_the_seed_and_its_name_only() -> None:
    """Not on other rows, or on how many numbers are drawn."""
    both = draw_numbers(5, [(0, 0), (0, 1)], 4)
    assert_close(draw_numbers(5, [(0, 1)], 6)[0, :4], both[1])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(draw_numbers(6, [(0, 0)], 4)[0], both[0])
