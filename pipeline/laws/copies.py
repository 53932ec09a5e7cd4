"""Pickling there and back."""

import io
import pickle
import sys
from typing import TypeVar

from typing_extensions import override

V = TypeVar("V")


def repickled(value: V) -> V:
    """Something pickled and read back.

    Classes that cannot be imported by name (made in a test function, or a page of examples) stay what they are: where
    a class was written is no fault of what is made of it.

    Example:
        >>> repickled({"a": (1, 2)})
        {'a': (1, 2)}
    """
    file = io.BytesIO()
    writer = _Writer(file)
    writer.dump(value)
    file.seek(0)
    reader = _Reader(file)
    reader.local = writer.local
    again: V = reader.load()
    return again


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.local: list[type] = []

    @override
    def persistent_id(self, obj: object) -> int | None:
        if not isinstance(obj, type) or _importable(obj):
            return None
        if obj not in self.local:
            self.local.append(obj)
        return self.local.index(obj)


class _Reader(pickle.Unpickler):
    local: list[type]

    @override
    def persistent_load(self, pid: int) -> type:
        return self.local[pid]


def _importable(kind: type) -> bool:
    found: object = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind
