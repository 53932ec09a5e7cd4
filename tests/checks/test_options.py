"""Test the checks of options: the nearest word is suggested, and a number is finite and in its range."""

import math
from decimal import Decimal

import numpy as np
import pytest
import torch

from pipeline.checks.options import (
    check_choice,
    check_int,
    check_number,
    check_optional_int,
    check_positive,
    check_precision,
    check_probability,
)
from pipeline.errors import OptionError

IN_TRAINING = ("float32", "bfloat16")
FOR_INFERENCE = (*IN_TRAINING, "int8")


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("bf16", "bfloat16"),
        ("BF16-mixed", "bfloat16"),
        ("fp32", "float32"),
        ("float", "float32"),
        ("32-true", "float32"),
        ("int4", "int8"),
        ("8bit", "int8"),
    ],
)
def test_names_of_precisions_elsewhere_are_translated(value: object, meant: str) -> None:
    """For training there is no int8."""
    with pytest.raises(OptionError, match=rf"float32, bfloat16, int8, got {value!r}\. Did you mean '{meant}'\?$"):
        check_precision(value, FOR_INFERENCE)
    hint = "" if meant == "int8" else rf" Did you mean '{meant}'\?"
    with pytest.raises(OptionError, match=rf"float32, bfloat16, got {value!r}\.{hint}$"):
        check_precision(value, IN_TRAINING)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        *(
            (value, "float16 is not offered, but bfloat16 is")
            for value in ("fp16", "16-mixed", "half", 16, torch.float16)
        ),
        *((value, "float64 is not offered, but float32 is") for value in ("double", torch.float64)),
        (torch.bfloat16, "pass the name 'bfloat16'"),
        (torch.float32, "pass the name 'float32'"),
        (32, "pass the name 'float32'"),
    ],
)
def test_another_format_is_no_typing_error(value: object, advice: str) -> None:
    """Nor is a type of torch, which has no name here but its own."""
    for choices in (FOR_INFERENCE, IN_TRAINING):
        with pytest.raises(OptionError, match=rf"{', '.join(choices)}, got {value!r}; {advice}\.$"):
            check_precision(value, choices)


def test_a_word_of_a_few_has_a_suggestion() -> None:
    """If one is similar."""
    with pytest.raises(OptionError, match="how must be one of concat, sum, got 'Concat'. Did you mean 'concat'?"):
        check_choice("how", "Concat", ("concat", "sum"))
    with pytest.raises(OptionError, match=r"how must be one of concat, sum, got 3\.$"):
        check_choice("how", 3, ("concat", "sum"))


def test_a_number_is_finite_and_in_its_range() -> None:
    """A tensor with one number counts as a number, one with several does not."""
    for value in (0, 1, 0.5, torch.tensor(0.5), np.float32(0.5), np.float64(0.5), Decimal("0.5")):
        found = check_number("radius", value, minimum=0, maximum=1)
        assert found == value
        assert type(found) is (int if isinstance(value, int) else float)
    for check in (check_positive, check_probability):
        assert type(check("radius", np.float32(0.5))) is float
    for wrong in (-0.1, 1.1, math.nan, "0.5", None, True, torch.ones(2)):
        with pytest.raises(OptionError, match="radius must be a number from 0 to 1, got "):
            check_number("radius", wrong, minimum=0, maximum=1)
    for value in (0.9, math.inf, math.nan):
        with pytest.raises(OptionError, match=f"factor must be a finite number of 1 or more, got {value}"):
            check_number("factor", value, minimum=1)
    with pytest.raises(OptionError, match="dropout must be a probability, 0 <= dropout < 1, got tensor"):
        check_probability("dropout", torch.ones(2))
    for each in (0, -1, math.inf, 10**400, math.nan, "1"):
        with pytest.raises(
            OptionError, match=f"scale must be a finite number above 0, got {each!r:.200}; leave it out.$"
        ):
            check_positive("scale", each, advice="leave it out")


def test_an_integer_is_returned_as_one() -> None:
    """An array or a tensor with one integer is an integer; those of fractions, or with several numbers, are none."""
    for value in (3, np.int64(3), np.array(3), torch.tensor(3)):
        assert type(check_int("rows", value, minimum=3)) is int
    assert check_optional_int("rows", None, minimum=3) is None
    for wrong in (2, 3.0, True, math.nan, "3", (3,), np.array([3, 4]), np.float64(3), torch.tensor(3.5), torch.ones(2)):
        with pytest.raises(OptionError, match=r"rows must be an integer of at least 3, got (.|\n)*; leave it out.$"):
            check_optional_int("rows", wrong, minimum=3, advice="leave it out")
