"""Which class may follow which: the rules of BIO and BIOES, and forbidden pairs."""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias, cast, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.errors import OptionError, TargetError
from pipeline.extend import SpanTags

Scheme: TypeAlias = Literal["bio", "bioes"]
"""The rules of a way to write spans as one tag per step."""

Pair: TypeAlias = tuple[str | int | None, str | int | None]
"""A class and the next one, by name or id; None stands for the start and for the end of a row."""

# The numbers of prefixes in SpanTags: outside, and at the begin, inside, at the end, or the only step of a span.
_OUTSIDE, _BEGIN, _INSIDE, _END, _SINGLE = range(5)
_OPEN: Final = {_BEGIN, _INSIDE}
"""In BIOES a span continues after these."""


def make_allowed(
    names: Sequence[object], scheme: Scheme | None = None, forbidden: Iterable[Pair] = ()
) -> Bool[Tensor, "before after"]:
    """Return which class may follow which.

    Args:
        names: the classes.
        scheme: the rules by which the classes are tags of spans; None for no rules.
        forbidden: pairs that may not follow each other.

    Returns:
        a square with a row and a column per class, and a last row for the start and a last column for the end of a row
        of steps. The last entry, of an empty row, is True.

    Raises:
        OptionError: if there is no such scheme, a class is not one of its tags, a pair has an unknown class, or no
            class may begin or end a row.

    Example:
        >>> make_allowed(["O", "B-x", "I-x"], "bio").int().tolist()
        [[1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1]]
    """
    count = len(names)
    allowed = torch.ones(count + 1, count + 1, dtype=torch.bool)
    if scheme is not None:
        if scheme not in get_args(Scheme):
            msg = f"constraints must be one of {', '.join(get_args(Scheme))}, or None, got {scheme!r}."
            raise OptionError(msg, constraints=scheme)
        allowed = _apply_scheme(names, scheme)
    places: dict[object, int] = {place: place for place in range(count)}
    places |= {name: place for place, name in enumerate(names)}
    for pair in forbidden:
        before, after = (count if each is None else places.get(each) for each in _split(pair))
        if before is None or after is None:
            msg = f"forbidden must have pairs of classes, or of None for the start or the end, got {pair!r}."
            raise OptionError(msg, forbidden=pair)
        allowed[before, after] = False
    for ends, verb in ((allowed[-1, :-1], "begin"), (allowed[:-1, -1], "end")):
        if not ends.is_meta and not ends.any():
            msg = f"one class or more must be allowed to {verb} a row, got none; pass others, or fewer constraints."
            raise OptionError(msg, constraints=scheme)
    return allowed


def _split(pair: object) -> tuple[object, object]:
    items: Sequence[object] = cast("Sequence[object]", pair) if isinstance(pair, list | tuple) else ()
    if len(items) != 2:
        msg = f'forbidden must have pairs, such as ("O", "I-per"), got {pair!r}.'
        raise OptionError(msg)
    return items[0], items[1]


def _apply_scheme(names: Sequence[object], scheme: Scheme) -> Tensor:
    try:
        tags = SpanTags.read(names)
    except TargetError as error:
        msg = (
            f'constraints="{scheme}" needs the tags of spans as class names (O, B-type, I-type, and E-type and S-type '
            "in BIOES); build the head from Labels of such tags, or pass constraints=None."
        )
        raise OptionError(msg, constraints=scheme) from error
    prefixes: list[int] = [int(each) for each in tags.prefixes]
    types: list[int] = [int(each) for each in tags.types]
    if scheme == "bio" and not set(prefixes) <= {_OUTSIDE, _BEGIN, _INSIDE}:
        name = next(name for name, prefix in zip(names, prefixes, strict=True) if prefix > _INSIDE)
        msg = f'constraints="bio" has no tag {name!r}; pass constraints="bioes".'
        raise OptionError(msg, constraints=scheme, name=name)
    # The start and the end of a row are outside of spans.
    steps = [*zip(prefixes, types, strict=True), (_OUTSIDE, 0)]
    return torch.tensor([[_may_follow(before, after, scheme) for after in steps] for before in steps])


def _may_follow(before: tuple[int, int], after: tuple[int, int], scheme: Scheme) -> bool:
    """Return whether a tag, as its prefix and type, may follow another one."""
    continues = after[0] in {_INSIDE, _END}
    is_open = before[0] in _OPEN
    if scheme == "bio":
        return not continues or (is_open and before[1] == after[1])
    return continues and before[1] == after[1] if is_open else not continues
