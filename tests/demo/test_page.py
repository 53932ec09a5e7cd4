"""The page is safe, whole, readable, and needs nothing but itself."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typing_extensions import override

from pipeline.demo import page
from pipeline.demo.lexical import CLASSES
from pipeline.demo.score import Result
from pipeline.demo.source import Line


class Tags(HTMLParser):
    """Every tag that was opened, and those still open."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(html: str) -> Tags:
    """The tags of a page, each closed in its turn."""
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    return tags


def test_a_line_is_text_and_never_markup(result: Result) -> None:
    """A script tag in a line of source is shown, not run; so is whatever else a scheme or a rule is called."""
    html = page.page(result)
    assert "script" not in {tag for tag, _ in parsed(html).seen}
    assert '<span class="string">&#x27;&lt;script&gt;</span><mark' in html
    assert "the rule of &lt;thumb&gt;" in html


def test_a_mistake_is_marked_and_says_what_is_right(result: Result) -> None:
    """Under the pointer, and beside the line for those who have none; the kind of the line too."""
    html = page.page(result)
    assert '<mark title="taken for name, is string">&#x27;</mark>' in html
    assert "<small>right: string</small>" in html
    assert '<mark title="is text">comment</mark>' in html
    assert html.count("<mark title=") == 3  # these two, and the one that explains them


def test_runs_and_control_characters() -> None:
    """A run is one element, space is none, a tab stays, and what HTML does not allow is replaced."""
    line = Line("ab\t\x0c", ["name", "name", "space", "space"], "statement", False, "a.py", 1)
    assert page.coloured(line, line.classes) == '<span class="name">ab</span>\t\N{REPLACEMENT CHARACTER}'


def test_the_page_holds_what_was_measured(result: Result) -> None:
    """Scores beside the rules', padding both ways, and both kinds of lines with how many there are."""
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.page(result)))
    for found in (
        "characters 94.1% 50.0%",
        "whole lines 50.0% 25.0%",
        "kinds of lines 66.7% 50.0%",
        "2 100 110 9.1%",
        "2 100 180 44.4%",
        "1 of the 1 lines with mistakes",
        "1 of the 1 lines without",
        "3 lines of 2 other files",
        "twice",
        "html/parser.py:7",
        "Counted in are 1 lines",
    ):
        assert found in text


def test_the_page_needs_nothing_else(result: Result) -> None:
    """No script, no link, nothing fetched; a language, a viewport, and a caption for every table of lines."""
    tags = parsed(page.page(result)).seen
    assert not {"script", "link", "img", "iframe", "base"} & {tag for tag, _ in tags}
    assert not any({"src", "href", "style"} & attributes.keys() for _, attributes in tags)
    assert "url(" not in page.page(result)
    assert tags[0] == ("html", {"lang": "en"})
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags
    assert {name for name in CLASSES if name != "space"} == {a["class"] for tag, a in tags if tag == "li"}


def test_every_colour_can_be_read(result: Result) -> None:
    """Text stands out from what is behind it by 4.5 to 1, by day and by night (WCAG 2, level AA)."""
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", page.page(result), re.DOTALL)
    ]
    assert len(themes) == 2
    for colours in themes:
        for name in (*(name for name in CLASSES if name != "space"), "ink", "quiet"):
            assert contrast(colours[name], colours["panel"]) >= 4.5, name
            assert contrast(colours[name], colours["paper"]) >= 4.5, name
        assert contrast(colours["wrong-ink"], colours["wrong"]) >= 4.5


@pytest.mark.parametrize(("where", "what"), [(page, "page"), (Path, "replace")], ids=["making it", "moving it"])
def test_a_page_that_fails_leaves_the_old_one(
    result: Result, monkeypatch: pytest.MonkeyPatch, where: object, what: str
) -> None:
    """It is replaced when the new one is complete, and no draft is left behind."""

    def failing(*_: object) -> str:
        msg = "disk full"
        raise OSError(msg)

    result.page.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(where, what, failing)
        with pytest.raises(OSError, match="disk full"):
            page.write(result)
    assert result.page.read_text() == "old"
    assert list(result.page.parent.iterdir()) == [result.page]
    page.write(result)
    assert result.page.read_text(encoding="utf-8") == page.page(result)
    assert list(result.page.parent.iterdir()) == [result.page]


def contrast(one: str, other: str) -> float:
    """How much two colours differ in luminance, from 1 to 21.

    Source: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
    """
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """How light a colour is, from 0 to 1."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
