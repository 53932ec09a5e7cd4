"""Packages that need not be there."""

from importlib import import_module
from types import ModuleType

from pipeline.errors import MissingExtraError


def imported(module: str, *, extra: str, why: str) -> ModuleType:
    """An optional module, imported only now.

    Args:
        module: its name.
        extra: the extra that installs it.
        why: what needs it.

    Raises:
        MissingExtraError: if it is not installed.

    Example:
        >>> imported("no_such_module", extra="arrow", why="Parquet")
        Traceback (most recent call last):
        pipeline.errors.MissingExtraError: Parquet needs the package no_such_module, ...
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        msg = f"{why} needs the package {package}, which is not installed; pip install 'ragged-pipeline[{extra}]'."
        raise MissingExtraError(msg, package=package, extra=extra) from error
