"""Example files of each text format, with one malformed record of each kind; importable by spawned workers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.sources import Conllu, Csv, JsonLines, Source, TextFolder, TextLines

Make = Callable[..., Source[Any]]


def write(file: Path, content: bytes) -> Path:
    """Write a file, unless it has that content already."""
    file.parent.mkdir(exist_ok=True, parents=True)
    if not file.exists() or file.read_bytes() != content:
        file.write_bytes(content)
    return file


def write_word(number: object, form: str = "a", upos: str = "X", head: str = "0") -> str:
    """Return a line of CoNLL-U."""
    return f"{number}\t{form}\t_\t{upos}\t_\t_\t{head}\tdep\t_\t_\n"


def lines(folder: Path, **options: Any) -> Source[Any]:
    """Lines with the three line ends, one line that is not UTF-8 and one with a NUL."""
    content = b"one\n\xff\xfe\n\ntwo\xc2\x85\x0ctwo\rtwo\r\nth\0ree\nfour"
    return TextLines(write(folder / "a.txt", content), **options)


def table(folder: Path, **options: Any) -> Source[Any]:
    """Two columns, records of two lines, an empty target, and one malformed record of each kind."""
    content = b'text,label\n"a\nb",x\nc\n\n"d"e,y\n"\xe9",z\n"f ""g""",\n"h\r\n'
    return Csv(write(folder / "a.csv", content), target="label", **options)


def objects(folder: Path, **options: Any) -> Source[Any]:
    """JSON objects, and one malformed record of each kind."""
    content = (
        b'{"text": "a", "label": 1}\n{"text": "b"\n[]\n{"label": 1}\n{"text": 3, "label": 1}\n'
        b'\n{"text": "c", "label": [[1]]}\n{"text": "\\ud800", "label": 1}\n{"text": "d\xe2\x80\xa8", "label": null}'
    )
    return JsonLines(write(folder / "a.jsonl", content), target="label", **options)


def sentences(folder: Path, **options: Any) -> Source[Any]:
    """Sentences, and one malformed record of each kind."""
    content = (
        f"# sent_id = s1\n{write_word('1-2', 'im')}{write_word(1, 'in', 'ADP')}{write_word(2, 'dem', '_')}"
        f"{write_word('2.1')}\n1\ttoo few\n\n# sent_id = s3\n{write_word(1)}{write_word(3)}\n# alone\n\n\n"
        f"{write_word(1, 'b', 'VERB')}"
    )
    return Conllu(write(folder / "a.conllu", content.encode()), **options)


def files(folder: Path, **options: Any) -> Source[Any]:
    """Text files in subfolders, one of which is not UTF-8."""
    contents = {"b/1.txt": b"\xef\xbb\xbfone\n", "B/2.txt": b"two", "b/x.txt": b"\xff", "b/x.md": b""}
    for name, content in contents.items():
        write(folder / "texts" / name, content)
    return TextFolder(folder / "texts", target="folder", **options)


GOOD: dict[Make, list[tuple[object, object]]] = {
    lines: [("one", None), ("", None), ("two\x85\x0ctwo", None), ("two", None), ("four", None)],
    table: [("a\nb", "x"), ('f "g"', None)],
    objects: [("a", 1), ("d\u2028", None)],
    sentences: [(["in", "dem"], ["ADP", None]), (["b"], ["VERB"])],
    files: [("two", "B"), ("one\n", "b")],
}
"""Inputs and targets of the records that are not malformed."""

KINDS = {
    lines: {"encoding": 1, "nul": 1},
    table: {"fields": 1, "quote": 2, "encoding": 1},
    objects: {"json": 2, "missing": 1, "type": 2, "surrogate": 1},
    sentences: {"columns": 1, "ids": 1, "words": 1},
    files: {"encoding": 1},
}
"""Numbers of malformed records of each kind."""

FIRST_LINES = {
    lines: [2, 6],
    table: [4, 6, 7, 9],
    objects: [2, 3, 4, 5, 7, 8],
    sentences: [7, 9, 13],
    files: [1],
}
"""First lines of the malformed records."""
