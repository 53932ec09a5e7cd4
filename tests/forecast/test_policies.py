"""The policies that are compared under a budget, and their names."""

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Rows, Shapes
from pipeline.forecast import Histogram, suggest_policies
from pipeline.forecast.policies import choose_widths, format_policy


@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=20), count=st.integers(1, 4))
def test_chosen_widths_give_the_least_padding(lengths: list[int], count: int) -> None:
    """No other choice of widths has less padding."""

    def padding(chosen: Sequence[int]) -> int:
        return sum(min(width for width in chosen if width >= length) - length for length in lengths)

    longest = max(1, *lengths)
    found = choose_widths(Histogram.of(lengths), count, longest)
    every = itertools.combinations(range(1, longest), min(count, longest) - 1)
    assert len(found) <= count
    assert padding(found) == min(padding((*chosen, longest)) for chosen in every)


def test_policies_are_written_as_calls() -> None:
    """Default values are left out; the suggested policies have different names."""
    assert format_policy(Rows(2_000)) == "Rows(2,000)"
    assert format_policy(Shapes([(4, 8)])) == "Shapes(((4, 8),))"
    names = [format_policy(policy) for policy in suggest_policies(Histogram.of(range(200)), 1_000)]
    assert len(set(names)) == len(names) == 5
