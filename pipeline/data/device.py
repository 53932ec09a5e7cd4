"""Batches on the move: to a device, or into page-locked memory."""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar, cast

import attrs
import torch
from torch import Tensor

from pipeline.data.order import Order

STAYS: Final[Mapping[str, object]] = {"stays": True}
"""Metadata of the fields that stay on the CPU wherever their batch goes."""

A = TypeVar("A", bound=attrs.AttrsInstance)


def to_device(batch: A, device: torch.device | str) -> A:
    """The batch with every tensor on `device`, but those that steer from the CPU (lengths, places)."""
    return _each(batch, lambda tensor: tensor.to(device, non_blocking=True), lambda order: order.to(device))


def pinned(batch: A) -> A:
    """The batch with every tensor in page-locked memory, from which copies to a device overlap with work."""
    return _each(batch, torch.Tensor.pin_memory, lambda order: order)


def _each(batch: A, tensor: Callable[[Tensor], Tensor], order: Callable[[Order], Order]) -> A:
    def moved(value: object) -> object:
        if isinstance(value, Tensor):
            return tensor(value)
        if isinstance(value, Order):
            return order(value)
        if isinstance(value, tuple):
            return tuple(moved(item) for item in cast("tuple[object, ...]", value))
        if attrs.has(type(value)):
            return _each(cast("attrs.AttrsInstance", value), tensor, order)
        return value

    fields = [field for field in attrs.fields(type(batch)) if not field.metadata.get("stays")]
    # mypy's own idea of evolve refuses a type variable.
    evolve: Callable[..., A] = cast("Callable[..., A]", attrs.evolve)
    return evolve(batch, **{field.name: moved(getattr(batch, field.name)) for field in fields})
