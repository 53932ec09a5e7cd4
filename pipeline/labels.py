"""Class names and their ids."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias, final, overload

import attrs

from pipeline.errors import LabelError

Target: TypeAlias = int | str | Sequence[int | str | None] | None
"""One class per row, or one class per step; by id or by name. A step whose target is None has no weight in the loss."""


def is_step_target(target: Target) -> bool:
    """Return whether a target is a list or tuple with one entry per step, rather than one class for the whole row.

    Example:
        >>> is_step_target(["NOUN", None]), is_step_target("NOUN"), is_step_target(3)
        (True, False, False)
    """
    return isinstance(target, Sequence) and not isinstance(target, str)


def _tuple(names: Iterable[str]) -> tuple[str, ...]:
    _refuse_one(names)
    return tuple(names)


def _refuse_one(names: object) -> None:
    if isinstance(names, str):
        msg = f"names must be many, but one arrived, {names!r}, and its letters would be taken for them; pass a list."
        raise LabelError(msg, name=names)


def _distinct(_: object, __: object, names: tuple[object, ...]) -> None:
    for index, name in enumerate(names):
        if not isinstance(name, str):
            msg = (
                f"names[{index}] must be a class name, but {name!r} arrived; a class that has a number needs no label."
            )
            raise LabelError(msg, name=name)
        if name in names[:index]:
            msg = (
                f"names[{index}] is {name!r}, which names[{names.index(name)}] is too; give each class one name, once."
            )
            raise LabelError(msg, name=name)
    if not names:
        msg = "names is empty, but a model needs at least one class; give the classes, or learn them from targets."
        raise LabelError(msg)


@final
@attrs.frozen
class Labels(Sequence[str]):
    """Class names in the order of their numbers: given, or learned from targets.

    The same object goes to `Pad`, which turns names into numbers, and to the head, whose answers
    are names again.

    Attributes:
        names: the classes, from number 0.

    Raises:
        LabelError: if a name is given twice, or there is none.

    Example:
        >>> labels = Labels.from_targets(["ham", "spam", "ham"])
        >>> labels.to_id("spam"), labels[0], len(labels)
        (1, 'ham', 2)
    """

    names: tuple[str, ...] = attrs.field(converter=_tuple, validator=_distinct)
    _ids: dict[str, int] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_ids", {name: index for index, name in enumerate(self.names)})

    @overload
    def __getitem__(self, index: int, /) -> str: ...
    @overload
    def __getitem__(self, index: slice, /) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice, /) -> str | tuple[str, ...]:
        return self.names[index]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_targets(cls, targets: Iterable[Target]) -> "Labels":
        """The classes that occur, sorted by name; targets may be names or lists of them, a class a step."""
        _refuse_one(targets)

        def found() -> Iterator[str]:
            for row, target in enumerate(targets):
                for name in target if isinstance(target, Sequence) and is_step_target(target) else [target]:
                    if isinstance(name, int):
                        msg = f"target {name} of row {row} is a number, not a class name; numbers need no labels."
                        raise LabelError(msg, row=row, name=name)
                    if isinstance(name, str):
                        yield name

        return cls(sorted(set(found())))

    def to_id(self, name: str | int, *, row: int | None = None) -> int:
        """The number of a class, by its name or by the number itself.

        Raises:
            LabelError: if there is no such class.
        """
        if isinstance(name, int):
            if 0 <= name < len(self.names):
                return name
        elif name in self._ids:
            return self._ids[name]
        known = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
        where = "" if row is None else f" of row {row}"
        msg = f"target {name!r}{where} is none of the {len(self.names)} labels; they are: {known}."
        raise LabelError(msg, row=row, name=name)


@final
@attrs.frozen
class Numbered(Sequence[int]):
    """Classes that have numbers alone: a `range`, in a form that a compiler takes as part of a module.

    Example:
        >>> list(Numbered(3))
        [0, 1, 2]
    """

    number: int

    @overload
    def __getitem__(self, index: int, /) -> int: ...
    @overload
    def __getitem__(self, index: slice, /) -> range: ...
    def __getitem__(self, index: int | slice, /) -> int | range:
        return range(self.number)[index]

    def __len__(self) -> int:
        return max(self.number, 0)
