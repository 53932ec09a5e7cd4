"""Class names and their ids."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import NoneType
from typing import Final, TypeAlias, cast, final, overload

import attrs
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeIs

from pipeline.errors import LabelError, OptionError
from pipeline.text import suggest_name

OneTarget: TypeAlias = int | float | str | Sequence[int | float | str | None] | AbstractSet[str] | None
Target: TypeAlias = OneTarget | Mapping[str, OneTarget]
"""One class per row, or one class per step; by id or by name. A step whose target is None has no weight in the loss.

With a type of targets in `Pad(targets=...)` it may also be a number, a list of floats, a set of class names, or a
mapping with several targets by their names. A list of integers is taken for one class per step.

Scalars of NumPy and torch count as numbers, and their arrays with one axis as lists. None, NaN and "" are missing.
"""

MAX_ID: Final = 2**63 - 1
"""The largest class id: ids are int64."""


_MAX_COMPARED: Final = 1_000
"""The number of labels up to which an error suggests a similar one: comparing takes about 10 microseconds each."""


def is_step_target(target: object) -> TypeIs[Sequence[int | str | None]]:
    """Return whether a target has one class per step, rather than one target for the whole row.

    Such a target is a list, a tuple, or an array or tensor with one axis, but not if it has a fraction: floats are a
    vector of numbers for the whole row. Bytes are neither: they are rejected later.

    Example:
        >>> is_step_target(["NOUN", None]), is_step_target("NOUN"), is_step_target(3), is_step_target([0.5, 2.0])
        (True, False, False, False)
    """
    return _is_list(target) and not is_vector(target)


def is_vector(target: object) -> TypeIs[Sequence[float]]:
    """Return whether a target is a vector of numbers: a list with a float that is not NaN, or an array of floats.

    Example:
        >>> is_vector([2, 0.5]), is_vector([2, 1]), is_vector([2, float("nan")]), is_vector(0.5)
        (True, False, False, False)
    """
    if not _is_list(target):
        return False
    if not isinstance(target, Sequence):
        # Data types of NumPy and torch say so in their names.
        return "float" in str(getattr(target, "dtype", ""))
    entries = cast("Sequence[object]", target)
    # Fast path: these types need no look at each entry.
    return not set(map(type, entries)) <= {int, str, NoneType} and any(map(_is_fraction, entries))


def _is_list(target: object) -> bool:
    is_text = isinstance(target, str | bytes | bytearray | memoryview)
    return not is_text and (isinstance(target, Sequence) or _get_axes(target) == 1)


def _is_fraction(entry: object) -> bool:
    return isinstance(get_scalar(entry), float) and not is_missing(entry)


def is_missing(target: object) -> bool:
    """Return whether a target is missing: None, NaN or an empty text, as an empty cell of a table is read.

    Example:
        >>> [is_missing(target) for target in (None, float("nan"), "", 0, "none")]
        [True, True, True, False, False]
    """
    if target is None or (isinstance(target, str) and not target):
        return True
    if type(target) in {int, str}:
        return False
    # The missing values of pandas: it is not imported for this.
    if type(target).__name__ in {"NAType", "NaTType"}:
        return True
    value = get_scalar(target)
    return isinstance(value, float) and math.isnan(value)


def get_scalar(target: object) -> object:
    """Return a scalar of NumPy or torch as a plain Python value; other values unchanged.

    Example:
        >>> import torch
        >>> get_scalar(torch.tensor(3)), get_scalar("spam")
        (3, 'spam')
    """
    item: Callable[[], object] | None = getattr(target, "item", None)
    return item() if item is not None and _get_axes(target) == 0 else target


def to_steps(target: object) -> Sequence[object]:
    """Return a target per step as a list of plain Python values."""
    to_list: Callable[[], list[object]] | None = getattr(target, "tolist", None)
    return to_list() if to_list is not None else cast("Sequence[object]", target)


def _list_entries(target: object) -> Iterator[object]:
    """Yield the classes in a target that are not missing."""
    entries = to_steps(target) if is_step_target(target) else [target]
    if isinstance(target, AbstractSet):
        entries = list(cast("AbstractSet[object]", target))
    return (entry for entry in entries if not is_missing(entry))


def _get_axes(target: object) -> int | None:
    """Return the number of axes of an array, a tensor or their scalars; None for other values."""
    axes: object = getattr(target, "ndim", None)
    return axes if isinstance(axes, int) else None


def _convert_names(names: Iterable[str]) -> tuple[str, ...]:
    _reject_single_name("names", names)
    # Texts of NumPy are of a subclass, and would be shown as np.str_.
    return tuple(str(name) if isinstance(cast("object", name), str) else name for name in names)


def _reject_single_name(argument: str, value: object) -> None:
    # To a type checker a text is an iterable of texts: without this check its letters would become classes.
    if isinstance(value, str | bytes):
        msg = f"{argument} must be a list of class names, got one text, {value!r}; pass [{value!r}]."
        raise LabelError(msg, name=value)


def check_labels(argument: str, value: object, rule: str = "Labels") -> None:
    """Reject class names that are no `Labels`, such as a list.

    Raises:
        OptionError: naming the argument.
    """
    if not isinstance(value, Labels):
        fix = f"Labels({value!r:.60})" if type(value) in {list, tuple} else "Labels([...])"
        msg = f"{argument} must be {rule}, got {value!r:.60}; pass {fix}."
        raise OptionError(msg, **{argument: value})


def _is_numeral(name: str) -> bool:
    return name.strip().lstrip("+-").isdecimal()


def _check_names(_: object, __: object, names: tuple[object, ...]) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if not isinstance(name, str):
            got = get_scalar(name)
            msg = f"names[{index}] must be a class name, got {got!r}; classes that are numbers need no Labels."
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
    If a name is a numeral, such as "3", targets must be names: the number 3 could be the name or the id.

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
        """Return the labels that occur in targets, sorted by name. A target is a name, a set or a list of names.

        Missing targets (None, NaN, "") are no classes. For a class with an empty name, list the names:
        `Labels(["", ...])`.

        Raises:
            LabelError: if a target is a number, or no target has a name.
        """
        _reject_single_name("targets", targets)

        def iterate_names() -> Iterator[str]:
            for row, target in enumerate(targets):
                for entry in _list_entries(target):
                    name = get_scalar(entry)
                    if not isinstance(name, str):
                        msg = f"target of row {row} must be a class name, got {name!r}; numbers need no Labels."
                        raise LabelError(msg, row=row, name=name)
                    yield name

        return cls(sorted(set(iterate_names())))

    def class_weights(self, targets: Iterable[Target]) -> Float[Tensor, " classes"]:
        """Return a weight for each class, by which all classes have the same share in a loss: `loss(weight=...)`.

        These are scikit-learn's "balanced" weights: the number of targets, divided by the number of classes that occur
        and by the number of targets of the class. Missing targets are not counted, and a class without targets has the
        weight 0.

        Args:
            targets: names or ids, one per row, or lists with one per step.

        Raises:
            LabelError: if a target is not a label.

        Example:
            >>> Labels(["ham", "spam"]).class_weights(["ham", "spam", "ham", "ham"]).tolist()
            [0.6666666865348816, 2.0]
        """
        _reject_single_name("targets", targets)
        counts = np.zeros(len(self), np.int64)
        for row, target in enumerate(targets):
            for entry in _list_entries(target):
                counts[self.to_id(cast("str | int", get_scalar(entry)), row=row)] += 1
        occurring = counts > 0
        weights = occurring * counts.sum() / (max(int(occurring.sum()), 1) * np.maximum(counts, 1))
        return torch.tensor(weights, dtype=torch.float32, device="cpu")

    def to_id(self, name: str | int, *, row: int | None = None) -> int:
        """Return the id of a class, given its name or its id.

        Args:
            name: the name or the id.
            row: the row id of the target, for the error.

        Raises:
            LabelError: if there is no such class, or for an id if a name is a numeral.
        """
        where = "" if row is None else f" of row {row}"
        if isinstance(name, int):
            numeral = next(filter(_is_numeral, self.names), None)
            if numeral is not None:
                msg = (
                    f"target{where} must be a name, since the label {numeral!r} is a numeral and could be meant by a "
                    f"number, got {name!r}; pass the name: str(target)."
                )
                raise LabelError(msg, row=row, name=name)
            if 0 <= name < len(self.names):
                return name
        elif isinstance(cast("object", name), str) and name in self._ids:
            return self._ids[name]
        known = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
        msg = f"target{where} must be one of the {len(self.names)} labels, got {name!r}; the labels are {known}."
        msg += suggest_name(name, self.names) if isinstance(name, str) and len(self.names) <= _MAX_COMPARED else ""
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
