"""Switches for the whole process: the runtime checks, and the padding check."""

import os
from types import TracebackType
from typing import Final, Literal, final

import attrs
import torch

from pipeline.errors import OptionError


def _read_environment(variable: str, *, default: bool) -> bool:
    value = os.environ.get(variable, "").strip()
    if value not in {"", "0", "1"}:
        msg = f"the environment variable {variable} must be 0 or 1, got {value!r}; unset it for the default."
        raise OptionError(msg, variable=variable, value=value)
    return default if not value else value == "1"


@final
@attrs.define
class _Switches:
    checks: bool
    padding: bool


SWITCHES: Final = _Switches(
    checks=_read_environment("PIPELINE_CHECKS", default=True),
    padding=_read_environment("PIPELINE_PADDING_CHECK", default=False),
)


@final
class SwitchSetting:
    """A switch that was set. As a context manager it restores the former setting at the end."""

    def __init__(self, switch: Literal["checks", "padding"], *, on: bool) -> None:
        self._switch: Final = switch
        self._before: Final[bool] = getattr(SWITCHES, switch)
        setattr(SWITCHES, switch, on)

    def __enter__(self) -> None:
        """Do nothing: the switch was set by `__init__`, so that a plain call works too."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        setattr(SWITCHES, self._switch, self._before)


def set_checks(on: bool, /) -> SwitchSetting:
    """Turn the checks of stages, batches and parts on or off, for good or as a context manager.

    They are on by default, unless the environment has `PIPELINE_CHECKS=0`. Without them a wrong shape, length or id
    may give a wrong result without an error, as in plain torch. Compiled and exported graphs contain no checks.

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
    return SwitchSetting("checks", on=on)


def set_padding_check(on: bool, /) -> SwitchSetting:
    """Turn the padding check on or off, for good or as a context manager.

    It fills the padding of every stage's input with NaN (of ids, with an id that no table has). If a stage lets
    padding affect its result, the result contains NaN, and a `PaddingLeakError` names the stage. For debugging: it
    costs a pass over every batch. It is off by default, unless the environment has `PIPELINE_PADDING_CHECK=1`.

    Example:
        >>> import torch
        >>> from pipeline import Padded, Pool, States, Vectors
        >>> states = States.from_padded(torch.ones(1, 3, 2), torch.tensor([2]))
        >>> with set_padding_check(True):
        ...     Pool("mean")(states).values.tolist()
        [[1.0, 1.0]]
    """
    return SwitchSetting("padding", on=on)


def checks_enabled() -> bool:
    """Return whether to check now: checks are switched on, and no graph is being traced."""
    return SWITCHES.checks and not torch.compiler.is_compiling()
