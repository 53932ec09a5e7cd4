"""Batches as pytrees: what maps over nested tensors, maps over ours."""

from typing import Any, Final, TypeVar, cast

import attrs
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.data.order import Order

T = TypeVar("T", bound=type)

_CHILDREN: Final = ("values", "steps", "final", "initial", "carried", "targets", "metadata")
"""The fields that hold tensors which move and are differentiated; the others go along as they are."""


def as_pytree(cls: T) -> T:
    """Register a class of what flows with `torch.utils._pytree`, its tensors under their fields' names.

    Lengths and places are no leaves: they steer from the CPU. Nothing is checked when a tree is put together,
    since its leaves may be anything meanwhile.

    Example:
        >>> import torch
        >>> from pipeline import Padded, Vectors
        >>> batch = Padded(Vectors, torch.ones(1, 2, 3), torch.tensor([2]))
        >>> pytree.tree_map(lambda tensor: tensor + 1, batch).values.sum().item()
        12.0
    """
    names = [field.name for field in attrs.fields(cls)]

    def flatten_with_keys(value: object) -> tuple[list[tuple[Any, object]], dict[str, object]]:
        held = {name: getattr(value, name) for name in names}
        # torch takes None for a leaf: what is not there is no child.
        children = [name for name in names if name in _CHILDREN and held[name] is not None]
        keys: list[tuple[Any, object]] = [(pytree.GetAttrKey(name), held[name]) for name in children]
        context: dict[str, object] = {name: None if name in children else held[name] for name in names}
        return keys, {**context, "": children}

    def flatten(value: object) -> tuple[list[object], dict[str, object]]:
        keys, context = flatten_with_keys(value)
        return [child for _, child in keys], context

    def unflatten(leaves: Any, context: Any) -> object:  # noqa: ANN401 - torch leaves both open
        value = cast("object", object.__new__(cls))
        held = {**context, **dict(zip(context[""], leaves, strict=True))}
        values, order = held.get("values"), held.get("order")
        if isinstance(values, Tensor) and isinstance(order, Order):
            held["order"] = order.to(values.device)
        for name in names:
            object.__setattr__(value, name, held[name])
        return value

    pytree.register_pytree_node(cls, flatten, unflatten, flatten_with_keys_fn=flatten_with_keys)
    return cls
