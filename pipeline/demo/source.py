"""Labelled lines of Python, from the source of the standard library that is installed: nothing to download."""

import random
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from pipeline.demo.lexical import Lexed, lexed
from pipeline.errors import PipelineError

KINDS = ("comment", "definition", "import", "statement", "text")
"""What a line may be; `text` is a line of a docstring, or of another string that stands by itself."""

LONGEST = 120
"""How many characters a line may have."""

_SHARE = 60
"""How many lines one file may give: some from many files, so that no author's style is most of the data."""

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "encodings", "pydoc_data"}
"""Folders of other people's code, of tests, which hold what no one writes, and of tables that programs wrote."""

_KIND_OF = {"import": "import", "from": "import", "def": "definition", "class": "definition", "async": "definition"}


class SourceError(PipelineError, LookupError):
    """The standard library's source is not on this machine, or has fewer lines than were asked for."""


@attrs.frozen
class Line:
    """A line of source, without its end.

    Attributes:
        text: its characters.
        classes: what each of them is: one of `lexical.CLASSES`.
        kind: what the line is: one of `KINDS`.
        inside: whether it begins inside a string that an earlier line opened, which the line itself does not show.
        file: where it stands, as a path in the standard library.
        number: its number there, from 1.
    """

    text: str
    classes: Sequence[str]
    kind: str
    inside: bool
    file: str
    number: int


def library() -> Path:
    """The folder of the standard library's source.

    Raises:
        SourceError: if there is none.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "tokenize.py").is_file():
        msg = (
            f"the demo learns from the standard library's source, but {folder} holds none; run it with a Python that "
            "keeps its library as .py files: one from python.org, a distribution, uv, pyenv or conda."
        )
        raise SourceError(msg, folder=str(folder))
    return folder


def split(folder: Path, training: int, held_out: int, seed: int) -> tuple[list[Line], list[Line]]:
    """Lines to learn from, and lines of other files to be asked about; no two in all have the same text.

    Args:
        folder: where the source files lie.
        training: how many lines to learn from.
        held_out: how many to be asked about.
        seed: what fixes which files and lines they are, for one version of Python.

    Raises:
        SourceError: if there are not as many lines.
    """
    draw = random.Random(seed)
    paths = sorted(path for path in folder.rglob("*.py") if not _SKIPPED.intersection(path.relative_to(folder).parts))
    draw.shuffle(paths)
    # One iterator for both: the second begins with the file after the first one's last.
    files = (_lines(path, folder) for path in paths)
    seen: set[str] = set()
    return _taken(files, training, seen, draw), _taken(files, held_out, seen, draw)


def kind_of(line: Lexed) -> str:
    r"""What a line that is not blank is, one of `KINDS`: its characters' classes and its first word say it.

    Example:
        >>> from pipeline.demo.lexical import lexed
        >>> [kind_of(line) for line in lexed("import os  # why?\nos.sep\n# that is why")]
        ['import', 'statement', 'comment']
    """
    classes = {*line.classes} - {"space"}
    if line.inside or classes == {"string"}:
        return "text"
    if classes == {"comment"}:
        return "comment"
    return "definition" if line.text.lstrip().startswith("@") else _KIND_OF.get(line.text.split()[0], "statement")


def labelled(source: str, file: str) -> list[Line]:
    """A source's lines that are not blank.

    Raises:
        SyntaxError: if the source does not tokenize.
        tokenize.TokenError: likewise.
    """
    return [
        Line(line.text, line.classes, kind_of(line), line.inside, file, number)
        for number, line in enumerate(lexed(source), start=1)
        if line.text.strip()
    ]


def _taken(files: Iterator[list[Line]], wanted: int, seen: set[str], draw: random.Random) -> list[Line]:
    """The first so many lines whose text was not seen yet, a share of each file."""
    lines: list[Line] = []
    while len(lines) < wanted:
        found = next(files, None)
        if found is None:
            msg = (
                f"{wanted:,} lines were asked for, but the standard library had only {len(lines):,} more to give; "
                "ask for fewer: --lines."
            )
            raise SourceError(msg, wanted=wanted, found=len(lines))
        draw.shuffle(found)
        fresh = [line for line in _distinct(found) if line.text not in seen][: min(_SHARE, wanted - len(lines))]
        seen.update(line.text for line in fresh)
        lines.extend(fresh)
    return lines


def _distinct(lines: Iterable[Line]) -> Iterable[Line]:
    return {line.text: line for line in lines}.values()


def _lines(path: Path, folder: Path) -> list[Line]:
    """A file's lines that are neither blank nor too long; none of a file that does not decode or tokenize."""
    try:
        with tokenize.open(path) as file:
            lines = labelled(file.read(), path.relative_to(folder).as_posix())
    except (OSError, SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        return []
    return [line for line in lines if len(line.text) <= LONGEST]
