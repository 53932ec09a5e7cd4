"""The law about the options of a part, by which a pipe with it is saved."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from torch import nn

from pipeline.errors import SaveError
from pipeline.laws.law import FaultError, law
from pipeline.parts.config import POSITIONAL, read_config
from pipeline.text import format_error

_PLAIN: Final = (bool, int, float, str, type(None))


@law
def config_makes_an_equal_part(make: Callable[[], object]) -> None:
    """The options that a part states make one with the same options, and weights of the same names and shapes.

    A part whose options cannot be read obeys the law: it can be saved if it was given by name.
    """
    part = make()
    try:
        options = dict(read_config(part))
    except SaveError:
        return
    # Copies, since an option may be a module that belongs to the part.
    arguments = cast("Sequence[object]", copy.deepcopy(options.pop(POSITIONAL, [])))
    create: Callable[..., object] = type(part)
    try:
        made = create(*arguments, **copy.deepcopy(options))
    except Exception as error:
        names = ", ".join(options)
        msg = f"the options {names} do not make a part: {format_error(error, 200)}; fix get_config, or the attributes."
        raise FaultError(msg) from error
    again = read_config(made)
    for name, value in options.items():
        if isinstance(value, _PLAIN) and again.get(name) != value:
            msg = f"option {name!r} is {value!r:.60}, but {again.get(name)!r:.60} in the part that is made with it."
            raise FaultError(msg)
    weights, others = _list_shapes(part), _list_shapes(made)
    if weights != others:
        differ = sorted(name for name in weights.keys() | others.keys() if weights.get(name) != others.get(name))
        msg = f"the options make a part with other weights: {', '.join(differ):.200}; state all that determines them."
        raise FaultError(msg)


def _list_shapes(part: object) -> Mapping[str, tuple[int, ...]]:
    if not isinstance(part, nn.Module):
        return {}
    return {name: tuple(tensor.shape) for name, tensor in [*part.named_parameters(), *part.named_buffers()]}
