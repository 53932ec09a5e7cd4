"""The names of the stages of a chain, which are the first parts of its state-dict keys."""

import re
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from torch import nn

from pipeline.errors import CompositionError


class Named(Protocol):
    """A stage, as far as its name matters."""

    name: str | None


N = TypeVar("N", bound=Named)


def name_stages(stages: Sequence[N], reserved: Collection[str]) -> dict[str, N]:
    """Give each stage its name, by default that of its class in snake case.

    Stages with weights, or with a name of their own, are named first. So their state-dict keys do not depend on the
    other stages, which are numbered if their name is taken.

    Args:
        stages: the stages in order.
        reserved: names that no stage may have: the attributes of a chain.

    Raises:
        CompositionError: if a name is not possible, two stages with weights have one name, or a stage of a chain was
            replaced by a module that is not a stage.
    """
    names: dict[int, str] = {}
    for index, stage in enumerate(stages):
        if not hasattr(stage, "name"):
            # Such a module runs in its chain, but has no size and no type for `>>` to compare.
            got = type(stage).__name__
            msg = f"stage {index + 1} was replaced by {got}, which is not a stage; join the chains, then replace it."
            raise CompositionError(msg, stage_number=index + 1)
        if stage.name is None and not has_weights(stage):
            continue
        name = stage.name or make_default_name(type(stage))
        if not name.isidentifier() or name in reserved:
            msg = (
                f"the name of stage {index + 1} must be an identifier and no attribute of a chain, got {name!r}; "
                f"give `{type(stage).__name__}` another `name`."
            )
            raise CompositionError(msg, name=name)
        if name in names.values():
            other = next(taken for taken in names if names[taken] == name)
            msg = (
                f"stage {other + 1} `{type(stages[other]).__name__}` and stage {index + 1} `{type(stage).__name__}` "
                f"are both named {name!r}, but names must be unique in the state-dict; give one another name: "
                f'{type(stage).__name__}(..., name="{name}_2").'
            )
            raise CompositionError(msg, name=name)
        names[index] = name
    for index, stage in enumerate(stages):
        name, number = make_default_name(type(stage)), 1
        while index not in names:
            candidate = name if number == 1 else f"{name}_{number}"
            if candidate not in names.values() and candidate not in reserved:
                names[index] = candidate
            number += 1
    return {names[index]: stage for index, stage in enumerate(stages)}


def make_default_name(cls: type) -> str:
    """Return the name of a stage class in snake case; an acronym is one word.

    Example:
        >>> from pipeline import BPTTWindows, NextToken
        >>> make_default_name(BPTTWindows), make_default_name(NextToken)
        ('bptt_windows', 'next_token')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()


def has_weights(stage: object) -> bool:
    """Return whether a stage has parameters or buffers, or will have them once it knows its input size."""
    if not isinstance(stage, nn.Module):
        return False
    return getattr(stage, "is_lazy", False) is True or bool([*stage.parameters(), *stage.buffers()])
