"""The types of a pipe's inputs and predictions as texts, to compare saved ones with those that a caller expects."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Final, cast, get_args, get_origin

from pipeline.core.stage import StageBase
from pipeline.errors import LoadError, OptionError
from pipeline.labels import Labels
from pipeline.stages.classify_multi_label import ClassifyMultiLabel
from pipeline.stages.from_columns import FromColumns, FromFields, FromNested
from pipeline.stages.heads import ClassHead, Classify, NextToken, Tag
from pipeline.stages.input_stage import FromFeatures, FromIds
from pipeline.stages.regress import Regress
from pipeline.stages.several_heads import Heads
from pipeline.stages.spell_words import SpellWords
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_document import TokenizeDocument
from pipeline.stages.tokenize_joined import TokenizeJoined
from pipeline.stages.tokenize_pair import TokenizePair
from pipeline.stages.tokenize_words import TokenizeWords

ANY: Final = "object"
"""The type of a stage that is not known here: every type that a caller expects is accepted."""


_INPUTS: Final[Mapping[type, list[str]]] = {
    Tokenize: ["str"],
    TokenizeDocument: ["str"],
    TokenizeWords: ["list[str]"],
    SpellWords: ["list[str]"],
    FromIds: ["list[int]", "Tensor"],
    FromFeatures: ["Tensor", "list[list[float]]", "list[float]"],
    FromColumns: ["dict[str, object]"],
}

_PREDICTIONS: Final[Mapping[type, str]] = {
    Classify: "{}",
    Tag: "list[{}]",
    NextToken: "list[{}]",
    # Predictions are lists too, but the batches of a tagger are of another type.
    ClassifyMultiLabel: "MultiLabelScores[{}]",
}


def describe_inputs(stage: object) -> list[str]:
    """Return the types that an input stage takes, any of them.

    Example:
        >>> describe_inputs(FromIds())
        ['list[int]', 'Tensor']
    """
    simple = next((types for cls, types in _INPUTS.items() if isinstance(stage, cls)), None)
    if simple is not None:
        return simple
    # By exact type, since these classes are final, and a checker does not know their type variables.
    cls: object = type(stage)
    if cls is TokenizePair:
        sides = product(*(describe_inputs(getattr(stage, side)) for side in ("first", "second")))
        return [f"tuple[{first}, {second}]" for first, second in sides]
    if cls is TokenizeJoined:
        (side,) = describe_inputs(getattr(stage, "tokenize", None))
        return [f"tuple[{side}, {side}]"]
    if cls is FromNested:
        return [f"list[{each}]" for each in describe_inputs(getattr(stage, "stage", None))]
    record: object = getattr(stage, "record", None)
    return [record.__name__] if cls is FromFields and isinstance(record, type) else [ANY]


def describe_predictions(stage: object) -> str:
    """Return the type of a head's predictions.

    Example:
        >>> describe_predictions(Classify(Labels(["no", "yes"])))
        'str'
    """
    if isinstance(stage, Heads):
        into: object = stage.into
        if isinstance(into, type):
            return into.__name__
        heads = [describe_predictions(_get_last(head)) for head in stage.branches.values()]
        # In a tuple, as the lists that they predict.
        return f"tuple[{', '.join(heads)}]".replace("MultiLabelScores[", "list[")
    if isinstance(stage, Regress):
        return "float" if stage.size is None else "list[float]"
    name = "str" if isinstance(getattr(stage, "names", None), Labels) else "int"
    # A head with layouts reads steps.
    by_step = isinstance(stage, ClassHead) and hasattr(stage, "layouts")
    form = next((form for cls, form in _PREDICTIONS.items() if isinstance(stage, cls)), "list[{}]" if by_step else ANY)
    return form.format(name)


def describe_pipe(stages: Mapping[str, StageBase]) -> tuple[list[str], str]:
    """Return the types of the inputs and of the predictions of a pipe with these stages."""
    found = list(stages.values())
    return describe_inputs(found[0]), describe_predictions(found[-1])


def check_types(takes: object, gives: object, saved_takes: Iterable[str], saved_gives: str) -> None:
    """Compare the types that a caller expects, None for any, with those of the saved pipe.

    Raises:
        LoadError: naming both.
        OptionError: if a text is given instead of a type.
    """
    for option, given in (("takes", takes), ("gives", gives)):
        if isinstance(given, str):
            msg = f"{option} must be a type, got the text {given!r:.60}; pass the type itself."
            raise OptionError(msg, **{option: given})
    inputs = list(saved_takes)
    if takes is not None and format_type(takes) not in {*inputs, *([format_type(takes)] if ANY in inputs else [])}:
        msg = f"takes is {format_type(takes)}, but the saved pipe takes {' or '.join(inputs)}; pass that type."
        raise LoadError(msg, takes=takes, saved=inputs)
    if gives is not None and saved_gives != ANY:
        found = _format_gives(gives)
        if found != saved_gives:
            msg = f"gives is {found}, but the saved pipe gives {saved_gives}; pass that type."
            raise LoadError(msg, gives=gives, saved=saved_gives)


def format_type(hint: object) -> str:
    """Return a type as it is written in the manifest; abstract collections as their usual classes.

    Example:
        >>> format_type(Sequence[str]), format_type(tuple[str, float]), format_type(int)
        ('list[str]', 'tuple[str, float]', 'int')
    """
    origin = get_origin(hint)
    if origin is None:
        name = getattr(hint, "__name__", str(hint))
        return {"Mapping": "dict[str, object]", "dict": "dict[str, object]", "Sequence": "list"}.get(name, name)
    names: dict[object, str] = {Sequence: "list", Mapping: "dict"}
    name = names.get(origin, getattr(origin, "__name__", str(origin)))
    if name == "dict":
        return "dict[str, object]"
    return f"{name}[{', '.join(map(format_type, get_args(hint)))}]"


def _format_gives(gives: object) -> str:
    """Return the type of predictions; also for a class of batches of predictions, such as `Scores[str]`."""
    text = format_type(gives)
    forms = {"Scores": "{}", "StepScores": "list[{}]", "Values": "{}", "Joint": "{}"}
    form = forms.get(getattr(get_origin(gives), "__name__", ""))
    return text if form is None else form.format(format_type(get_args(gives)[0]))


def _get_last(stage: object) -> object:
    stages = cast("Mapping[str, object]", getattr(stage, "stages", None) or {"": stage})
    return list(stages.values())[-1]
