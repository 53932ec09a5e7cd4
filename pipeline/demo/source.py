"""Labelled lines of Python, from the source of the standard library that is installed: nothing to download."""

import random
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from pipeline.demo.lexical import classes_of
from pipeline.errors import PipelineError

LONGEST = 120
"""How many characters a line may have."""

_SHARE = 60
"""How many lines one file may give: few from many files, so that no author's style is most of the data."""

# Other people's code, tests, and what is there to be refused; `site-packages` lies inside the library's folder.
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}


class SourceError(PipelineError, LookupError):
    """The standard library's source is not on this machine, or has fewer lines than were asked for."""


@attrs.frozen
class Line:
    """A line of source, without its end.

    Attributes:
        text: its characters.
        classes: what each of them is: one of `lexical.CLASSES`.
        file: where it stands, as a path in the standard library.
        number: its number there, from 1.
    """

    text: str
    classes: Sequence[str]
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
    """Lines to learn from, and lines of other files to be asked about; every line's text occurs once in all.

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
            source = file.read()
        classes = classes_of(source)
    except (OSError, SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        return []
    name = path.relative_to(folder).as_posix()
    return [
        Line(text, names, name, number)
        for number, (text, names) in enumerate(zip(source.split("\n"), classes, strict=True), start=1)
        if text.strip() and len(text) <= LONGEST
    ]
