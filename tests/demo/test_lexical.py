"""What a character of Python source is does not hang on the version of Python that says so."""

import sys
import tokenize

import pytest

from pipeline.demo.lexical import CLASSES, lexed

LETTERS = {"keyword": "k", "name": "n", "string": "s", "number": "0", "comment": "#", "operator": "o", "space": "."}


def drawn(source: str) -> list[str]:
    """A letter for every character's class."""
    return ["".join(LETTERS[name] for name in line.classes) for line in lexed(source)]


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
    """Keywords and names are told apart, and what no token covers is space, a continuation's backslash too."""
    assert drawn(source) == classes


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
    """As before Python 3.12, where one token held all of it."""
    if "# no" in source and sys.version_info < (3, 12):
        pytest.skip("comments in the braces came with 3.12")
    assert drawn(source) == classes


@pytest.mark.skipif(sys.version_info < (3, 14), reason="template strings came with 3.14")
def test_a_template_string_is_one_string_too() -> None:
    """It comes in pieces as an f-string does."""
    assert drawn("t'{a}' + x") == ["ssssss.o.n"]


def test_a_line_is_inside_if_it_begins_within_a_string() -> None:
    """The line that opens the string is not, and the one that closes it is, even if code goes on there."""
    lines = lexed('x = """a\n b\nc""" + y\nf"""{\nz}"""\nw')
    assert [line.inside for line in lines] == [False, True, True, False, True, False]
    assert [line.text for line in lines] == ['x = """a', " b", 'c""" + y', 'f"""{', 'z}"""', "w"]


def test_a_bracket_over_several_lines_is_no_string() -> None:
    """Only strings have an inside."""
    assert not any(line.inside for line in lexed("f(\n  x,\n)"))


@pytest.mark.parametrize("source", ['"""open', "'open", "x = $", "a ? b", "if x:\n   y\n  z", "f'{x"], ids=ascii)
def test_a_source_that_does_not_tokenize_is_refused(source: str) -> None:
    """In every version of Python, also where its tokenizer would go on."""
    with pytest.raises((SyntaxError, tokenize.TokenError)):
        lexed(source)


def test_every_class_has_a_letter_here() -> None:
    """The tests above speak of all classes."""
    assert set(LETTERS) == set(CLASSES)
