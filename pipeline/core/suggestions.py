"""Suggest what to do about a stage whose input is of another type than it takes."""

import re
from typing import Any, Final, cast, get_args, get_origin

from pipeline.checks.hints import format_hint, split_union
from pipeline.data.batches import is_batch
from pipeline.data.kinds import Composite, Nested
from pipeline.data.rows import is_row

_BATCH: Final = {"Padded", "Packed"}
_ROWS: Final = {"Row", "list of Row", *_BATCH}

# The names of the types in the order in which data passes through them, each with the stage that takes it.
_STEPS: Final = (
    ({"str"}, "Tokenize"),
    ({"Row"}, "Bucket"),
    ({"list of Row"}, "Pad"),
    (_BATCH, "Encode"),
    ({"States"}, "Pool"),
    ({"Pooled"}, ""),
)

# Where no stage leads from one to the other: what to do instead.
_REMEDIES: Final = (
    ({"Pooled"}, {"States"}, "leave the pooling before it out, since {} needs every step"),
    ({"Scores", "StepScores"}, {"States", "Pooled", *_BATCH}, "let the model end with its first head"),
    ({"list of str"}, _BATCH, "join the data stages before the model, and predict: (data >> model).predict(texts)"),
    ({"Tensor"}, _BATCH, "make the tensor a batch: Padded(Vectors, values, lengths)"),
    ({"Tensor"}, {"States"}, "make the tensor States: States.from_padded(values, lengths)"),
    ({"Tensor"}, {"Pooled"}, "make the tensor Pooled: Pooled(values)"),
)

_TAKE_KIND_FIRST: Final = {"Bucket", "BPTTWindows", "Pad", "Pack"}
"""Stages whose first argument is the kind of the values: `Ids` by default, or `Vectors`."""


def suggest_fix(gives: object, takes: object, stage: str, place: str) -> str:
    """Return what to do about a stage that gets another type than it takes.

    Args:
        gives: the type of the stage's input.
        takes: the type that it takes.
        stage: the name of its class.
        place: where a missing stage belongs, as the end of a sentence.

    Example:
        >>> from pipeline import Ids, Padded, Pooled, States
        >>> suggest_fix(Padded[Ids], States, "Pool", "before it"), suggest_fix(Pooled, States, "Tag", "before it")
        ('join Embed >> Encode before it', 'leave the pooling before it out, since Tag needs every step')
    """
    record, left, right = _get_kind(takes), _get_names(gives), _get_names(takes)
    if isinstance(record, type) and issubclass(record, Composite) and _get_kind(gives) is not record and left <= _ROWS:
        name = record.__name__
        pairs = {"TextPair": "TokenizePair(...)", "JoinedPair": "TokenizeJoined(...)"}
        first = pairs.get(name, f"FromColumns({name}, ...)")
        return f"read rows of {name}: {first} >> Bucket({name}, ...) >> Pad({name}, ...)"
    missing = _find_missing(gives, takes)
    if missing:
        return f"join {' >> '.join(missing)} {place}"
    if stage == "Pack" and left == {"Packed"}:
        return "leave Pack out"
    if stage in _TAKE_KIND_FIRST and left == right:
        return f"make it {stage}({format_hint(_get_whole_kind(gives))}, ...)"
    remedies = (remedy for sources, targets, remedy in _REMEDIES if left & sources and right & targets)
    return next(remedies, "join it after a stage that returns what it takes").format(stage)


def get_type(value: object) -> object:
    """Return the type of a value as stages annotate it: `Packed[Ids]`, `list[Row[Vectors]]`."""
    kind: Any = type(value)
    if is_batch(value):
        return kind[value.kind]
    if is_row(value):
        return kind[type(value.sequence)]
    if isinstance(value, list):
        rows = cast("list[object]", value)
        # Of a list that holds neither rows nor texts, nothing follows.
        return kind[get_type(rows[0])] if rows and (is_row(rows[0]) or isinstance(rows[0], str)) else object
    return kind


def _find_missing(gives: object, takes: object) -> list[str]:
    """Return the stages that lead from one type to another; empty if none do."""
    left, right = _get_names(gives), _get_names(takes)
    start = next((step for step, (names, _) in enumerate(_STEPS) if left & names), len(_STEPS))
    end = next((step for step, (names, _) in enumerate(_STEPS) if right & names), 0)
    stages = [stage for _, stage in _STEPS[start:end]]
    words = set(re.findall(r"\w+", format_hint(takes)))
    if left == {"States"} and "Padded" in right and "Ids" not in words:
        return ["Unpack"]
    has_ids = left == {"str"} or "Ids" in re.findall(r"\w+", format_hint(gives))
    if has_ids and "Encode" in stages:
        stages.insert(stages.index("Encode"), "Embed")
    elif has_ids and start <= end and right <= _BATCH and not words & {"Ids", "Kind"}:
        stages.append("Embed")
    return stages


def _get_names(hint: object) -> set[str]:
    """Return the names of the classes of a union; a list is named with its items."""
    names: set[str] = set()
    for one in split_union(hint):
        name: str = getattr(get_origin(one) or one, "__name__", "")
        items = get_args(one) if name == "list" else ()
        names |= {f"list of {item}" for item in _get_names(items[0])} if items else {name}
    return names


def _get_kind(hint: object) -> object:
    """Return the kind of the values of a row, a list of rows or a batch, such as `Vectors` for `list[Row[Vectors]]`."""
    args = get_args(hint)
    return _get_kind(args[0]) if args else hint


def _get_whole_kind(hint: object) -> object:
    """Return the kind as `_get_kind` does, but `Nested[Ids]` as a whole."""
    args = get_args(hint)
    return _get_whole_kind(args[0]) if args and get_origin(hint) is not Nested else hint
