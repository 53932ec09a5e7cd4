"""Test the stage, the head and the policy against the laws of pipeline."""

import pipeline_highway
from pipeline_highway import Binary, Highway, PowersOfTwo

from pipeline.extend import OffersHeads, OffersPolicies, OffersStages
from pipeline.testing import check_head, check_policy, check_stage

stages: OffersStages = pipeline_highway
heads: OffersHeads = pipeline_highway
policies: OffersPolicies = pipeline_highway


def test_stage_obeys_the_laws() -> None:
    """With a size of its own, and with that of the stage before it."""
    check_stage(lambda: Highway(3))
    check_stage(Highway)


def test_head_obeys_the_laws() -> None:
    """With a size of its own, and with that of the stage before it."""
    check_head(lambda: Binary(3))
    check_head(Binary)


def test_policy_obeys_the_laws() -> None:
    """For a budget that is not a power of two."""
    check_policy(lambda: PowersOfTwo(100))
