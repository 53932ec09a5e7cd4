"""Factories that are imported at first use, so that offering many parts does not slow down the first look-up."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Final, Never, cast, final

from pipeline.errors import PluginError
from pipeline.text import format_error


@final
class Deferred:
    """A class or function of a module that is imported when it is first called or inspected."""

    def __init__(self, target: str) -> None:
        self.target: Final = target

    def resolve(self) -> Callable[..., object]:
        """Import and return the class or function.

        Raises:
            PluginError: if it cannot be imported. The message has no subject and no full stop, for callers to add.
        """
        module, _, name = self.target.partition(":")
        try:
            return cast("Callable[..., object]", getattr(import_module(module), name))
        except Exception as error:
            msg = f"names {self.target!r}, which cannot be imported: {format_error(error).rstrip('.')}"
            raise PluginError(msg, target=self.target) from error

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.resolve())

    def __call__(self, /, *arguments: object, **options: object) -> object:
        """Call the class or function."""
        return self.resolve()(*arguments, **options)

    def __repr__(self) -> str:
        return f"defer({self.target!r})"


def defer(target: str) -> Callable[..., Never]:
    """Return a factory whose module is imported at its first use. A hook may offer it like the factory itself.

    Args:
        target: the module and the name of a class or function in it: `"my_package.sources:Sql"`.

    Type checkers do not know what it creates, so create each such part once in your tests.

    Example:
        >>> defer("pipeline.batching:Rows")(rows=3)
        Rows(longest=None, too_long='raise', batches_per_sort=100, rows=3)
    """
    return cast("Callable[..., Never]", Deferred(target))
