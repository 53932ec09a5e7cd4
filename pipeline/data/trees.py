"""Operations on every tensor inside a batch: construction without checks, device moves, pytree registration."""

from collections.abc import Callable, Mapping
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

_PYTREE_CHILDREN: Final = (
    "values",
    "steps",
    "final",
    "initial_carry",
    "carry",
    "targets",
    "metadata",
    "fields",
    "inner",
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
    # Fields share one order, and still do so afterwards.
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
    """Register a data class with `torch.utils._pytree`; its tensors become leaves under their fields' names.

    Lengths and row ids are not leaves, because they stay on the CPU. Unflattening checks nothing, since the
    leaves may be any objects while a tree is mapped.

    Example:
        >>> from pipeline import Padded, Vectors
        >>> batch = Padded(Vectors, torch.ones(1, 2, 3), torch.tensor([2]))
        >>> pytree.tree_map(lambda tensor: tensor + 1, batch).values.sum().item()
        12.0
    """
    # torch.utils._pytree does not look into attrs classes. DataLoader, torch.export and functorch map over batches with
    # it.
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
        values, order = held.get("values"), held.get("order")
        if isinstance(values, Tensor) and isinstance(order, PackingOrder):
            held["order"] = order.to(values.device)
        return build_unchecked(cast("type[object]", cls), {name: held[name] for name in names})

    pytree.register_pytree_node(cls, flatten, unflatten, flatten_with_keys_fn=flatten_with_keys)
    return cls
