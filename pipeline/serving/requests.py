"""Read the JSON of requests strictly: what is wrong is named, with the rule, the value and the fix."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, cast, final

import attrs

from pipeline.core.stream_chain import StreamChain
from pipeline.errors import PipelineError
from pipeline.serving.limits import Limits
from pipeline.stages.from_columns import FromColumns
from pipeline.stages.input_stage import FromFeatures, FromIds
from pipeline.stages.spell_words import SpellWords
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_document import TokenizeDocument
from pipeline.stages.tokenize_joined import TokenizeJoined
from pipeline.stages.tokenize_pair import TokenizePair
from pipeline.stages.tokenize_words import TokenizeWords

_FIELDS: Final = ("input", "inputs", "scores", "top")
_TOP: Final = 5


class RequestError(PipelineError, ValueError):
    """A request that cannot be answered; `details["status"]` is the HTTP status, `details["argument"]` the field."""


@final
@attrs.frozen
class PredictRequest:
    """A request to predict.

    Attributes:
        inputs: the inputs.
        is_single: whether the request has one `input` instead of a list of `inputs`.
        scores: whether predictions are answered with their scores.
        top: the number of classes of which the probability is answered.
    """

    inputs: Sequence[object]
    is_single: bool = False
    scores: bool = False
    top: int = _TOP


@final
@attrs.frozen
class InputKind:
    """The kind of input that a pipe takes.

    Attributes:
        name: the word for it: `text`, `words`, `pair`, `ids`, `features`, `columns`, or `JSON` if it is not known.
        rule: what an input must be.
        accepts: returns whether a value of JSON is of this kind.
    """

    name: str
    rule: str
    accepts: Callable[[object], bool]


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, cast("list[object]", value)))


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(cast("list[object]", value)) == 2


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_anything(_: object) -> bool:
    return True


_KINDS: Final = (
    (Tokenize, InputKind("text", "text", _is_text)),
    (TokenizeDocument, InputKind("text", "text", _is_text)),
    (TokenizeWords, InputKind("words", "a list of words", _is_words)),
    (SpellWords, InputKind("words", "a list of words", _is_words)),
    (TokenizePair, InputKind("pair", "a list of two inputs", _is_pair)),
    (TokenizeJoined, InputKind("pair", "a list of two inputs", _is_pair)),
    (FromIds, InputKind("ids", "a list of ids", _is_list)),
    (FromFeatures, InputKind("features", "a list of numbers, or of lists of numbers", _is_list)),
    (FromColumns, InputKind("columns", "an object with the columns of the input", _is_object)),
)


def find_kind(pipe: StreamChain[Any, Any]) -> InputKind:
    """Return the kind of input that a pipe takes; a first stage of the user's own checks its inputs itself."""
    first: object = next(iter(pipe.stages.values()))
    found = (kind for stage, kind in _KINDS if isinstance(first, stage))
    return next(found, InputKind("JSON", "a value of JSON", _is_anything))


def read_request(body: bytes, kind: InputKind, limits: Limits) -> PredictRequest:
    """Read the body of a request.

    Raises:
        RequestError: if it is not strict JSON, has other fields, or inputs of another kind or over a limit.

    Example:
        >>> read_request(b'{"input": "a fine film", "scores": true}', InputKind("text", "text", _is_text), Limits())
        PredictRequest(inputs=['a fine film'], is_single=True, scores=True, top=5)
    """
    try:
        fields = _check_fields(_parse(body))
        is_single = "input" in fields
        inputs = _check_inputs(fields, is_single, limits)
        for number, value in enumerate(inputs):
            _check_input(value, "input" if is_single else f"inputs[{number}]", kind, limits)
    except RecursionError:
        _reject("body", "the body must be JSON that is not nested deeply; send a flat list of inputs")
    return PredictRequest(inputs, is_single, _check_scores(fields), _check_top(fields))


def _parse(body: bytes) -> object:
    try:
        # Without this, `json.loads` guesses the encoding, and takes UTF-16 too.
        text = body.decode("utf-8")
        return json.loads(text, parse_constant=_reject_constant, object_pairs_hook=_make_object)
    except UnicodeDecodeError as error:
        _reject("body", f"the body must be UTF-8, got the byte {error.object[error.start]:#04x} at {error.start}")
    except RequestError:
        raise
    except ValueError as error:
        _reject("body", f'the body must be JSON, got an error: {error}; send {{"inputs": [...]}}')


def _reject(argument: str, message: str, status: int = 400) -> NoReturn:
    msg = f"{message}."
    raise RequestError(msg, argument=argument, status=status)


def _reject_constant(name: str) -> NoReturn:
    _reject("body", f"the body must be strict JSON, got {name}; leave the number out")


def _make_object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        _reject("body", f"a field must be there once, got {double!r:.60} twice; remove one of them")
    return found


def _check_fields(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        _reject("body", f'the body must be a JSON object, got {_describe(value)}; send {{"inputs": [...]}}')
    fields = cast("dict[str, object]", value)
    for name in fields:
        if name not in _FIELDS:
            _reject("body", f"the fields must be of {', '.join(_FIELDS)}, got {name!r:.60}; remove it")
    if ("input" in fields) == ("inputs" in fields):
        got = "both" if "input" in fields else "none of them"
        _reject("inputs", f"the body must have either input or inputs, got {got}; send one of them")
    return fields


def _check_inputs(fields: Mapping[str, object], is_single: bool, limits: Limits) -> Sequence[object]:
    if is_single:
        return [fields["input"]]
    inputs = fields["inputs"]
    if not isinstance(inputs, list):
        _reject("inputs", f"inputs must be a list, got {_describe(inputs)}; send one input as input", 422)
    found = cast("list[object]", inputs)
    if len(found) > limits.max_inputs:
        rule = f"inputs must be at most {limits.max_inputs}, got {len(found)}; send several requests"
        _reject("inputs", rule, 413)
    return found


def _check_input(value: object, name: str, kind: InputKind, limits: Limits) -> None:
    if not kind.accepts(value):
        _reject(name, f"{name} must be {kind.rule}, got {_describe(value)}; GET /info describes the model", 422)
    length = _measure(value, name)
    if length > limits.max_length:
        unit = "characters" if isinstance(value, str) else "characters or entries"
        _reject(name, f"{name} must have at most {limits.max_length} {unit}, got {length}; shorten it", 413)


def _measure(value: object, name: str) -> int:
    """Return the number of characters of a text, or of entries of a list, whichever are more.

    Raises:
        RequestError: if a text has a lone surrogate.
    """
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
            _reject(name, f"{name} must be text, got a lone surrogate, which is half a character; remove it", 422)
        return len(value)
    if isinstance(value, list):
        entries = cast("list[object]", value)
        return max(len(entries), sum(_measure(entry, name) for entry in entries))
    if isinstance(value, dict):
        return sum(_measure(entry, name) for entry in cast("dict[str, object]", value).values())
    return 1


def _check_scores(fields: Mapping[str, object]) -> bool:
    scores = fields.get("scores", False)
    if not isinstance(scores, bool):
        _reject("scores", f"scores must be true or false, got {_describe(scores)}", 422)
    return scores


def _check_top(fields: Mapping[str, object]) -> int:
    top = fields.get("top", _TOP)
    if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= 2**31:
        _reject("top", f"top must be a whole number of at least 1, got {_describe(top)}", 422)
    return top


def _describe(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {value!r:.30}"
    names: Mapping[type, str] = {str: "text", list: "a list", dict: "an object"}
    return names[type(value)]
