"""Checks of options that take an integer, a number, a probability, a path, True or False, or one of a few words."""

import math
import operator
import os
import re
import sys
from collections.abc import Mapping
from typing import Final, SupportsFloat, SupportsIndex, cast

from pipeline.errors import OptionError
from pipeline.text import suggest_name

# Names of precisions elsewhere, with ours.
_PRECISIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("fp32", "f32", "32", "32true", "tf32", "single", "full", "float", "torchfloat32"), "float32"),
    **dict.fromkeys(("bf16", "bf16mixed", "bf16true", "torchbfloat16", "mixed", "amp", "autocast"), "bfloat16"),
    **dict.fromkeys(("8", "8bit", "i8", "qint8", "quint8", "torchint8", "fp8", "float8", "int4", "4bit"), "int8"),
}

# Names of formats that no option offers, with the format and the nearest of ours.
_OTHER_PRECISIONS: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(
        ("fp16", "f16", "16", "16mixed", "16true", "half", "float16", "torchfloat16"), ("float16", "bfloat16")
    ),
    **dict.fromkeys(("fp64", "f64", "64", "64true", "double", "float64", "torchfloat64"), ("float64", "float32")),
}


def check_int(name: str, value: object, *, minimum: int, advice: str = "") -> int:
    """Return the option as an int.

    Args:
        name: the option.
        value: its value.
        minimum: the smallest number that is allowed.
        advice: what to do instead, with which the message ends.

    Raises:
        OptionError: if it is not an integer, or is below the minimum.

    Example:
        >>> check_int("rows", 64, minimum=1)
        64
        >>> check_int("rows", 0, minimum=1, advice="leave it out for 32")
        Traceback (most recent call last):
        pipeline.errors.OptionError: rows must be an integer of at least 1, got 0; leave it out for 32.
    """
    found = _to_int(value)
    if found is None or found < minimum:
        raise _make_error(name, f"an integer of at least {minimum}", value, advice)
    return found


def check_optional_int(name: str, value: object, *, minimum: int, advice: str = "") -> int | None:
    """Return an integer option that may be None; see `check_int`.

    Raises:
        OptionError: if it is neither None nor an integer of at least the minimum.
    """
    return None if value is None else check_int(name, value, minimum=minimum, advice=advice)


def check_probability(name: str, value: object) -> float:
    """Return an option that takes the probability of dropping a value, which is below 1.

    Raises:
        OptionError: if it is not a number, or not in 0 <= value < 1.

    Example:
        >>> check_probability("dropout", 1)
        Traceback (most recent call last):
        pipeline.errors.OptionError: dropout must be a probability, 0 <= dropout < 1, got 1.
    """
    number = _to_number(value)
    if not 0 <= number < 1:
        raise _make_error(name, f"a probability, 0 <= {name} < 1", value)
    return number


def check_positive(name: str, value: object, *, advice: str = "") -> float:
    """Return an option that is a finite number above 0, as an int or a float. For `advice` see `check_int`.

    Raises:
        OptionError: if it is not.

    Example:
        >>> check_positive("temperature", float("inf"))
        Traceback (most recent call last):
        pipeline.errors.OptionError: temperature must be a finite number above 0, got inf.
    """
    number = _to_number(value)
    if not 0 < number <= sys.float_info.max:
        raise _make_error(name, "a finite number above 0", value, advice)
    return number


def check_number(name: str, value: object, *, minimum: float, maximum: float = math.inf, advice: str = "") -> float:
    """Return an option that is a finite number from a minimum to a maximum, as `check_positive` does.

    Raises:
        OptionError: if it is not.

    Example:
        >>> check_number("radius", 0.5, minimum=0, maximum=1)
        0.5
        >>> check_number("gamma", float("inf"), minimum=0)
        Traceback (most recent call last):
        pipeline.errors.OptionError: gamma must be a finite number of 0 or more, got inf.
    """
    number = _to_number(value)
    if not minimum <= number <= min(maximum, sys.float_info.max):
        least = f"{minimum:g}"
        rule = f"a finite number of {least} or more" if math.isinf(maximum) else f"a number from {least} to {maximum:g}"
        raise _make_error(name, rule, value, advice)
    return number


def _make_error(name: str, rule: str, value: object, advice: str = "") -> OptionError:
    msg = f"{name} must be {rule}, got {value!r:.200}{advice and f'; {advice}'}."
    return OptionError(msg, **{name: value})


def _to_int(value: object) -> int | None:
    # bool is a subclass of int, but rows=True is a mistake.
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # A tensor or an array of fractions, or of several numbers.
        return None


def _to_number(value: object) -> float:
    """Return a number as an int or a float, and NaN, which no check accepts, for anything else."""
    # bool as in `_to_int`.
    if not isinstance(value, SupportsFloat) or isinstance(value, bool):
        return math.nan
    try:
        return int(value) if isinstance(value, int) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # A tensor or an array of several numbers.
        return math.nan


def check_choice(name: str, value: object, choices: tuple[str, ...], aliases: Mapping[str, str] | None = None) -> None:
    """Check an option that takes one of a few words. The error suggests a similar one.

    Args:
        name: the option.
        value: the word.
        choices: the words that exist.
        aliases: see `suggest_name`.

    Raises:
        OptionError: if it is not one of them.

    Example:
        >>> check_choice("reduction", "avg", ("mean", "sum"), {"avg": "mean"})
        Traceback (most recent call last):
        pipeline.errors.OptionError: reduction must be one of mean, sum, got 'avg'. Did you mean 'mean'?
    """
    if value not in choices:
        # A text, or what reads like one: a dtype of torch, a number.
        hint = suggest_name(str(value)[:100], choices, aliases)
        msg = f"{name} must be one of {', '.join(choices)}, got {value!r:.200}.{hint}"
        raise OptionError(msg, **{name: value})


def check_precision(value: object, choices: tuple[str, ...]) -> None:
    """Check an option that takes the precision of products, by torch's name for the type of the numbers.

    Raises:
        OptionError: if it is not one of them; it suggests one for the names that other libraries have.

    Example:
        >>> check_precision("bf16", ("float32", "bfloat16"))
        Traceback (most recent call last):
        pipeline.errors.OptionError: precision must be one of float32, bfloat16, got 'bf16'. Did you mean 'bfloat16'?
    """
    if value in choices:
        return
    plain = re.sub(r"[\W_]+", "", str(value)[:100]).lower()
    other = _OTHER_PRECISIONS.get(plain)
    if other is None and (isinstance(value, str) or _PRECISIONS.get(plain) not in choices):
        check_choice("precision", value, choices, _PRECISIONS)
        return
    if other is None:  # The right type itself, not its name.
        advice = f"pass the name {_PRECISIONS[plain]!r}"
    else:
        advice = f"{other[0]} is not offered, but {other[1]} is"
    msg = f"precision must be one of {', '.join(choices)}, got {value!r:.200}; {advice}."
    raise OptionError(msg, precision=value)


def check_path(name: str, value: object) -> None:
    """Check an option that takes a path.

    Raises:
        OptionError: if it is neither text nor a path object of text, or is empty.

    Example:
        >>> check_path("folder", None)
        Traceback (most recent call last):
        pipeline.errors.OptionError: folder must be a path, as text or a Path, got None.
    """
    if not _is_path(value):
        raise _make_error(name, "a path, as text or a Path", value)


def _is_path(value: object) -> bool:
    plain = os.fspath(cast("os.PathLike[str]", value)) if isinstance(value, os.PathLike) else value
    return isinstance(plain, str) and plain != "" and "\0" not in plain


def check_bool(name: str, value: object) -> None:
    """Check an option that is True or False: any other value, such as "no", would count as True.

    Raises:
        OptionError: if it is neither.
    """
    if not isinstance(value, bool):
        raise _make_error(name, "True or False", value)
