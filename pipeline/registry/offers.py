"""What a plugin's module offers through each hook, held against the rules."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

import pluggy

from pipeline import hooks
from pipeline.errors import PluginError

Factories: TypeAlias = Mapping[str, Callable[..., object]]
"""What one hook offers, by name."""


def offered(module: object, names: Sequence[str]) -> list[Factories]:
    """What a module offers through each hook.

    Args:
        module: what implements the hooks.
        names: the hooks.

    Raises:
        PluginError: if it breaks a rule. The message begins behind the plugin's name, and ends without a full stop.
    """
    # A manager for each plugin: a shared one would call all of them at once, and could not tell whose an offer is.
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    try:
        manager.register(module)
    except pluggy.PluginValidationError as error:
        msg = f"a hook of it does not fit its specification, which takes no arguments: {' '.join(str(error).split())}"
        raise PluginError(msg) from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = [caller.name for caller in manager.get_hookcallers(module) or () if not caller.has_spec()]
        msg = f"it implements {', '.join(unknown)}, and there is no such hook; there are: {', '.join(names)}"
        raise PluginError(msg) from error
    found = [_factories(manager, hook) for hook in names]
    for hook, factories in zip(names, found, strict=True):
        if factories is None and hasattr(module, hook):
            msg = f"its {hook} is not marked as a hook; write @hookimpl above it, from pipeline.hooks"
            raise PluginError(msg, hook=hook)
    return [factories or {} for factories in found]


def _factories(manager: pluggy.PluginManager, hook: str) -> Factories | None:
    """What the one plugin of a manager offers through one hook; None if it does not implement it."""
    found: dict[str, Callable[..., object]] = {}
    caller = cast("pluggy.HookCaller", getattr(manager.hook, hook))
    # Each by itself, not by the hook's call, which would leave out in silence one that gives None.
    for implementation in caller.get_hookimpls():
        try:
            given: object = implementation.function()
        except Exception as error:
            msg = f"hook {hook} failed: {told(error)}"
            raise PluginError(msg, hook=hook) from error
        if not isinstance(given, Mapping):
            msg = f"hook {hook} must give a mapping of names to factories, but gave {given!r}"
            raise PluginError(msg, hook=hook)
        for name, factory in cast("Mapping[object, object]", given).items():
            if not isinstance(name, str) or not callable(factory):
                msg = f"hook {hook} must map names to factories, but maps {name!r} to {factory!r}"
                raise PluginError(msg, hook=hook)
            found[name] = factory
    return found if caller.get_hookimpls() else None


def told(error: BaseException) -> str:
    """An error of someone else's as part of a sentence: on one line, without a full stop.

    Example:
        >>> told(ValueError("in two  lines."))
        'ValueError: in two lines'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
