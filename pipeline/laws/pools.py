"""Laws about poolings."""

from collections.abc import Callable
from typing import Final, TypeAlias

from torch import Tensor

from pipeline.checks.hints import describe
from pipeline.laws.common import COMMON_LAWS
from pipeline.laws.configs import config_makes_an_equal_part
from pipeline.laws.law import FaultError, Law, as_object, check_laws, law, to_list
from pipeline.laws.parts import choose_input_size, draw_rows, make_batch, make_states, prepare
from pipeline.laws.rows import (
    no_gradient_reaches_padding,
    packed_and_padded_agree,
    padding_values_have_no_effect,
)
from pipeline.laws.variations import metadata_has_no_effect
from pipeline.laws.weights import evaluation_is_deterministic
from pipeline.parts.pooling import Pooling

MakePooling: TypeAlias = Callable[[], Pooling]


@law
def pooled_sizes_match_declared(make: MakePooling) -> None:
    """Each row gives one vector of `output_size(features)`; for any number of features if `input_size` is None."""
    pooling = prepare(make)
    # A default that is neither None nor a number, so that a missing attribute is reported as well.
    size: object = getattr(pooling, "input_size", "nothing")
    if size is not None and (not isinstance(size, int) or size < 1):
        msg = f"input_size must be a number of features, 1 or more, or None for any number, got {size!r}."
        raise FaultError(msg, argument="input_size")
    for features in (1, 4, 7) if pooling.input_size is None else (pooling.input_size,):
        found = pooling(make_states(make_batch(draw_rows((4, 1, 3), features), extra=1)))
        wanted = (3, pooling.output_size(features))
        if not isinstance(as_object(found), Tensor) or found.shape != wanted:
            msg = (
                f"3 rows of {features} features must give a tensor of shape {wanted}, as output_size declares, got "
                f"{describe(found)}."
            )
            raise FaultError(msg)


@law
def empty_rows_give_zeros(make: MakePooling) -> None:
    """An empty row gives zeros, among other rows and in a batch of empty rows."""
    pooling = prepare(make)
    # Batches of empty rows only: without any width, and with padding only.
    for lengths, extra in (((3, 0, 2), 1), ((4, 2, 0), 0), ((0, 0), 0), ((0, 0), 2)):
        batch = make_batch(draw_rows(lengths, choose_input_size(pooling)), extra=extra)
        for layout in (batch, batch.packed()):
            found = pooling(make_states(layout))[batch.lengths == 0]
            if not bool((found == 0).all()):
                msg = (
                    f"among lengths {lengths}, an empty row gives {to_list(found[0])} instead of zeros; divide by "
                    "lengths.clamp(min=1), and fill results that have no steps."
                )
                raise FaultError(msg)


POOL_LAWS: Final[tuple[Law[Pooling], ...]] = (
    pooled_sizes_match_declared,
    evaluation_is_deterministic,
    empty_rows_give_zeros,
    packed_and_padded_agree,
    padding_values_have_no_effect,
    no_gradient_reaches_padding,
    metadata_has_no_effect,
    config_makes_an_equal_part,
    *COMMON_LAWS,
)
"""Every law of a pooling, the quick ones first."""


def check_pool(make: MakePooling) -> None:
    """Check poolings against `POOL_LAWS`.

    Args:
        make: takes no arguments and creates a new pooling at every call.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
        OptionError: if `make` is a part instead of a function that creates one.

    Example:
        >>> from pipeline_attention import AttentionPool
        >>> check_pool(lambda: AttentionPool(3))
    """
    check_laws(POOL_LAWS, make, "poolings", "POOL_LAWS")
