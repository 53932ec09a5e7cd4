"""The laws of poolings."""

from collections.abc import Callable
from typing import Final, TypeAlias

from torch import Tensor

from pipeline.checks.shapes import described
from pipeline.laws.compare import numbers
from pipeline.laws.graphs import GRAPHS
from pipeline.laws.inertness import EVERY_ROW, layouts_agree, no_gradient_reaches_padding, padding_is_inert
from pipeline.laws.law import FaultError, Law, check, law, loosely
from pipeline.laws.run import prepared, size_of, states_of
from pipeline.laws.samples import drawn, padded
from pipeline.laws.upkeep import UPKEEP, evaluation_is_deterministic
from pipeline.parts.pooling import Pooling

Made: TypeAlias = Callable[[], Pooling]


@law
def pooled_sizes_are_true(make: Made) -> None:
    """There is one vector a row, of `output_size(features)`; where `input_size` is None, of any number of features."""
    pooling = prepared(make)
    size: object = getattr(pooling, "input_size", "nothing")
    if size is not None and (not isinstance(size, int) or size < 1):
        msg = f"input_size must be a number of features, 1 or more, or None for any, but {size!r} is declared."
        raise FaultError(msg, argument="input_size")
    for features in (1, 4, 7) if pooling.input_size is None else (pooling.input_size,):
        found = pooling(states_of(padded(drawn((4, 1, 3), features), extra=1)))
        wanted = (3, pooling.output_size(features))
        if not isinstance(loosely(found), Tensor) or found.shape != wanted:
            msg = f"3 rows of {features} features must give {wanted}, as output_size says, not {described(found)}."
            raise FaultError(msg)


@law
def empty_rows_give_zeros(make: Made) -> None:
    """A row of no steps gives zeros, among others and where there is nothing else."""
    pooling = prepared(make)
    for lengths, extra in (((3, 0, 2), 1), ((0, 0), 0), ((0, 0), 2)):
        batch = padded(drawn(lengths, size_of(pooling)), extra=extra)
        for each in (batch, batch.packed()):
            found = pooling(states_of(each))[batch.lengths == 0]
            if not bool((found == 0).all()):
                msg = (
                    f"among lengths {lengths}, an empty row gives {numbers(found[0])}, not zeros; divide by "
                    "lengths.clamp(min=1), and fill what has no steps."
                )
                raise FaultError(msg)


POOL_LAWS: Final[tuple[Law[Pooling], ...]] = (
    pooled_sizes_are_true,
    evaluation_is_deterministic,
    empty_rows_give_zeros,
    layouts_agree,
    padding_is_inert,
    no_gradient_reaches_padding,
    *EVERY_ROW,
    *UPKEEP,
    *GRAPHS,
)
"""Every law of a pooling, the quick ones first."""


def check_pool(make: Made) -> None:
    """Hold poolings against `POOL_LAWS`.

    Args:
        make: takes nothing and makes a new pooling at every call.

    Raises:
        LawBrokenError: if they break any; it tells of all of them.
        OptionError: if `make` is a part, and no function that makes one.

    Example:
        >>> from pipeline_attention import AttentionPool
        >>> check_pool(lambda: AttentionPool(3))
    """
    check(POOL_LAWS, make, "poolings")
