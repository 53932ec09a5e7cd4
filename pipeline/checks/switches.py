"""What can be switched for the whole process: the checks at the borders, and the poison in the padding."""

import os
from types import TracebackType
from typing import Final, Literal, final

import attrs
import torch

from pipeline.errors import OptionError


def _from_environment(variable: str, *, default: bool) -> bool:
    said = os.environ.get(variable, "").strip()
    if said not in {"", "0", "1"}:
        msg = f"the environment variable {variable} must be 0 or 1, but {said!r} arrived; unset it for the default."
        raise OptionError(msg, variable=variable, value=said)
    return default if not said else said == "1"


@final
@attrs.define
class _Switches:
    checks: bool
    poison: bool


SWITCHES: Final = _Switches(
    checks=_from_environment("PIPELINE_CHECKS", default=True),
    poison=_from_environment("PIPELINE_PADDING_CHECK", default=False),
)


@final
class Switched:
    """A switch that was set; as a context manager it is set back at the end."""

    def __init__(self, switch: Literal["checks", "poison"], *, on: bool) -> None:
        self._switch: Final = switch
        self._before: Final[bool] = getattr(SWITCHES, switch)
        setattr(SWITCHES, switch, on)

    def __enter__(self) -> None:
        """Nothing more to do: it was set when it was made."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        setattr(SWITCHES, self._switch, self._before)


def set_checks(on: bool, /) -> Switched:
    """Check what goes into every stage, batch and part, and what comes out, or do not.

    On from the start, unless the environment says `PIPELINE_CHECKS=0`. Off, a wrong shape, length or id may give
    a wrong answer in silence, as in plain torch. Compiled and exported graphs hold no checks either way.

    Example:
        >>> import torch
        >>> from pipeline import Pooled
        >>> with set_checks(False):
        ...     Pooled(torch.zeros(2, 3, 4)).values.shape
        torch.Size([2, 3, 4])
        >>> Pooled(torch.zeros(2, 3, 4))
        Traceback (most recent call last):
        pipeline.errors.ShapeError: Pooled: values must be Float[Tensor, 'batch hidden'], ...
    """
    return Switched("checks", on=on)


def set_padding_check(on: bool, /) -> Switched:
    """Fill the padding of all that goes into a stage with NaN (ids: with a number that no table has), or do not.

    A stage that lets padding into an answer then gives NaN, and is named. For debugging: it costs a pass over
    every batch. Off from the start, unless the environment says `PIPELINE_PADDING_CHECK=1`.

    Example:
        >>> import torch
        >>> from pipeline import Padded, Pool, States, Vectors
        >>> states = States.from_padded(torch.ones(1, 3, 2), torch.tensor([2]))
        >>> with set_padding_check(True):
        ...     Pool("mean")(states).values.tolist()
        [[1.0, 1.0]]
    """
    return Switched("poison", on=on)


def at_border() -> bool:
    """Whether borders are checked here and now: not while a graph is compiled, nor where checks are switched off."""
    return SWITCHES.checks and not torch.compiler.is_compiling()
