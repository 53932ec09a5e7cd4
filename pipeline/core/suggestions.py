"""Suggest what to do about a stage whose input is of another type than it takes."""

from typing import Any, Final, cast, get_args, get_origin

from pipeline.checks.hints import format_hint, split_union
from pipeline.data.batches import is_batch
from pipeline.data.rows import is_row

# By the names of classes: from an input, to what a stage takes, the stages that are missing. The first fit counts.
_BATCH: Final = {"Padded", "Packed"}
_PATHS: Final = (
    ({"str"}, {"list"}, "Tokenize >> Bucket"),
    ({"str"}, {"Row"}, "Tokenize"),
    ({"Row"}, _BATCH, "Bucket >> Pad"),
    ({"Row"}, {"list"}, "Bucket"),
    ({"list"}, _BATCH, "Pad"),
    (_BATCH, {"States"}, "Encode"),
    (_BATCH, {"Pooled"}, "Encode >> Pool"),
    ({"States"}, {"Pooled"}, "Pool"),
)

# Where no stage leads from one to the other: what to do instead.
_REMEDIES: Final = (
    ({"Pooled"}, {"States"}, "leave the pooling before it out, since {} needs every step"),
    ({"Scores", "StepScores"}, {"States", "Pooled", *_BATCH}, "let the model end with its first head"),
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
    left, right = _get_names(gives), _get_names(takes)
    has_ids = _has_ids(gives)
    if left <= _BATCH and right <= _BATCH:
        # Of another kind, or of another layout.
        missing = "Embed" if has_ids and left & right else ""
    else:
        missing = next((path for sources, targets, path in _PATHS if left & sources and right & targets), "")
        missing = f"Embed >> {missing}" if has_ids and missing.startswith("Encode") else missing
    if missing:
        return f"join {missing} {place}"
    if left == {"States"} and "Padded" in right and not _has_ids(takes):
        return f"join Unpack {place}"
    if stage == "Pack" and left == {"Packed"}:
        return "leave Pack out"
    if stage in _TAKE_KIND_FIRST and left == right:
        return f"make it {stage}({_name_kind(gives)}, ...)"
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
        # Of a list that does not hold rows, nothing follows.
        return kind[get_type(rows[0])] if rows and is_row(rows[0]) else object
    return kind


def _has_ids(hint: object) -> bool:
    return "Ids" in {format_hint(arg) for one in split_union(hint) for arg in get_args(one)}


def _get_names(hint: object) -> set[str]:
    return {getattr(get_origin(one) or one, "__name__", "") for one in split_union(hint)}


def _name_kind(hint: object) -> str:
    """Return the kind of the values of a row, a list of rows or a batch, such as `Vectors` for `list[Row[Vectors]]`."""
    args = get_args(hint)
    return _name_kind(args[0]) if args else format_hint(hint)
