"""Options of generation that are out of their range, or exclude each other."""

from typing import Any

import pytest

from pipeline import Bucket, FromIds, Pad
from pipeline.errors import OptionError, UnknownOptionError
from support.stepping import TOKENS, make_language_model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 0}, "generate has no option 'temprature'.*Did you mean 'temperature'"),
        ({"max_length": 20}, "generate has no option 'max_length'.*Did you mean 'max_new_tokens'"),
        ({"stop_token_ids": [2]}, "generate has no option 'stop_token_ids'.*Did you mean 'eos_token_id'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, got 0"),
        ({"temperature": -0.1}, r"temperature must be a finite number of 0 or more, got -0\.1"),
        ({"temperature": float("nan")}, "temperature must be a finite number of 0 or more, got nan"),
        ({"temperature": float("inf")}, "temperature must be a finite number of 0 or more, got inf"),
        ({"temperature": "hot"}, "temperature must be a finite number of 0 or more, got 'hot'"),
        ({"top_k": 0}, "top_k must be an integer of at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must be a finite number above 0, got 0.0; leave it out to draw from all tokens"),
        ({"top_p": 1.5}, "top_p must be a number from 0 to 1, got 1.5; leave it out to draw from all tokens"),
        ({"top_p": True}, "top_p must be a finite number above 0, got True"),
        ({"do_sample": "no"}, "do_sample must be True or False, got 'no'"),
        ({"return_full_text": 1}, "return_full_text must be True or False, got 1"),
        ({"suppress_tokens": 3}, r"suppress_tokens must be the ids of tokens, got 3; pass a list, such as \[3\]"),
        ({"suppress_tokens": [2.5]}, "suppress_tokens must be an integer of at least 0, got 2.5"),
        ({"num_beams": 0}, "num_beams must be an integer of at least 1"),
        ({"length_penalty": 11.0}, "length_penalty must be a number from -10 to 10"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"num_beams": 2, "top_k": 3}, "top_k changes how tokens are drawn, but num_beams=2 draws none"),
        ({"do_sample": False, "temperature": 0.5}, "temperature changes how tokens are drawn, but do_sample=False"),
        ({"do_sample": True, "num_beams": 2}, "do_sample=True draws tokens, but num_beams=2 searches"),
        ({"num_return_sequences": 2, "temperature": 0}, "at most num_beams=1 without drawing"),
        ({"num_return_sequences": 3, "num_beams": 2}, "at most num_beams=2 without drawing"),
    ],
    ids=str,
)
def test_a_wrong_option_is_rejected_by_the_call(options: dict[str, Any], message: str) -> None:
    """Before a prompt is read."""
    pipe: Any = FromIds() >> Bucket(rows=3) >> Pad() >> make_language_model()
    with pytest.raises((OptionError, UnknownOptionError), match=message):
        pipe.generate([[1]], **{"max_new_tokens": 2, **options})


def test_the_number_of_tokens_is_required() -> None:
    """Without it, a model that never writes eos would not stop."""
    pipe: Any = FromIds() >> Bucket(rows=3) >> Pad() >> make_language_model()
    with pytest.raises(OptionError, match="generate needs the maximum number of tokens; pass max_new_tokens"):
        pipe.generate([[1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eos_token_id": TOKENS}, f"eos_token_id must be a token of the model, 0 to {TOKENS - 1}, got {TOKENS}"),
        ({"suppress_tokens": [99]}, "suppress_tokens must be a token of the model"),
        ({"suppress_tokens": range(TOKENS)}, "must leave a token"),
    ],
    ids=["eos", "suppressed", "all suppressed"],
)
def test_a_token_that_the_model_does_not_have_is_rejected(options: dict[str, Any], message: str) -> None:
    """Once its scores show how many it has."""
    pipe: Any = FromIds() >> Bucket(rows=3) >> Pad() >> make_language_model()
    with pytest.raises(OptionError, match=message):
        list(pipe.generate([[1]], max_new_tokens=2, **options))
