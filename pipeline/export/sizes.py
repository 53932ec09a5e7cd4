"""Find the number of ids, or of features, that a model reads: an exported model states it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from typing_extensions import TypeIs

from pipeline.core.stage import StageBase
from pipeline.data.kinds import Ids, Kind, Nested, get_kind_class
from pipeline.errors import ExportError
from pipeline.stages.each_step import EachStep
from pipeline.stages.embed import Embed
from pipeline.stages.embed_fields import EmbedFields
from pipeline.stages.fields import Field

INNER: Final = "[]"
"""The part of a path that stands for the inner rows of nested ones."""


def find_size(stages: Sequence[StageBase], path: Sequence[str]) -> int | None:
    """Return the number of ids or features of one input, as the first stage that reads it declares; None if unknown.

    Args:
        stages: the stages that take the batch.
        path: the names of the fields that lead to the input; `INNER` for inner rows.

    Example:
        >>> from pipeline import Dropout
        >>> find_size([Embed(9, 4), Dropout()], [])
        9
    """
    rest = list(path)
    for stage in stages:
        if isinstance(stage, Field):
            if not rest or rest.pop(0) != stage.field:
                return None
            continue
        if _is_each_step(stage):
            return find_size([stage.inner], rest[1:]) if rest[:1] == [INNER] else None
        inner = _list_inner(stage, rest)
        if inner is not None:
            branches, rest = inner
            found = (find_size(branch, rest) for branch in branches)
            return next((size for size in found if size is not None), None)
        if rest:
            continue
        size = _get_size(stage)
        if size is not None:
            return size
    return None


def find_kind(stages: Sequence[StageBase]) -> type[Kind]:
    """Return the kind of the rows that a model takes, as its first stages declare it.

    Raises:
        ExportError: if they do not.

    Example:
        >>> find_kind([Embed(9, 4)]).__name__
        'Ids'
    """
    for stage in stages:
        if isinstance(stage, Embed):
            return Ids
        if isinstance(stage, EmbedFields | Field):
            return cast("type[Kind]", getattr(cast("object", stage), "record"))  # noqa: B009 - of one of two classes
        inner = _list_inner(stage, [])
        if inner is not None:
            return find_kind(inner[0][0])
        if _is_each_step(stage):
            make_kind: Callable[[type[Kind]], type[Kind]] = getattr(Nested, "__class_getitem__")  # noqa: B009
            return make_kind(find_kind([stage.inner]))
        kind: object = getattr(stage, "kind", None)
        base = get_kind_class(kind)
        if isinstance(base, type) and issubclass(base, Kind):
            return cast("type[Kind]", kind)
    msg = "the kind of the model's rows is not known; pass it: export(file, kind=Vectors)."
    raise ExportError(msg)


def _list_inner(stage: StageBase, path: list[str]) -> tuple[list[list[StageBase]], list[str]] | None:
    """Return the chains inside a stage that read its input, and the rest of the path; None if it has none."""
    branches: Mapping[str, StageBase] | None = getattr(stage, "branches", None)
    if isinstance(stage, EmbedFields):
        name = path[0] if path else ""
        return [[branch] for field, branch in stage.branches.items() if field == name], path[1:]
    if branches is not None:
        return [[branch] for branch in branches.values()], path
    # An embedder of characters holds the stages that read them.
    inner: object = getattr(stage, "inner", None)
    if _is_each_step(inner):
        return [[inner]], path
    stages: Mapping[str, StageBase] | None = getattr(stage, "stages", None)
    return None if stages is None else ([list(stages.values())], path)


def _is_each_step(stage: object) -> TypeIs[EachStep[Kind]]:
    return isinstance(stage, EachStep)


def _get_size(stage: StageBase) -> int | None:
    if isinstance(stage, Embed):
        return stage.weight.shape[0]
    part: object = getattr(stage, "part", None) or stage
    for name in ("input_size", "num_embeddings", "size"):
        size: object = getattr(part, name, None)
        if isinstance(size, int):
            return size
    return None
