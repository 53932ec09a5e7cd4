"""Labelled lines of Python, from the source of the standard library that is installed.

The module `tokenize` of the running Python classifies each character, with one scheme for Python 3.11 to 3.14. From
3.12 on, an f-string is split into several tokens, and so are the template strings of 3.14. Here each is one string
from its prefix to its last quote, as in 3.11. Keywords are those of `keyword.iskeyword`: `match`, `case`, `type` and
`_` are names.
"""

import io
import keyword
import random
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import attrs

from pipeline.errors import PipelineError

CLASSES = ("keyword", "name", "string", "number", "comment", "operator", "space")
"""The classes of characters."""

KINDS = ("comment", "definition", "import", "statement", "text")
"""The kinds of lines; `text` is a line of a docstring, or of another string that stands by itself."""

MAX_LENGTH = 120
"""Longer lines are left out."""

# A limit per file, so that the lines come from many files and no author's style dominates.
_LINES_PER_FILE = 60

# Folders of other people's code, of tests (whose code is unusual), and of tables that programs wrote.
_SKIPPED_FOLDERS = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "lib2to3",
    "encodings",
    "pydoc_data",
}

_CLASS_OF_TOKEN = {"NAME": "name", "STRING": "string", "NUMBER": "number", "COMMENT": "comment", "OP": "operator"}
_KIND_OF_WORD = {
    "import": "import",
    "from": "import",
    "def": "definition",
    "class": "definition",
    "async": "definition",
}


class SourceError(PipelineError, LookupError):
    """The standard library's source is missing, or has too few lines."""


class LexedLine(NamedTuple):
    """A line of source, without its line end.

    Attributes:
        text: its characters.
        classes: the class of each, one of `CLASSES`.
        inside: True if the line begins inside a string that an earlier line opened.
    """

    text: str
    classes: list[str]
    inside: bool


@attrs.frozen
class Line:
    """A labelled line of source, without its line end.

    Attributes:
        text: its characters.
        classes: the class of each, one of `CLASSES`.
        kind: the kind of the line, one of `KINDS`.
        inside: True if the line begins inside a string that an earlier line opened. The line itself does not show it.
        file: the file, as a path in the standard library.
        number: the line's number in the file, from 1.
    """

    text: str
    classes: Sequence[str]
    kind: str
    inside: bool
    file: str
    number: int


def lex(source: str) -> list[LexedLine]:
    r"""Classify each character of a source whose lines end with "\n".

    Characters of no token are `space`: blanks, indentation, and the backslash that continues a line.

    Raises:
        SyntaxError: if the source does not tokenize (`IndentationError` is one).
        tokenize.TokenError: likewise.

    Example:
        >>> lex("x = 1")
        [LexedLine(text='x = 1', classes=['name', 'space', 'operator', 'space', 'number'], inside=False)]
    """
    texts = source.split("\n")
    classes = [["space"] * len(text) for text in texts]
    inside: set[int] = set()
    for name, (first, start), (last, end) in _find_spans(source):
        inside.update(range(first + 1, last + 1))
        for number in range(first, last + 1):
            line = classes[number - 1]
            covered = slice(start if number == first else 0, end if number == last else len(line))
            line[covered] = [name] * len(line[covered])
    return [LexedLine(text, classes[index], index + 1 in inside) for index, text in enumerate(texts)]


def _find_spans(source: str) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    """Yield the class, start and end of each token that has a class; positions are (line, column)."""
    depth, opened = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        # An invalid character (`$`, `?`) is an error token before 3.12, and an operator without a name since.
        if kind == "ERRORTOKEN" or token.exact_type == tokenize.OP:
            msg = f"{token.string!r} is not a token"
            raise tokenize.TokenError(msg, token.start)
        # F-strings nest. Only the outermost pair of start and end delimits a string.
        if kind.endswith("STRING_START"):
            opened = opened if depth else token.start
            depth += 1
        elif kind.endswith("STRING_END"):
            depth -= 1
            if not depth:
                yield "string", opened, token.end
        elif not depth and kind in _CLASS_OF_TOKEN:
            yield "keyword" if keyword.iskeyword(token.string) else _CLASS_OF_TOKEN[kind], token.start, token.end


def find_kind(line: LexedLine) -> str:
    r"""Derive the kind of a line that is not blank from its characters' classes and its first word.

    Example:
        >>> [find_kind(line) for line in lex("import os  # why?\nos.sep\n# that is why")]
        ['import', 'statement', 'comment']
    """
    classes = {*line.classes} - {"space"}
    if line.inside or classes == {"string"}:
        return "text"
    if classes == {"comment"}:
        return "comment"
    return "definition" if line.text.lstrip().startswith("@") else _KIND_OF_WORD.get(line.text.split()[0], "statement")


def label_lines(source: str, file: str) -> list[Line]:
    """Label a source's lines, except blank ones.

    Raises:
        SyntaxError: if the source does not tokenize.
        tokenize.TokenError: likewise.
    """
    return [
        Line(line.text, line.classes, find_kind(line), line.inside, file, number)
        for number, line in enumerate(lex(source), start=1)
        if line.text.strip()
    ]


def find_library() -> Path:
    """Return the folder of the standard library's source.

    Raises:
        SourceError: if the source is not installed.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "tokenize.py").is_file():
        msg = (
            f"the demo learns from the standard library's source, but {folder} has none; use a Python that keeps its "
            "library as .py files: one from python.org, a Linux distribution, uv, pyenv or conda."
        )
        raise SourceError(msg, folder=str(folder))
    return folder


def split_lines(folder: Path, training: int, held_out: int, seed: int) -> tuple[list[Line], list[Line]]:
    """Pick training lines, and held-out lines of other files. No two of all these lines have the same text.

    Args:
        folder: the folder of the source files.
        training: the number of training lines.
        held_out: the number of held-out lines.
        seed: fixes the choice of files and lines, for one version of Python.

    Raises:
        SourceError: if there are too few lines.
    """
    rng = random.Random(seed)
    paths = sorted(
        path for path in folder.rglob("*.py") if not _SKIPPED_FOLDERS.intersection(path.relative_to(folder).parts)
    )
    rng.shuffle(paths)
    # Both parts take files from one iterator, so that no file gives lines to both.
    files = (_read_lines(path, folder) for path in paths)
    seen: set[str] = set()
    return _take_lines(files, training, seen, rng), _take_lines(files, held_out, seen, rng)


def _take_lines(files: Iterator[list[Line]], wanted: int, seen: set[str], rng: random.Random) -> list[Line]:
    """Take the wanted number of lines that were not seen before, at most `_LINES_PER_FILE` of each file."""
    lines: list[Line] = []
    while len(lines) < wanted:
        found = next(files, None)
        if found is None:
            msg = (
                f"{wanted:,} lines were requested, but the standard library has only {len(lines):,} more; "
                "request fewer with --lines."
            )
            raise SourceError(msg, wanted=wanted, found=len(lines))
        rng.shuffle(found)
        fresh = [line for line in _drop_duplicates(found) if line.text not in seen]
        fresh = fresh[: min(_LINES_PER_FILE, wanted - len(lines))]
        seen.update(line.text for line in fresh)
        lines.extend(fresh)
    return lines


def _drop_duplicates(lines: Iterable[Line]) -> Iterable[Line]:
    return {line.text: line for line in lines}.values()


def _read_lines(path: Path, folder: Path) -> list[Line]:
    """Read a file's lines that are neither blank nor too long; a file that does not decode or tokenize has none."""
    try:
        with tokenize.open(path) as file:
            lines = label_lines(file.read(), path.relative_to(folder).as_posix())
    except (OSError, SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        return []
    return [line for line in lines if len(line.text) <= MAX_LENGTH]
