"""Classes of fields and of joint predictions in a saved pipe: described by names, never by import paths."""

import keyword
import re
from collections.abc import Iterable, Mapping
from operator import getitem
from typing import Final, cast, get_args

import attrs

from pipeline.data.kinds import Composite, Hidden, Ids, Kind, Nested, Vectors, get_kind_class
from pipeline.errors import LoadError, SaveError
from pipeline.saving.json_files import Json
from pipeline.stages.fields import Fields, Sides
from pipeline.stages.spell_words import SpelledWord
from pipeline.stages.tokenize_joined import JoinedPair
from pipeline.stages.tokenize_pair import TextPair

_KINDS: Final[Mapping[str, type[Kind]]] = {"Ids": Ids, "Vectors": Vectors, "Hidden": Hidden}

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def encode_kind(kind: object) -> Json:
    """Return the description of a kind of sequences; a class of fields by its name.

    Example:
        >>> encode_kind(Nested[Ids])
        {'Nested': 'Ids'}
    """
    if get_kind_class(kind) is Nested:
        (inner,) = get_args(kind) or (None,)
        return {"Nested": None if inner is None else encode_kind(inner)}
    name = next((name for name, known in _KINDS.items() if cast("object", known) is kind), None)
    if name is None:
        msg = f"a kind that is saved must be Ids, Vectors, Hidden, Nested or a class of fields, got {kind!r:.60}."
        raise SaveError(msg, kind=kind)
    return name


def decode_kind(value: Json) -> type[Kind]:
    """Return the kind that `encode_kind` described.

    Raises:
        LoadError: if the description is not valid.
    """
    if isinstance(value, str) and value in _KINDS:
        return _KINDS[value]
    if isinstance(value, dict) and set(value) == {"Nested"}:
        inner = value["Nested"]
        # As `Nested[kind]`, which a checker does not accept for a kind that is known only at run time.
        return Nested if inner is None else getitem(cast("Mapping[object, type[Kind]]", Nested), decode_kind(inner))
    raise LoadError("the configuration has an unknown kind of sequences; save the pipe again.")


def describe_record(record: type[Composite]) -> dict[str, Json]:
    """Return the description of a class of fields: its base and the kind of each field."""
    fields: dict[str, Json] = {name: encode_kind(kind) for name, kind in record.get_kinds().items()}
    return {"base": "Fields" if record.aligned else "Sides", "fields": fields}


def list_outcome_fields(outcome: object) -> list[str]:
    """Return the names of the fields of a class of joint predictions.

    Raises:
        SaveError: if it is not an attrs class, a dataclass or a named tuple.
    """
    if isinstance(outcome, type):
        if attrs.has(outcome):
            fields = cast("tuple[attrs.Attribute[object], ...]", attrs.fields(outcome))
            return [field.name for field in fields if field.init]
        found: object = getattr(outcome, "__dataclass_fields__", None) or getattr(outcome, "_fields", None)
        if found is not None:
            return list(cast("Iterable[str]", found))
    msg = f"into must be an attrs class, a dataclass or a named tuple to be saved, got {outcome!r:.60}."
    raise SaveError(msg, into=outcome)


class Records:
    """The classes that a caller passed to `load`, and those made for descriptions without one.

    Args:
        given: classes by which the saved names are resolved.
    """

    def __init__(self, given: Iterable[type]) -> None:
        ours: tuple[type, ...] = (TextPair, JoinedPair, SpelledWord)
        self._given = {each.__name__: each for each in ours} | {each.__name__: each for each in given}
        self._made: dict[str, type] = {}

    def get_record(self, name: str, described: Json) -> type[Composite]:
        """Return the class of fields with a name: the given one, or one made from its description.

        Raises:
            LoadError: if the given class has other fields, or the description is not valid.
        """
        if not isinstance(described, dict) or set(described) != {"base", "fields"}:
            raise _make_error(name, "its description is not valid")
        base, fields = described["base"], described["fields"]
        if base not in {"Fields", "Sides"} or not isinstance(fields, dict) or not fields:
            raise _make_error(name, "its description is not valid")
        found = self._given.get(name) or self._made.get(name)
        if found is not None:
            if not issubclass(found, Composite) or describe_record(found) != described:
                listed = ", ".join(f"{field}: {kind}" for field, kind in fields.items())
                raise _make_error(name, f"the class that was passed has other fields than the saved one: {listed:.200}")
            return found
        check_names([name, *fields], name)
        kinds = {field: decode_kind(kind) for field, kind in fields.items()}
        # Without a class, one is made. attrs writes code for it, in which nothing but these checked names occurs.
        made = attrs.make_class(
            name,
            {field: attrs.field(type=kind) for field, kind in kinds.items()},
            bases=(Fields if base == "Fields" else Sides,),
            frozen=True,
            eq=False,
        )
        return self._made.setdefault(name, made)

    def get_outcome(self, name: str, fields: Json) -> type:
        """Return the class of joint predictions with a name: the given one, or one made from its fields.

        Raises:
            LoadError: if the given class has other fields, or the description is not valid.
        """
        if not isinstance(fields, list) or not fields:
            raise _make_error(name, "its description is not valid")
        names = check_names(fields, name)
        found = self._given.get(name) or self._made.get(name)
        if found is None:
            check_names([name], name)
            return self._made.setdefault(name, attrs.make_class(name, names, frozen=True))
        if list_outcome_fields(found) != names:
            raise _make_error(
                name, f"the class that was passed has other fields than the saved one: {', '.join(names):.200}"
            )
        return found


def check_names(names: Iterable[object], where: str) -> list[str]:
    """Return names that may be those of a class and its fields.

    Raises:
        LoadError: if one is not an ASCII identifier, is a keyword, begins with two underscores, or occurs twice.
    """
    found: list[str] = []
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or keyword.iskeyword(name) or name.startswith("__"):
            raise _make_error(where, f"{name!r:.60} is not the name of a class or a field")
        if name in found:
            raise _make_error(where, f"{name!r:.60} occurs twice")
        found.append(name)
    return found


def _make_error(name: str, reason: str) -> LoadError:
    msg = f"class {name!r:.60} of the saved pipe cannot be used: {reason}; pass the class with which it was saved."
    return LoadError(msg, name=name, reason=reason)
