"""Requests are read strictly: whatever is wrong has a status, the argument at fault, and a message with the fix."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Bucket, FromFeatures, FromIds, Pad, TextPair, Tokenize, TokenizePair, Vectors
from pipeline.errors import OptionError
from pipeline.serving.limits import Limits
from pipeline.serving.requests import InputKind, PredictRequest, RequestError, find_kind, read_request
from support.commands import make_character_tagger, make_classifier, make_tagger

TEXT, WORDS = find_kind(make_classifier()), find_kind(make_tagger())
LIMITS = Limits(max_inputs=3, max_length=5)


def read(body: bytes | str, kind: InputKind = TEXT) -> PredictRequest:
    """Read a body with small limits."""
    return read_request(body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body, kind, LIMITS)


def test_good_requests_are_read() -> None:
    """With their options."""
    assert read('{"inputs": ["a", "ü"], "scores": true, "top": 2}') == PredictRequest(["a", "ü"], False, True, 2)
    assert read('{"input": ""}') == PredictRequest([""], is_single=True)
    assert read('{"inputs": []}') == PredictRequest([])
    assert read('{"input": ["a", "b"]}', WORDS) == PredictRequest([["a", "b"]], is_single=True)


WRONG: dict[str, tuple[str | bytes, int, str, str]] = {
    "nothing": ("", 400, "body", "the body must be JSON, got an error: Expecting value"),
    "no JSON": ("{", 400, "body", "the body must be JSON, got an error: "),
    "more after it": ('{"input": "a"} x', 400, "body", "Extra data"),
    "UTF-16": ('{"input": "a"}'.encode("utf-16"), 400, "body", "the body must be UTF-8, got the byte 0xff at 0"),
    "Latin-1": (b'{"input": "\xe9"}', 400, "body", "the body must be UTF-8, got the byte 0xe9 at 11"),
    "byte-order mark": (b'\xef\xbb\xbf{"input": "a"}', 400, "body", "the body must be JSON, got an error: "),
    "NaN": ('{"input": NaN}', 400, "body", "the body must be strict JSON, got NaN"),
    "infinity": ('{"input": -Infinity}', 400, "body", "the body must be strict JSON, got -Infinity"),
    "a field twice": ('{"input": "a", "input": "b"}', 400, "body", "a field must be there once, got 'input' twice"),
    "deep": ("[" * 100_000, 400, "body", "must be JSON that is not nested deeply"),
    "deep and closed": (f'{{"input": {"[" * 900}{"]" * 900}}}', 422, "input", "input must be text, got a list"),
    "a long number": (f'{{"input": {"1" * 10_000}}}', 400, "body", "the body must be JSON"),
    "a list": ("[]", 400, "body", "the body must be a JSON object, got a list; send"),
    "a text": ('"a"', 400, "body", "got text"),
    "null": ("null", 400, "body", "got null"),
    "unknown field": ('{"text": "a"}', 400, "body", "the fields must be of input, inputs, scores, top, got 'text'"),
    "nothing to predict": ("{}", 400, "inputs", "either input or inputs, got none of them"),
    "both": ('{"input": "a", "inputs": []}', 400, "inputs", "either input or inputs, got both"),
    "one text as inputs": (
        '{"inputs": "a"}',
        422,
        "inputs",
        "inputs must be a list, got text; send one input as input",
    ),
    "a number": ('{"inputs": ["a", 5]}', 422, "inputs[1]", "inputs[1] must be text, got the number 5"),
    "true": ('{"input": true}', 422, "input", "input must be text, got true"),
    "an object": ('{"input": {}}', 422, "input", "input must be text, got an object"),
    "lone surrogate": ('{"input": "a\\ud800"}', 422, "input", "got a lone surrogate, which is half a character"),
    "too many": (json.dumps({"inputs": ["a"] * 4}), 413, "inputs", "inputs must be at most 3, got 4"),
    "too long": ('{"inputs": ["abcdef"]}', 413, "inputs[0]", "must have at most 5 characters, got 6"),
    "scores": ('{"input": "a", "scores": 1}', 422, "scores", "scores must be true or false, got the number 1"),
    "top of 0": ('{"input": "a", "top": 0}', 422, "top", "top must be a whole number of at least 1, got the number 0"),
    "top of true": ('{"input": "a", "top": true}', 422, "top", "got true"),
    "top of infinity": ('{"input": "a", "top": 1e999}', 422, "top", "got the number inf"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests_are_rejected(case: str) -> None:
    """With the argument, the rule, the value and the fix."""
    body, status, argument, message = WRONG[case]
    with pytest.raises(RequestError) as caught:
        read(body)
    details = caught.value.details
    assert (details["status"], details["argument"]) == (status, argument)
    assert message in str(caught.value)


def test_lists_of_words_are_measured_by_words_and_letters() -> None:
    """Whichever are more."""
    for words in (["a"] * 6, ["abc", "def"], [""] * 6):
        with pytest.raises(RequestError, match="must have at most 5 characters or entries, got 6"):
            read(json.dumps({"input": words}), WORDS)
    with pytest.raises(RequestError, match="must be a list of words, got a list"):
        read('{"input": ["a", 1]}', WORDS)
    with pytest.raises(RequestError, match="lone surrogate"):
        read('{"input": ["\\udc00"]}', WORDS)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary() | JSON.map(json.dumps).map(str.encode))
def test_any_body_is_read_or_rejected(body: bytes) -> None:
    """No other error escapes."""
    with suppress(RequestError):
        assert all(isinstance(value, str) for value in read(body).inputs)


def test_the_kind_of_input_follows_from_the_first_stage() -> None:
    """Text, words, pairs, ids and features."""
    ids = FromIds() >> Bucket(rows=1) >> Pad()
    vectors = FromFeatures() >> Bucket(Vectors, rows=1) >> Pad(Vectors)
    pairs = TokenizePair(Tokenize.train(["a"])) >> Bucket(TextPair, rows=1) >> Pad(TextPair)
    assert (TEXT.name, WORDS.name, find_kind(make_character_tagger()).name) == ("text", "words", "words")
    assert [find_kind(pipe).name for pipe in (ids, vectors, pairs)] == ["ids", "features", "pair"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rows": 0}, "max_rows must be an integer of at least 1, got 0"),
        ({"max_delay_ms": -1}, "max_delay_ms must be a number of at least 0, got -1"),
        ({"max_delay_ms": float("nan")}, "max_delay_ms must be a number of at least 0, got nan"),
        ({"body_timeout": True}, "body_timeout must be a number of at least 0, got True"),
    ],
)
def test_wrong_limits_are_rejected(options: dict[str, Any], message: str) -> None:
    """When they are given."""
    with pytest.raises(OptionError, match=message):
        Limits(**options)
