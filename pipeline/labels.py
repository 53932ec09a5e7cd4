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


def _convert_names(names: Iterable[str]) -> tuple[str, ...]:
    _reject_single_name("names", names)
    return tuple(names)


def _reject_single_name(argument: str, value: object) -> None:
    # To a type checker a text is an iterable of texts: without this check its letters would become classes.
    if isinstance(value, str):
        msg = f"{argument} must be a list of class names, got one text, {value!r}; pass [{value!r}]."
        raise LabelError(msg, name=value)


def _check_names(_: object, __: object, names: tuple[object, ...]) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if not isinstance(name, str):
            msg = f"names[{index}] must be a class name, got {name!r}; classes that are numbers need no Labels."
            raise LabelError(msg, name=name)
        if first.setdefault(name, index) < index:
            msg = f"names[{index}] must be unique, got {name!r} like names[{first[name]}]; remove one of them."
            raise LabelError(msg, name=name)
    if not names:
        msg = "names must have at least one class, got none; list the classes, or use Labels.from_targets."
        raise LabelError(msg)


@final
@attrs.frozen
class Labels(Sequence[str]):
    """Class names in the order of their ids, given or collected from targets.

    Pass the same object to `Pad`, which converts target names to ids, and to the head, whose predictions are names.

    Attributes:
        names: the class names; the index of a name is its id.

    Raises:
        LabelError: if a name occurs twice, or there is no name.

    Example:
        >>> labels = Labels.from_targets(["ham", "spam", "ham"])
        >>> labels.to_id("spam"), labels[0], len(labels)
        (1, 'ham', 2)
    """

    names: tuple[str, ...] = attrs.field(converter=_convert_names, validator=_check_names)
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
        """Return the labels that occur in targets, sorted by name. A target is a name, or a list with one per step.

        Raises:
            LabelError: if a target is a number, or no target has a name.
        """
        _reject_single_name("targets", targets)

        def iterate_names() -> Iterator[str]:
            for row, target in enumerate(targets):
                for name in target if isinstance(target, Sequence) and is_step_target(target) else [target]:
                    if isinstance(name, int):
                        msg = f"target of row {row} must be a class name, got {name}; numbers need no Labels."
                        raise LabelError(msg, row=row, name=name)
                    if isinstance(name, str):
                        yield name

        return cls(sorted(set(iterate_names())))

    def to_id(self, name: str | int, *, row: int | None = None) -> int:
        """Return the id of a class, given its name or its id.

        Args:
            name: the name or the id.
            row: the row id of the target, for the error.

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
        msg = f"target{where} must be one of the {len(self.names)} labels, got {name!r}; the labels are {known}."
        raise LabelError(msg, row=row, name=name)


@final
@attrs.frozen
class ClassIds(Sequence[int]):
    """Classes without names: a `range` of ids, in a form that torch.compile supports as an attribute of a module.

    Example:
        >>> list(ClassIds(3))
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
