"""Test the options of attentions: values of another type raise an error that names the option, its rule and the value."""

import json
from functools import partial
from typing import Final

import numpy as np
import pytest

from pipeline import Attend, AttendEarlier, AttendLocal
from pipeline.errors import OptionError
from pipeline_attention import Additive, Concat, Dot, General, MultiHead, ScaledDot
from support.untyped import as_any, untyped

CLASSES: Final = {
    "dot": Dot,
    "scaled_dot": ScaledDot,
    "general": General,
    "additive": Additive,
    "concat": Concat,
    "multi_head": MultiHead,
}
SIZES: Final[list[object]] = ["4", 4.0, float("nan"), True, 0, -1, (4,)]
OPTIONS: Final[dict[str, dict[str, list[object]]]] = {
    "general": {"bias": ["no", 1, None]},
    "additive": {"hidden_size": SIZES},
    "concat": {"hidden_size": SIZES},
    "multi_head": {"num_heads": [*SIZES, None]},
}


@pytest.mark.parametrize("name", CLASSES)
def test_values_of_another_type_are_rejected(name: str) -> None:
    """With one form of message, whether the attention is made by its class or by name."""
    words: list[object] = [None, 3, ["softmax"]]
    for option, values in {"input_size": SIZES, "normalize": words, **OPTIONS.get(name, {})}.items():
        for value in values:
            given: dict[str, object] = {"input_size": 4, option: value}
            for make in (untyped(CLASSES[name]), partial(untyped(Attend), name)):
                with pytest.raises(OptionError) as caught:
                    make(**given)
                assert str(caught.value).startswith(f"{option} must be ")
                assert f", got {value!r}" in str(caught.value)


def test_sizes_may_be_integers_of_numpy() -> None:
    """They become plain ones."""
    for name, options in (("additive", {"hidden_size": 3}), ("multi_head", {"num_heads": 2}), ("general", {})):
        given = {"input_size": 4, **options}
        made = untyped(CLASSES[name])(**{option: np.int64(value) for option, value in given.items()})
        # The encoder of JSON rejects integers of numpy.
        assert json.loads(json.dumps(as_any(made).get_config())).items() >= given.items()


@pytest.mark.parametrize("stage", [Attend, AttendEarlier, AttendLocal])
def test_windows_of_another_type_are_rejected(stage: object) -> None:
    """Also 2.5 and NaN, which can be compared with times. Only AttendLocal needs one."""
    for window in [*SIZES, None] if stage is AttendLocal else SIZES:
        with pytest.raises(OptionError) as caught:
            as_any(stage)("dot", window=window)
        assert f"window must be an integer of at least 1, got {window!r}" in str(caught.value)
