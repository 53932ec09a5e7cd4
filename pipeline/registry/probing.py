"""A part that a plugin offers, tried on small batches before anyone gets it: what it declares must be true."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import torch

from pipeline.laws import attentions, encoders, pools, tokenizers
from pipeline.laws.law import Law, LawBrokenError
from pipeline.registry.sampling import same_random_numbers, sample_options

_Laws: TypeAlias = Sequence[Law[Any]]

_SAMPLE: Final[Mapping[str, object]] = {"input_size": 3, "texts": ["a fine film", "a dull film"]}
"""What stages fill in."""

_PROMISES: Final[Mapping[str, _Laws]] = {
    "pipeline_encoders": (
        encoders.declarations_fit_together,
        encoders.sizes_are_true,
        encoders.what_rides_along_is_passed_on,
        encoders.empty_rows_end_as_they_began,
        encoders.causal_steps_do_not_look_ahead,
        encoders.bidirectional_reads_from_both_ends,
        encoders.carries_what_it_declares,
    ),
    "pipeline_attentions": (attentions.attention_sizes_are_true, attentions.scores_come_of_what_is_projected),
    "pipeline_pools": (pools.pooled_sizes_are_true, pools.empty_rows_give_zeros),
    "pipeline_tokenizers": (tokenizers.the_vocabulary_is_sound, tokenizers.ids_are_in_the_vocabulary),
}
"""The laws that hold a part of each hook against what it declares; the others are for its author's tests."""


def probed(hook: str, factory: Callable[..., object], options: Mapping[str, object] | None = None) -> bool:
    """Try what a factory makes. Nothing that draws random numbers notices.

    Args:
        hook: by which it is offered.
        factory: makes the part.
        options: what to make it with; small ones of our own choice if left out.

    Returns:
        False if it cannot be tried: a needed option has no type that we could guess a value for, or the factory
        refuses the values that we guessed.

    Raises:
        LawBrokenError: if something that the part declares is not true of it.

    Example:
        >>> from pipeline_recurrent import GRU
        >>> probed("pipeline_encoders", GRU)
        True
    """
    given = sample_options(factory, _SAMPLE) if options is None else options
    make: Callable[..., Any] = cast("Callable[..., Any]", factory)
    if given is None:
        return False
    # On the CPU and able to differentiate, whatever the caller is about.
    with same_random_numbers(), warnings.catch_warnings(), torch.device("cpu"), torch.inference_mode(mode=False):
        warnings.simplefilter("ignore")
        try:
            make(**given)
        except Exception:  # noqa: BLE001 - what a stranger's factory does not like of our options is no fault
            return False
        for law in _PROMISES[hook]:
            law(lambda: make(**given))
    return True


def fault(error: LawBrokenError) -> str:
    """What is wrong, as a part of a sentence."""
    return str(error).removeprefix("law broken: ").rstrip(".")
