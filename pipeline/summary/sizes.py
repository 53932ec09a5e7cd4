"""The input sizes that stages declare, and whether a stage passes its input size on."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from torch import nn

from pipeline.core.chain import Chain
from pipeline.core.stage import Spec, StageBase, TypePreserving
from pipeline.stages.cross_attend import CrossAttend
from pipeline.stages.each_step import EachStep
from pipeline.stages.embed_fields import EmbedFields
from pipeline.stages.fields import Field
from pipeline.stages.identity import Identity
from pipeline.stages.join import Join
from pipeline.stages.pack import Pack, Unpack

# An impossible input size. A stage whose output then has this size passes its input size on, for any size.
_PROBE: Final = -1


def copy_for_build(part: StageBase, copied: nn.Module | None) -> StageBase:
    """Return what to call `build` of, which may create weights: the copy of a module, or a shallow copy of a stage."""
    return copy.copy(part) if copied is None else cast("StageBase", copied)


def passes_size(part: StageBase, copied: nn.Module | None) -> bool:
    """Return whether the output of a stage has the size of its input, whatever that is."""
    try:
        # Another copy: `build` creates the weights of a lazy stage, here in an impossible size.
        return copy_for_build(part, copy.deepcopy(copied)).build(Spec(_PROBE)).size == _PROBE
    except Exception:  # noqa: BLE001 - a part may reject the impossible size in any way
        return False


def get_declared_size(part: StageBase) -> int | None:
    """Return the input size that a stage or its part declares; None if neither does."""
    if isinstance(part, Identity):
        return part.size
    children = list(part.children()) if isinstance(part, nn.Module) else []
    declared: list[object] = [getattr(part, "input_size", None)]
    declared += [getattr(child, "input_size", getattr(child, "in_features", None)) for child in children]
    sizes = [size for size in declared if isinstance(size, int)]
    # With two different parts, it is not known which of them reads the input.
    return sizes[0] if len(sizes) == 1 and sizes[0] > 0 else None


def find_field_sizes(stages: Iterable[StageBase]) -> Mapping[str, int | None]:
    """Return the number of features of each field that stages read, as the first stage of each branch declares it.

    Args:
        stages: a stage that takes rows with fields, and those after it. They are not changed.

    Returns:
        None for a field whose number of features no stage declares.

    Example:
        >>> import attrs
        >>> from pipeline import Embed, Fields, Ids, Vectors
        >>> @attrs.frozen(eq=False)
        ... class Event(Fields):
        ...     code: Ids
        ...     amount: Vectors
        >>> find_field_sizes([Join(Event.code >> Embed(9, 4), Event.amount >> Identity(2))])
        {'code': None, 'amount': 2}
    """
    first, *later = _flatten(stages)
    if isinstance(first, Field):
        return {first.field: _find_size(later)}
    if isinstance(first, EmbedFields):
        return {name: _find_size([branch]) for name, branch in first.branches.items()}
    if isinstance(first, Join | CrossAttend):
        found: dict[str, int | None] = {}
        for branch in first.branches.values():
            for name, size in find_field_sizes([branch]).items():
                # Several branches may read one field, and one of them may not say of which size.
                found[name] = size if found.get(name) is None else found[name]
        return found
    return find_field_sizes(later) if later and isinstance(first, Pack | Unpack | TypePreserving) else {}


def _find_size(stages: Iterable[StageBase]) -> int | None:
    """Return the first declared input size, if all stages before it pass sizes on."""
    for stage in _flatten(stages):
        sizes = [_find_size([branch]) for branch in _get_branches(stage)] or [get_declared_size(stage)]
        size = next((size for size in sizes if size is not None), None)
        module: object = stage
        if size is not None or not passes_size(stage, module if isinstance(module, nn.Module) else None):
            return size
    return None


def _get_branches(stage: StageBase) -> Sequence[StageBase]:
    """Return the stages that read the input of a stage in its place."""
    if isinstance(stage, Join | CrossAttend):
        return list(stage.branches.values())
    return [cast("StageBase", cast("Any", stage).inner)] if isinstance(stage, EachStep) else []


def _flatten(stages: Iterable[StageBase]) -> Iterator[StageBase]:
    """Yield stages, and those inside of chains in place of the chain."""
    for stage in stages:
        if isinstance(stage, Chain):
            yield from _flatten(stage.stages.values())
        else:
            yield stage
