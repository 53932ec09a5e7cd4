"""What each character of Python source is, by the `tokenize` module of the Python that runs.

One scheme for Python 3.11 to 3.14. From 3.12 on an f-string comes in pieces, and so do the template strings of 3.14;
here, as in 3.11, each is one string from its prefix to its last quote, whatever its braces hold. What tells
keywords from names is `keyword.iskeyword`: `match`, `case`, `type` and `_` are names.
"""

import io
import keyword
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

CLASSES = ("keyword", "name", "string", "number", "comment", "operator", "space")
"""What a character may be."""

_CLASS_OF = {"NAME": "name", "STRING": "string", "NUMBER": "number", "COMMENT": "comment", "OP": "operator"}


class Lexed(NamedTuple):
    """A line of source, without its end.

    Attributes:
        text: its characters.
        classes: what each of them is, one of `CLASSES`.
        inside: whether it begins inside a string that an earlier line opened.
    """

    text: str
    classes: list[str]
    inside: bool


def lexed(source: str) -> list[Lexed]:
    r"""Every line of a source whose lines end with "\n", with a class for each character.

    What no token covers is space: blanks, indentation, and the backslash that continues a line.

    Raises:
        SyntaxError: if the source does not tokenize (`IndentationError` is one).
        tokenize.TokenError: likewise.

    Example:
        >>> lexed("x = 1")
        [Lexed(text='x = 1', classes=['name', 'space', 'operator', 'space', 'number'], inside=False)]
    """
    texts = source.split("\n")
    classes = [["space"] * len(text) for text in texts]
    inside: set[int] = set()
    for name, (first, start), (last, end) in _spans(source):
        inside.update(range(first + 1, last + 1))
        for number in range(first, last + 1):
            line = classes[number - 1]
            covered = slice(start if number == first else 0, end if number == last else len(line))
            line[covered] = [name] * len(line[covered])
    return [Lexed(text, classes[index], index + 1 in inside) for index, text in enumerate(texts)]


def _spans(source: str) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    """Each token that has a class: the class, and where it starts and ends as line and column."""
    depth, opened = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        # What is no token at all (`$`, `?`) is an error token before 3.12, and afterwards an operator without a name.
        if kind == "ERRORTOKEN" or token.exact_type == tokenize.OP:
            msg = f"{token.string!r} is no token"
            raise tokenize.TokenError(msg, token.start)
        if kind.endswith("STRING_START"):
            opened = opened if depth else token.start
            depth += 1
        elif kind.endswith("STRING_END"):
            depth -= 1
            if not depth:
                yield "string", opened, token.end
        elif not depth and kind in _CLASS_OF:
            yield "keyword" if keyword.iskeyword(token.string) else _CLASS_OF[kind], token.start, token.end
