"""Names of options in messages: those of the command line instead of those of Python."""

import argparse
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

_ALIASES: Final[Mapping[str, str]] = {"fraction": "split", "p": "dropout"}
"""Arguments that a command passes on under another name."""

_POSITIONAL: Final = frozenset({"file", "folder", "name", "prompts"})

PHRASES: Final[Sequence[tuple[str, str, str]]] = (
    ("checkpoints", "checkpoints=folder", "--checkpoints FOLDER"),
    ("column", "column=...", "--column NAME"),
    ("valid", "valid=examples", "--valid FILE"),
    ("restart", "resume=False (--restart on the command line)", "--restart"),
    ("restart", "resume=False", "--restart"),
    (
        "on_bad_record",
        'read with on_bad_record="skip" or with a function that returns a replacement',
        "leave such records out with --on-bad-record skip",
    ),
    ("encoding", "write one, or say header=False", "write one"),
    ("split", "take another fraction or more records", "change --split, add rows, or pass --valid FILE"),
    ("target", "pass inputs as Example(input, target=...)", "name their column with --target"),
    ("num_beams", "or draw with do_sample=True", "or draw, with a --temperature above 0 and without --num-beams"),
    (
        "max_length",
        'leave the row out, or choose what happens to long rows: too_long="alone", "truncate" or "split"',
        "cut texts with --max-length, or leave the row out",
    ),
    ("too_long", 'too_long="alone", "truncate" or "split"', "--too-long alone, truncate or split"),
)
"""An option of the command, what messages say for Python, and what they say if the command has the option."""

_VALUE: Final = re.compile(r"(?<![\w(.'\"/\\-])(?<!, )(\w+)=(['\"]?)(?P<value>[\w.-]*\w)\2")
"""A name with its value; not within a path, or the description of an object, such as Rows(rows=8, longest=3)."""

_RAISE: Final = re.compile(r"(?<=\braise )(\w+)(?P<value>)\b")
"""A name in advice."""


def translate_option_names(message: str, options: argparse.Namespace) -> str:
    """Return the message of an error with options as on the command line; names that are no options stay.

    Args:
        message: the message for Python.
        options: the options of the command.

    Example:
        >>> options = argparse.Namespace(dropout=2.0, form="step", max_length=3)
        >>> translate_option_names("p must be a probability, 0 <= p < 1, got 2.0.", options)
        '--dropout must be a probability, 0 <= P < 1, got 2.0.'
        >>> translate_option_names("this is for rows of Ids; use form='rows'.", options)
        'this is for rows of Ids; use --form rows.'
        >>> translate_option_names("/data/form=rows/a.csv cannot be read.", options)
        '/data/form=rows/a.csv cannot be read.'
    """
    for option, phrase, instead in PHRASES:
        if option in options:
            message = message.replace(phrase, instead)
    subject, _, rest = message.partition(" ")
    if rest.startswith(("must ", "needs ", "is ", "changes ")) and (flag := _find_flag(subject, options)):
        message = f"{flag} {rest}".replace(f"<= {subject} <", "<= P <")
    for pattern in (_VALUE, _RAISE):
        message = pattern.sub(partial(_replace, options), message)
    return message


def _find_flag(name: str, options: argparse.Namespace) -> str | None:
    """Return the option of the command for an argument in Python; None if there is none."""
    name = _ALIASES.get(name, name)
    return f"--{name.replace('_', '-')}" if name in options and name not in _POSITIONAL else None


def _replace(options: argparse.Namespace, found: re.Match[str]) -> str:
    flag = _find_flag(found[1], options)
    return found[0] if flag is None else f"{flag} {found['value']}".rstrip()
