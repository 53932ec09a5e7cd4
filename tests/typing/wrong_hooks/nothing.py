"""A module whose hook gives nothing."""


def pipeline_pools() -> None:
    """Offer no pool, by None."""
