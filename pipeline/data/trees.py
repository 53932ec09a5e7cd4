"""Operations on every tensor inside a batch: construction without checks, device moves, views for torch's tools."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Final, TypeVar, cast

import attrs
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.data.packing_order import PackingOrder

A = TypeVar("A", bound=attrs.AttrsInstance)
C = TypeVar("C")
T = TypeVar("T", bound=type)

ON_CPU: Final[Mapping[str, object]] = {"on_cpu": True}
"""Metadata of an attrs field whose tensor stays on the CPU when the batch moves: lengths, row ids, masks of answers."""

_MISSING: Final = object()

_FIELDS: Final = "__dataclass_fields__"
_PARAMS: Final = "__dataclass_params__"

_PYTREE_CHILDREN: Final = (
    "values",
    "steps",
    "final",
    "initial_carry",
    "carry",
    "targets",
    "named_targets",
    "metadata",
    "fields",
    "inner",
    "parts",
    "scores",
    "keys",
    "memories",
    "transitions",
    "start",
    "end",
    "target_scores",
)
"""The fields with tensors that move and are differentiated. All other fields go into the pytree's context."""


def build_unchecked(cls: type[C], fields: Mapping[str, object]) -> C:
    """Create an instance of a frozen attrs class without validation, for fields that were validated already."""
    instance = cls.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(instance, name, value)
    return instance


def move_to_device(batch: A, device: torch.device | str) -> A:
    """Return the batch with every tensor on `device`, except the fields marked `ON_CPU`."""
    # The fields of a batch share one packing order. Each order is moved once, so that they share the moved one too.
    moved: dict[int, PackingOrder] = {}
    return _map_tensors(
        batch,
        lambda tensor: tensor.to(device, non_blocking=True),
        lambda order: moved.setdefault(id(order), order.to(device)),
    )


def pin_memory(batch: A) -> A:
    """Return the batch with every tensor in page-locked memory, from which copies to a device are asynchronous."""
    return _map_tensors(batch, torch.Tensor.pin_memory, lambda order: order)


def _map_tensors(
    batch: A, map_tensor: Callable[[Tensor], Tensor], map_order: Callable[[PackingOrder], PackingOrder]
) -> A:
    def convert(value: object) -> object:
        if isinstance(value, Tensor):
            return map_tensor(value)
        if isinstance(value, PackingOrder):
            return map_order(value)
        if isinstance(value, tuple):
            return tuple(convert(item) for item in cast("tuple[object, ...]", value))
        if isinstance(value, dict):
            return {name: convert(item) for name, item in cast("dict[str, object]", value).items()}
        if attrs.has(type(value)):
            return _map_tensors(cast("attrs.AttrsInstance", value), map_tensor, map_order)
        return value

    return build_unchecked(
        type(batch),
        {
            field.name: held if field.metadata.get("on_cpu") else convert(held)
            for field in attrs.fields(type(batch))
            for held in [getattr(batch, field.name)]
        },
    )


def as_pytree(cls: T) -> T:
    """Register an attrs class with `torch.utils._pytree`, and make it look like a dataclass to torch's tools.

    In a pytree, tensors are leaves under their fields' names. Lengths and row ids are not leaves, because they stay on
    the CPU. Unflattening checks nothing, since the leaves may be any objects while a tree is mapped.

    DDP, FSDP and Lightning find tensors in dataclasses, but not in pytrees. Without tensors in the output of a model,
    DDP with `find_unused_parameters` takes all parameters for unused, and FSDP registers no backward hooks.

    Example:
        >>> from pipeline import Padded, Vectors
        >>> batch = Padded(Vectors, torch.ones(1, 2, 3), torch.tensor([2]))
        >>> pytree.tree_map(lambda tensor: tensor + 1, batch).values.sum().item()
        12.0
    """
    # DataLoader, torch.export and torch.func map over batches with torch.utils._pytree, which does not look into attrs
    # classes by itself.
    for name, value in _DATACLASS_ATTRIBUTES.items():
        setattr(cls, name, value)
    names = [field.name for field in attrs.fields(cls)]

    def flatten_with_keys(value: object) -> tuple[list[tuple[Any, object]], dict[str, object]]:
        held = {name: getattr(value, name) for name in names}
        # torch treats None as a leaf, so a field that is None is not a child.
        children = [name for name in names if name in _PYTREE_CHILDREN and held[name] is not None]
        keys: list[tuple[Any, object]] = [(pytree.GetAttrKey(name), held[name]) for name in children]
        context: dict[str, object] = {name: None if name in children else held[name] for name in names}
        return keys, {**context, "": children}

    def flatten(value: object) -> tuple[list[object], dict[str, object]]:
        keys, context = flatten_with_keys(value)
        return [child for _, child in keys], context

    def unflatten(leaves: Any, context: Any) -> object:  # noqa: ANN401 - torch leaves both open
        held = {**context, **dict(zip(context[""], leaves, strict=True))}
        return _move_order(build_unchecked(cast("type[object]", cls), {name: held[name] for name in names}))

    pytree.register_pytree_node(cls, flatten, unflatten, flatten_with_keys_fn=flatten_with_keys)
    return cls


def _move_order(batch: C) -> C:
    """Move the packing order of a new instance to the device of its values, and return the instance."""
    values, order = getattr(batch, "values", None), getattr(batch, "order", None)
    if isinstance(values, Tensor) and isinstance(order, PackingOrder):
        object.__setattr__(batch, "order", order.to(values.device))
    return batch


class _DataclassFields:
    """The attribute `__dataclass_fields__`: the fields that hold tensors; for an instance, without those that are None.

    The other fields are `InitVar`s with a default: `dataclasses.fields` leaves them out, and `dataclasses.replace`
    keeps their values. So tools visit tensors only. A None, for example, is another batch size to Lightning.
    """

    def __get__(self, instance: object, owner: type[attrs.AttrsInstance]) -> "dict[str, dataclasses.Field[object]]":
        shown = [
            field.name
            for field in attrs.fields(owner)
            if (field.name in _PYTREE_CHILDREN or field.metadata.get("on_cpu"))
            and (instance is None or getattr(instance, field.name) is not None)
        ]
        return _make_dataclass_fields(owner, *shown)


@functools.cache
def _make_dataclass_fields(cls: type[attrs.AttrsInstance], *shown: str) -> "dict[str, dataclasses.Field[object]]":
    # Lightning takes the size of the first tensor for the number of rows: lengths have it, packed values do not.
    names = sorted((field.name for field in attrs.fields(cls)), key=lambda name: name != "lengths")
    fields = [
        (name, object if name in shown else dataclasses.InitVar[object], dataclasses.field(default=None))
        for name in names
    ]
    made: dict[str, dataclasses.Field[object]] = vars(dataclasses.make_dataclass(cls.__name__, fields))[_FIELDS]
    return made


def _deepcopy(self: attrs.AttrsInstance, memo: dict[int, object]) -> object:
    """Return a deep copy; if Lightning asks for it, a shallow one whose fields can be set once.

    To map a function over a dataclass, Lightning's `apply_to_collection` calls `deepcopy` with a memo by which all
    fields are kept as they are, and then sets each field of the copy. Our classes are frozen, and would reject that.
    """
    held = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
    shown = [held[name] for name in _get_shown(self)]
    if all(memo.get(id(value), _MISSING) is value for value in shown):
        return build_unchecked(_make_settable(type(self)), held)
    return build_unchecked(type(self), {name: deepcopy(value, memo) for name, value in held.items()})


def _get_shown(value: object) -> list[str]:
    """Return the names of the fields that hold tensors."""
    return [field.name for field in dataclasses.fields(cast("Any", value))]


@functools.cache
def _make_settable(cls: type[object]) -> type[object]:
    """Return a subclass whose instances become instances of the frozen class when the last field is set."""

    def set_field(self: object, name: str, value: object) -> None:
        is_last = name == _get_shown(self)[-1]
        object.__setattr__(self, name, value)
        if is_last:
            object.__setattr__(self, "__class__", cls)
            _move_order(self)

    return type(cls.__name__, (cls,), {"__slots__": (), "__setattr__": set_field, "__module__": cls.__module__})


_DATACLASS_ATTRIBUTES: Final[Mapping[str, object]] = {
    _FIELDS: _DataclassFields(),
    _PARAMS: vars(dataclasses.make_dataclass("_", [], repr=False, eq=False))[_PARAMS],
    "__deepcopy__": _deepcopy,
}
