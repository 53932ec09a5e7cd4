"""The options of a factory, as users write them after its name."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence

from typing_extensions import is_typeddict

from pipeline.parts.deferred import Deferred

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def list_options(factory: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Return the keyword parameters of a factory, by name.

    Positional-only parameters are left out, and so is `**options`, because a typo in an option must be an error. But
    if its names are written down, as overloads or as `Unpack` of a `TypedDict`, they are options.

    Raises:
        TypeError, ValueError: if the signature cannot be read.

    Example:
        >>> class More(typing.TypedDict, total=False):
        ...     scale: float
        >>> def factory(size: int, /, rate: float, **options: typing.Unpack[More]) -> None: ...
        >>> list(list_options(factory))
        ['rate', 'scale']
    """
    signature = inspect.signature(factory)
    if not any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values()):
        return {name: each for name, each in signature.parameters.items() if each.kind in _NAMED}
    forms = [_expand(form) for form in (_list_overloads(factory) or [signature])]
    options: dict[str, inspect.Parameter] = {}
    for form in forms:
        for name, each in form.items():
            # An option that some form does not have is not required.
            is_optional = not all(name in other for other in forms)
            required = each.default is each.empty
            options.setdefault(name, each.replace(default=None) if is_optional and required else each)
    return options


def _list_overloads(factory: Callable[..., object]) -> Sequence[inspect.Signature]:
    found = factory.resolve() if isinstance(factory, Deferred) else factory
    function: Callable[..., object] = getattr(found, "__init__", found) if isinstance(found, type) else found
    signatures = [inspect.signature(form) for form in typing.get_overloads(function)]
    if not isinstance(found, type):
        return signatures
    # Without `self`.
    return [each.replace(parameters=list(each.parameters.values())[1:]) for each in signatures]


def _expand(signature: inspect.Signature) -> Mapping[str, inspect.Parameter]:
    """Return the named parameters, and those of `**options: Unpack[SomeTypedDict]`."""
    options: dict[str, inspect.Parameter] = {}
    for name, each in signature.parameters.items():
        if each.kind in _NAMED:
            options[name] = each
        elif each.kind is each.VAR_KEYWORD:
            (unpacked,) = typing.get_args(each.annotation) or (None,)
            table = typing.get_origin(unpacked) or unpacked
            if is_typeddict(table):
                required: frozenset[str] = getattr(table, "__required_keys__", frozenset())
                keys: Mapping[str, object] = getattr(table, "__annotations__", {})  # of its base classes too
                for key, hint in keys.items():
                    default = inspect.Parameter.empty if key in required else None
                    options[key] = inspect.Parameter(key, each.KEYWORD_ONLY, default=default, annotation=hint)
    return options
