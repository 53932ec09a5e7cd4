"""Limits of a service: how long requests are gathered, and how large a request may be."""

import math
from typing import Final, TypedDict, final

import attrs

from pipeline.checks.options import check_int
from pipeline.errors import OptionError

_MIB: Final = 2**20


class ServeOptions(TypedDict, total=False):
    """The options of a service, which `Limits` describes."""

    max_delay_ms: float
    max_rows: int
    max_inputs: int
    max_length: int
    max_body: int
    max_queue: int
    body_timeout: float


def _check_positive(_: object, attribute: "attrs.Attribute[int]", value: int) -> None:
    check_int(attribute.name, value, minimum=1)


def _check_duration(_: object, attribute: "attrs.Attribute[float]", value: object) -> None:
    # bool is a subclass of int.
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        msg = f"{attribute.name} must be a number of at least 0, got {value!r}."
        raise OptionError(msg, **{attribute.name: value})


@final
@attrs.frozen(kw_only=True)
class Limits:
    """Limits of a service.

    Attributes:
        max_delay_ms: the longest time in milliseconds for which a request waits for others, to be predicted together. A
            request never waits while no other one is there.
        max_rows: the number of inputs from which gathered requests do not wait any longer. The pipe's own `Bucket` puts
            them into batches.
        max_inputs: the largest number of inputs of one request.
        max_length: the largest length of one input: the characters of a text, the entries of a list.
        max_body: the largest size of a request in bytes.
        max_queue: the number of inputs that may wait; requests beyond it are answered with status 503.
        body_timeout: the time in seconds in which a client must have sent its whole request.

    Raises:
        OptionError: if an option is out of range.
    """

    max_delay_ms: float = attrs.field(default=5.0, validator=_check_duration)
    max_rows: int = attrs.field(default=64, validator=_check_positive)
    max_inputs: int = attrs.field(default=256, validator=_check_positive)
    max_length: int = attrs.field(default=10_000, validator=_check_positive)
    max_body: int = attrs.field(default=_MIB, validator=_check_positive)
    max_queue: int = attrs.field(default=1_024, validator=_check_positive)
    body_timeout: float = attrs.field(default=10.0, validator=_check_duration)
