"""Lines to learn from and lines to be asked about come from different files, and say truly what they are."""

import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from pipeline.demo.lexical import lexed
from pipeline.demo.source import LONGEST, SourceError, kind_of, labelled, library, split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A library of thirty files of four lines, two of which stand in every file."""
    for number in range(30):
        (tmp_path / f"part{number}.py").write_text(
            f"import os\n\nx{number} = {number}\n    \ny{number} = 'y'\nos.sep\n"
        )
    return tmp_path


def test_no_file_and_no_line_is_in_both_parts(folder: Path) -> None:
    """The model is asked about files that it never saw, and about lines that it never saw."""
    training, held_out = split(folder, 30, 20, seed=0)
    assert (len(training), len(held_out)) == (30, 20)
    assert not {line.file for line in training} & {line.file for line in held_out}
    texts = [line.text for line in [*training, *held_out]]
    assert len(set(texts)) == len(texts) == 50


def test_the_seed_fixes_the_lines(folder: Path) -> None:
    """Equal seeds give equal lines, and another seed others."""
    assert split(folder, 20, 10, seed=3) == split(folder, 20, 10, seed=3) != split(folder, 20, 10, seed=4)


def test_a_line_says_where_it_stands_and_what_it_is(folder: Path) -> None:
    """Blank lines are left out, but counted."""
    training, _ = split(folder, 62, 0, seed=0)
    found = next(line for line in training if line.text == "y7 = 'y'")
    assert (found.file, found.number, found.kind, found.inside) == ("part7.py", 5, "statement", False)
    assert found.classes == ["name", "name", "space", "operator", "space", "string", "string", "string"]


def test_files_come_by_lot_not_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the alphabet nor the order in which the file system lists them decides which are held out."""
    names = [{line.file for line in split(folder, 10, 0, seed)[0]} for seed in range(3)]
    assert not names[0] == names[1] == names[2]
    before, glob = split(folder, 20, 10, seed=0), Path.rglob

    def backwards(self: Path, pattern: str) -> list[Path]:
        return [*glob(self, pattern)][::-1]

    monkeypatch.setattr(Path, "rglob", backwards)
    assert split(folder, 20, 10, seed=0) == before


def test_no_file_gives_more_than_its_share(tmp_path: Path) -> None:
    """However long a file is, others have their say."""
    for name in "ab":
        (tmp_path / f"{name}.py").write_text("".join(f"{name} = {number}\n" for number in range(500)))
    training, _ = split(tmp_path, 120, 0, seed=0)
    assert Counter(line.file for line in training) == {"a.py": 60, "b.py": 60}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("test/one.py", b"x = 1\n"),
        ("site-packages/theirs/one.py", b"x = 1\n"),
        ("latin.py", b"\n\n\nx = '\xe9'\n"),
        ("cookie.py", b"# coding: no-such\nx = 1\n"),
        ("open.py", b"x = '''\n"),
        ("long.py", b"x" * (LONGEST + 1)),
        ("blank.py", b"\n  \n\t\n\x0c\n"),
        ("notes.txt", b"x = 1\n"),
    ],
)
def test_some_files_give_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    """Tests, other people's packages, what does not decode or tokenize, lines that are too long or blank."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match="only 0 more") as raised:
        split(tmp_path, 1, 0, seed=0)
    assert raised.value.details == {"wanted": 1, "found": 0}


def test_a_folder_above_the_library_is_not_held_against_it(tmp_path: Path) -> None:
    """Only names below the library's own folder say whose code it is."""
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "one.py").write_text("x = 1\n")
    assert len(split(tmp_path / "test", 1, 0, seed=0)[0]) == 1


def test_a_python_without_its_source_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some ship their library as a zip, or as bytecode."""

    def path(_: str) -> str:
        return str(tmp_path)

    monkeypatch.setattr(sysconfig, "get_path", path)
    with pytest.raises(SourceError, match=r"holds none; run it with a Python that keeps"):
        library()


def test_this_python_has_its_source() -> None:
    """Where the other tests run, the demo does."""
    assert labelled((library() / "keyword.py").read_text(), "keyword.py")[-1].kind == "statement"


@pytest.mark.parametrize(
    ("source", "kinds"),
    [
        ("import os", ["import"]),
        ("from a import (\n  b)", ["import", "statement"]),
        ("def f(): pass", ["definition"]),
        ("class A:\n  async def f(self): pass", ["definition", "definition"]),
        ("@f", ["definition"]),
        ("  # import os", ["comment"]),
        ("x = 1  # why", ["statement"]),
        ("imports = 1", ["statement"]),
        ('"""import\nfrom it\n"""', ["text", "text", "text"]),
        ('x = """import\nfrom it""" + y', ["statement", "text"]),
    ],
    ids=ascii,
)
def test_the_kind_of_a_line(source: str, kinds: list[str]) -> None:
    """It follows from the classes of the line's characters, and from its first word."""
    if source.startswith(("  #", "@")):
        source += "\n"
    assert [kind_of(line) for line in lexed(source) if line.text] == kinds
