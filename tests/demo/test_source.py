"""Characters and lines of Python source are labelled right, and training and held-out lines are separate."""

import sys
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

import pytest

from highlight.source import (
    CLASSES,
    MAX_LENGTH,
    SourceError,
    find_kind,
    find_library,
    label_lines,
    lex,
    split_lines,
)

LETTERS = {"keyword": "k", "name": "n", "string": "s", "number": "0", "comment": "#", "operator": "o", "space": "."}


def draw_classes(source: str) -> list[str]:
    """Return a letter for every character's class."""
    return ["".join(LETTERS[name] for name in line.classes) for line in lex(source)]


@pytest.mark.parametrize(
    ("source", "classes"),
    [
        ("if x: return None", ["kk.no.kkkkkk.kkkk"]),
        ("match case, type, _", ["nnnnn.nnnno.nnnno.n"]),
        ("0xFF_0+1e-3 -2j", ["000000o0000.o00"]),
        ("x = .5  # 1 'a'", ["n.o.00..#######"]),
        ("@a.b\nasync def f() -> int: ...", ["onon", "kkkkk.kkk.noo.oo.nnno.ooo"]),
        ("x = \\\n    1", ["n.o..", "....0"]),
        ("if x:\n\ty", ["kk.no", ".n"]),
        ("naïve = 'é' + ñ", ["nnnnn.o.sss.o.n"]),
        ("rb'\\'' b''", ["ssssss.sss"]),
        ("'a' 'b'", ["sss.sss"]),
        ('x = """a\n b\n\nc d""" + y', ["n.o.ssss", "ss", "", "ssssss.o.n"]),
        ("x\x0c= 'a\u2028b'", ["n.o.sssss"]),
        ("", [""]),
    ],
    ids=ascii,
)
def test_a_character_has_the_class_of_its_token(source: str, classes: list[str]) -> None:
    """Keywords are not names. Characters of no token are space, the backslash of a continuation included."""
    assert draw_classes(source) == classes


@pytest.mark.parametrize(
    ("source", "classes"),
    [
        ("f'{a!r:>{w}} {{' + g", ["ssssssssssssssss.o.n"]),
        ("x = rf\"{f'{y}' if z else 1}\"; w", ["n.o." + "s" * 24 + "o.n"]),
        ("f'''a{\n x # no comment\n}''' 'b'", ["s" * 6, "s" * 15, "ssss.sss"]),
        ("f'{x:{y}}' f''", ["ssssssssss.sss"]),
        ("f'é{ñ}é' + x", ["ssssssss.o.n"]),
    ],
    ids=ascii,
)
def test_an_f_string_is_one_string_whatever_its_braces_hold(source: str, classes: list[str]) -> None:
    """As before Python 3.12, where it is one token."""
    if "# no" in source and sys.version_info < (3, 12):
        pytest.skip("comments in the braces came with 3.12")
    assert draw_classes(source) == classes


@pytest.mark.skipif(sys.version_info < (3, 14), reason="template strings came with 3.14")
def test_a_template_string_is_one_string_too() -> None:
    """Python splits it into several tokens, as an f-string."""
    assert draw_classes("t'{a}' + x") == ["ssssss.o.n"]


def test_a_line_is_inside_if_it_begins_within_a_string() -> None:
    """The line that opens the string is not; the one that closes it is, even if code follows."""
    lines = lex('x = """a\n b\nc""" + y\nf"""{\nz}"""\nw')
    assert [line.inside for line in lines] == [False, True, True, False, True, False]
    assert [line.text for line in lines] == ['x = """a', " b", 'c""" + y', 'f"""{', 'z}"""', "w"]


def test_a_bracket_over_several_lines_is_no_string() -> None:
    """Only a string makes a line begin inside."""
    assert not any(line.inside for line in lex("f(\n  x,\n)"))


@pytest.mark.parametrize("source", ['"""open', "'open", "x = $", "a ? b", "if x:\n   y\n  z", "f'{x"], ids=ascii)
def test_a_source_that_does_not_tokenize_is_rejected(source: str) -> None:
    """In every version of Python, even if its tokenizer accepts it."""
    with pytest.raises((SyntaxError, tokenize.TokenError)):
        lex(source)


def test_every_class_has_a_letter_here() -> None:
    """The tests above cover all classes."""
    assert set(LETTERS) == set(CLASSES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A library of thirty files of four lines, two of which are the same in every file."""
    for number in range(30):
        (tmp_path / f"part{number}.py").write_text(
            f"import os\n\nx{number} = {number}\n    \ny{number} = 'y'\nos.sep\n"
        )
    return tmp_path


def test_no_file_and_no_line_is_in_both_parts(folder: Path) -> None:
    """Held-out files and held-out lines are not in the training data."""
    training, held_out = split_lines(folder, 30, 20, seed=0)
    assert (len(training), len(held_out)) == (30, 20)
    assert not {line.file for line in training} & {line.file for line in held_out}
    texts = [line.text for line in [*training, *held_out]]
    assert len(set(texts)) == len(texts) == 50


def test_the_seed_fixes_the_lines(folder: Path) -> None:
    """Equal seeds give equal lines; another seed gives others."""
    assert (
        split_lines(folder, 20, 10, seed=3)
        == split_lines(folder, 20, 10, seed=3)
        != split_lines(folder, 20, 10, seed=4)
    )


def test_a_line_has_its_position_and_kind(folder: Path) -> None:
    """Blank lines are left out, but count for the numbers."""
    training, _ = split_lines(folder, 62, 0, seed=0)
    found = next(line for line in training if line.text == "y7 = 'y'")
    assert (found.file, found.number, found.kind, found.inside) == ("part7.py", 5, "statement", False)
    assert found.classes == ["name", "name", "space", "operator", "space", "string", "string", "string"]


def test_files_are_taken_in_random_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither their names nor the file system's order decide which are held out."""
    names = [{line.file for line in split_lines(folder, 10, 0, seed)[0]} for seed in range(3)]
    assert not names[0] == names[1] == names[2]
    before, glob = split_lines(folder, 20, 10, seed=0), Path.rglob

    def backwards(self: Path, pattern: str) -> list[Path]:
        return [*glob(self, pattern)][::-1]

    monkeypatch.setattr(Path, "rglob", backwards)
    assert split_lines(folder, 20, 10, seed=0) == before


def test_lines_per_file_are_limited(tmp_path: Path) -> None:
    """A long file does not crowd out the others."""
    for name in "ab":
        (tmp_path / f"{name}.py").write_text("".join(f"{name} = {number}\n" for number in range(500)))
    training, _ = split_lines(tmp_path, 120, 0, seed=0)
    assert Counter(line.file for line in training) == {"a.py": 60, "b.py": 60}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("test/one.py", b"x = 1\n"),
        ("site-packages/theirs/one.py", b"x = 1\n"),
        ("latin.py", b"\n\n\nx = '\xe9'\n"),
        ("cookie.py", b"# coding: no-such\nx = 1\n"),
        ("open.py", b"x = '''\n"),
        ("long.py", b"x" * (MAX_LENGTH + 1)),
        ("blank.py", b"\n  \n\t\n\x0c\n"),
        ("notes.txt", b"x = 1\n"),
    ],
)
def test_some_files_give_no_lines(tmp_path: Path, name: str, content: bytes) -> None:
    """Tests, other people's packages, undecodable and invalid files, lines that are too long or blank."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match="only 0 more") as raised:
        split_lines(tmp_path, 1, 0, seed=0)
    assert raised.value.details == {"wanted": 1, "found": 0}


def test_folder_names_above_the_library_are_ignored(tmp_path: Path) -> None:
    """Only names below the library's own folder matter."""
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "one.py").write_text("x = 1\n")
    assert len(split_lines(tmp_path / "test", 1, 0, seed=0)[0]) == 1


def test_a_python_without_its_source_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some distributions ship the library as a zip file or as bytecode."""

    def path(_: str) -> str:
        return str(tmp_path)

    monkeypatch.setattr(sysconfig, "get_path", path)
    with pytest.raises(SourceError, match=r"has none; use a Python that keeps"):
        find_library()


def test_this_python_has_its_source() -> None:
    """The demo runs where the tests run."""
    assert label_lines((find_library() / "keyword.py").read_text(), "keyword.py")[-1].kind == "statement"


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
    """It depends on the classes of the line's characters and on its first word."""
    if source.startswith(("  #", "@")):
        source += "\n"
    assert [find_kind(line) for line in lex(source) if line.text] == kinds
