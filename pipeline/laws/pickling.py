"""Pickling of objects whose classes need not be importable, for example because a test function defines them."""

import io
import pickle
import sys
from typing import TypeVar

from typing_extensions import override

V = TypeVar("V")


def pickle_and_unpickle(value: V) -> V:
    """Return a copy of an object, made by pickling it.

    pickle stores a class as its name, and so rejects a class that is defined in a test function. That would say
    nothing about the object, so such classes are kept outside the pickled bytes.

    Example:
        >>> pickle_and_unpickle({"a": (1, 2)})
        {'a': (1, 2)}
    """
    pickled, classes = _pickle(value)
    unpickler = _Unpickler(io.BytesIO(pickled))
    unpickler.classes = classes
    copied: V = unpickler.load()
    return copied


def measure_pickle(value: object) -> int:
    """Return the number of bytes of the pickled object."""
    return len(_pickle(value)[0])


def _pickle(value: object) -> tuple[bytes, list[type]]:
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    return file.getvalue(), pickler.classes


class _Pickler(pickle.Pickler):
    """Pickle a class that cannot be imported as its index in `classes`, by means of pickle's persistent ids."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.classes: list[type] = []

    @override
    def persistent_id(self, obj: object) -> int | None:
        if not isinstance(obj, type) or _is_importable(obj):
            return None
        if obj not in self.classes:
            self.classes.append(obj)
        return self.classes.index(obj)


class _Unpickler(pickle.Unpickler):
    """Look up the classes that `_Pickler` left out."""

    classes: list[type]

    @override
    def persistent_load(self, pid: int) -> type:
        return self.classes[pid]


def _is_importable(kind: type) -> bool:
    # As pickle finds it: module, then each part of the qualified name. A function contains "<locals>", which fails.
    found: object = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind
