"""Late import of optional packages."""

from importlib import import_module
from types import ModuleType
from typing import Any, Self, final

from pipeline.errors import MissingExtraError


def import_extra(module: str, *, extra: str, why: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: the module's name.
        extra: the extra of `ragged-pipeline` that installs it.
        why: the feature that needs it, for the error.

    Raises:
        MissingExtraError: if the package is not installed.

    Example:
        >>> import_extra("no_such_module", extra="arrow", why="Parquet")
        Traceback (most recent call last):
        pipeline.errors.MissingExtraError: Parquet needs the package no_such_module, ...
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        # An installed package may itself lack a dependency: that error must not be reported as a missing extra.
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        msg = f"{why} needs the package {package}, which is not installed; pip install 'ragged-pipeline[{extra}]'."
        raise MissingExtraError(msg, package=package, extra=extra) from error


def find_base(module: str, name: str, *, extra: str, why: str) -> type:
    """Return a class of an optional package, to derive from it.

    Args:
        module: the module's name.
        name: the name of the class.
        extra: the extra of `ragged-pipeline` that installs it.
        why: the feature that needs it, for the error.

    Returns:
        the class; or, if the package is not installed, a class that raises a `MissingExtraError` when an object of it
        is created, so that the module with the derived class can be imported.

    Example:
        >>> class Trainer(find_base("no_such_module", "Trainer", extra="lightning", why="Trainer")):
        ...     pass
        >>> Trainer()
        Traceback (most recent call last):
        pipeline.errors.MissingExtraError: Trainer needs the package no_such_module, ...
    """
    try:
        found: type = getattr(import_extra(module, extra=extra, why=why), name)
    except MissingExtraError as error:
        missing = error

        class Missing:
            """In the place of a class that is not installed."""

            def __new__(cls, *_: object, **__: object) -> Self:
                raise missing

        # So the reference shows the base that the class has where the package is installed.
        Missing.__name__ = Missing.__qualname__ = name
        return Missing
    return found


@final
class LazyModule:
    """An optional module that is imported when one of its attributes is first used.

    Type checkers should see the real module: import it under `TYPE_CHECKING`, and assign a `LazyModule` otherwise.

    Args:
        module: the module's name.
        extra: the extra of `ragged-pipeline` that installs it.
        why: the feature that needs it, for the error.

    Example:
        >>> LazyModule("math", extra="text", why="a square root").sqrt(4)
        2.0
    """

    def __init__(self, module: str, *, extra: str, why: str) -> None:
        self._module = module
        self._extra = extra
        self._why = why

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a module's attributes may be of any type
        try:
            module = import_extra(self._module, extra=self._extra, why=self._why)
        except MissingExtraError as error:
            # Tools such as doctest look for `__wrapped__` in everything, without need of the package.
            if name.startswith("__"):
                raise AttributeError(name) from error
            raise
        return getattr(module, name)
