"""Which tag may follow which."""

import pytest

from pipeline.errors import OptionError
from pipeline_heads import CRF
from pipeline_heads.constraints import make_allowed
from support.untyped import as_any, to_list

BIO = ["O", "B-x", "I-x", "B-y", "I-y"]
BIOES = ["O", "B-x", "I-x", "E-x", "S-x", "E-y"]


def list_allowed(names: list[str], before: str | None, scheme: str) -> set[str | None]:
    """Return what may follow a tag, or the start."""
    assert scheme in {"bio", "bioes"}
    allowed = make_allowed(names, "bio" if scheme == "bio" else "bioes")
    row = allowed[-1 if before is None else names.index(before)]
    return {name for name, may in zip([*names, None], to_list(row), strict=True) if may}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, {"O", "B-x", "B-y", None}),
        ("O", {"O", "B-x", "B-y", None}),
        ("B-x", {"O", "B-x", "I-x", "B-y", None}),
        ("I-x", {"O", "B-x", "I-x", "B-y", None}),
    ],
)
def test_bio_lets_a_span_continue_with_its_own_type(before: str | None, after: set[str | None]) -> None:
    """And begin with B."""
    assert list_allowed(BIO, before, "bio") == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, {"O", "B-x", "S-x", None}),
        ("O", {"O", "B-x", "S-x", None}),
        ("B-x", {"I-x", "E-x"}),
        ("I-x", {"I-x", "E-x"}),
        ("E-x", {"O", "B-x", "S-x", None}),
        ("S-x", {"O", "B-x", "S-x", None}),
    ],
)
def test_bioes_lets_a_span_end_with_its_own_type(before: str | None, after: set[str | None]) -> None:
    """No row ends within a span."""
    assert list_allowed(BIOES, before, "bioes") == after


def test_bilou_has_the_rules_of_bioes() -> None:
    """L ends a span, and U is a single step."""
    bilou = [name.replace("E-", "L-").replace("S-", "U-") for name in BIOES]
    assert make_allowed(bilou, "bioes").equal(make_allowed(BIOES, "bioes"))


def test_pairs_may_be_forbidden_too() -> None:
    """By name or id, and at both ends of a row."""
    allowed = make_allowed(["a", "b"], None, [("a", "b"), (None, "b"), ("a", None)])
    assert to_list(allowed.int()) == [[1, 0, 0], [1, 1, 1], [1, 0, 1]]
    for names in (range(2), ["a", "b"]):
        assert to_list(make_allowed(names, None, [(0, 1)]).int()) == [[1, 0, 1], [1, 1, 1], [1, 1, 1]]


def test_some_class_begins_and_ends_a_row() -> None:
    """Else each loss would be NaN."""
    with pytest.raises(OptionError, match="one class or more must be allowed to begin a row, got none"):
        make_allowed(["I-x"], "bio")
    with pytest.raises(OptionError, match="one class or more must be allowed to end a row, got none"):
        make_allowed(["a", "b"], None, [("a", None), ("b", None)])


def test_errors_say_what_to_change() -> None:
    """Names of another kind, another scheme, pairs of unknown classes."""
    with pytest.raises(OptionError, match=r"needs the tags of spans .* pass constraints=None"):
        make_allowed(["NOUN", "VERB"], "bio")
    with pytest.raises(OptionError, match=r"has no tag 'E-x'; pass constraints=\"bioes\""):
        make_allowed(BIOES, "bio")
    with pytest.raises(OptionError, match="must be one of bio, bioes, or None, got 'iob'"):
        make_allowed(BIO, as_any("iob"))
    with pytest.raises(OptionError, match="got \\('O', 'B-z'\\)"):
        make_allowed(BIO, None, [("O", "B-z")])
    with pytest.raises(OptionError, match="must have pairs"):
        make_allowed(BIO, None, as_any(["O"]))
    with pytest.raises(OptionError, match="forbidden must have pairs of classes, got None; leave it out"):
        as_any(CRF)(2, forbidden=None)
