"""Types of inputs and predictions are compared with those of the manifest."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pipeline import Joint, MultiLabelScores, Scores, SpellWords, StepScores, Values, load
from pipeline.errors import LoadError, OptionError
from pipeline.saving.saved_types import check_types, describe_inputs, describe_pipe
from support.saved import PIPES, Event, Verdict
from support.untyped import untyped

TYPES: dict[str, tuple[list[str], str]] = {
    "classifier": (["str"], "str"),
    "tagger": (["list[str]"], "list[str]"),
    "language model": (["str"], "list[int]"),
    "matcher": (["tuple[str, str]"], "str"),
    "events": (["dict[str, object]"], "Verdict"),
    "spelling": (["list[str]"], "MultiLabelScores[str]"),
    "sensors": (["Tensor", "list[list[float]]", "list[float]"], "list[float]"),
    "numbered": (["list[int]", "Tensor"], "tuple[int, list[int]]"),
}


@pytest.mark.parametrize("name", PIPES)
def test_the_types_of_a_pipe_are_described(name: str) -> None:
    """Those that its predictions have."""
    assert describe_pipe(PIPES[name][0]().stages) == TYPES[name]


def test_words_with_characters_are_lists_of_words() -> None:
    """Like words alone."""
    assert describe_inputs(SpellWords.train([["a"]])) == ["list[str]"]


@pytest.mark.parametrize(
    ("takes", "gives", "saved"),
    [
        (str, str, (["str"], "str")),
        (str, Scores[str], (["str"], "str")),
        (Sequence[str], list[str], (["list[str]"], "list[str]")),
        (list[str], StepScores[str], (["list[str]"], "list[str]")),
        (tuple[str, str], int, (["tuple[str, str]"], "int")),
        (Mapping[str, object], Verdict, (["dict[str, object]"], "Verdict")),
        (dict[str, str], Joint[Verdict, tuple[str, float]], (["dict[str, object]"], "Verdict")),
        (Event, MultiLabelScores[str], (["Event"], "MultiLabelScores[str]")),
        (list[int], Values[float], (["list[int]", "Tensor"], "float")),
        (list[int], tuple[str, float], (["list[int]"], "tuple[str, float]")),
        (bytes, str, (["object"], "object")),
        (None, None, (["str"], "str")),
    ],
)
def test_equal_types_are_accepted(takes: object, gives: object, saved: tuple[list[str], str]) -> None:
    """Also those of the outputs of heads, and abstract collections."""
    check_types(takes, gives, *saved)


@pytest.mark.parametrize(
    ("takes", "gives", "saved", "match"),
    [
        (int, str, (["str"], "str"), r"takes is int, but the saved pipe takes str; pass that type\."),
        (str, str, (["list[int]", "Tensor"], "str"), r"takes is str, but the saved pipe takes list\[int\] or Tensor"),
        (str, int, (["str"], "str"), r"gives is int, but the saved pipe gives str; pass that type\."),
        (str, bool, (["str"], "int"), "gives is bool, but the saved pipe gives int"),
        (str, list[str], (["str"], "MultiLabelScores[str]"), r"gives is list\[str\], but .* gives MultiLabelScores\[str\]"),
        (str, Scores[int], (["str"], "str"), "gives is int"),
        (str, Verdict, (["str"], "tuple[str, float]"), "gives is Verdict"),
        (str, object, (["str"], "str"), "gives is object"),
    ],
)  # fmt: skip
def test_other_types_are_rejected(takes: object, gives: object, saved: tuple[list[str], str], match: str) -> None:
    """With both."""
    with pytest.raises(LoadError, match=match):
        check_types(takes, gives, *saved)


def test_loading_compares_the_types(tmp_path: Path) -> None:
    """Before the weights are used."""
    PIPES["classifier"][0]().save(tmp_path / "pipe")
    load(tmp_path / "pipe", takes=str, gives=str)
    with pytest.raises(LoadError, match="takes is list"):
        load(tmp_path / "pipe", takes=list[str], gives=str)
    with pytest.raises(OptionError, match="gives must be a type, got the text 'str'"):
        untyped(load)(tmp_path / "pipe", takes=str, gives="str")
