"""A module whose hooks give functions that do a part's work."""

from collections.abc import Callable, Mapping

from torch import Tensor


def pipeline_pools() -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Offer a function that pools."""
    return {"max": lambda steps: steps.amax(1)}


def pipeline_tokenizers() -> Mapping[str, Callable[[str], list[str]]]:
    """Offer a function that cuts text."""
    return {"words": str.split}
