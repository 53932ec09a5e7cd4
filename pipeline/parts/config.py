"""The configuration of a part: the options with which its factory makes an equal one."""

import inspect
from collections.abc import Callable, Mapping
from typing import Final, cast

import attrs

from pipeline.errors import SaveError

POSITIONAL: Final = "*"
"""The key of a configuration under which a list has the positional arguments. No parameter can have this name."""


def read_config(part: object) -> Mapping[str, object]:
    """Return the options with which the registered factory of a part makes an equal one.

    A part may define `get_config(self) -> Mapping[str, object]`, as in Keras. Otherwise each parameter of its
    `__init__` must be an attribute of the same name, as in scikit-learn, and each field of an attrs class is one.
    Positional-only arguments are a list under the key `*`. Weights are not options: they are saved as tensors.

    Raises:
        SaveError: if an option cannot be read.

    Example:
        >>> from pipeline import Bucket, Dropout
        >>> from pipeline.batching import Rows
        >>> read_config(Dropout(0.2))
        {'p': 0.2, 'per': 'step'}
        >>> read_config(Rows(3))["rows"]
        3
    """
    own = cast("Callable[[], object] | None", getattr(part, "get_config", None))
    if own is not None:
        config = own()
        if not isinstance(config, Mapping) or not all(
            isinstance(key, str) for key in cast("Mapping[object, object]", config)
        ):
            msg = f"{_name(part)}.get_config must return a mapping from names to values, got {config!r:.60}."
            raise SaveError(msg, part=_name(part))
        return cast("Mapping[str, object]", config)
    cls: type[object] = type(part)
    if attrs.has(cls):
        fields: tuple[attrs.Attribute[object], ...] = attrs.fields(cls)
        return {field.alias or field.name: getattr(part, field.name) for field in fields if field.init}
    return _read_attributes(part)


def _read_attributes(part: object) -> Mapping[str, object]:
    try:
        parameters = inspect.signature(type(part)).parameters.values()
    except (TypeError, ValueError) as error:
        msg = f"the options of {_name(part)} cannot be read from its signature; define get_config(self) in the class."
        raise SaveError(msg, part=_name(part)) from error
    options: dict[str, object] = {}
    positional: list[object] = []
    for parameter in parameters:
        # Their names are not known, so that an option could be missing.
        is_open = parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        if is_open or not hasattr(part, parameter.name):
            msg = (
                f"option {parameter.name!r} of {_name(part)} cannot be read, since it is not an attribute of the same "
                "name; set it in __init__, or define get_config(self) in the class, which returns all options by name."
            )
            raise SaveError(msg, part=_name(part), option=parameter.name)
        value: object = getattr(part, parameter.name)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(value)
        else:
            options[parameter.name] = value
    return {POSITIONAL: positional, **options} if positional else options


def _name(part: object) -> str:
    return type(part).__name__
