"""The page is safe, complete, readable and self-contained."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typing_extensions import override

from highlight import page
from highlight.results import Result
from highlight.source import CLASSES, Line


class Tags(HTMLParser):
    """All opened tags, and those still open."""

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
    """Parse a page, and check that its tags are closed in order."""
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    return tags


def test_a_line_is_text_and_never_markup(result: Result) -> None:
    """A script tag in a line of source is shown, not run; descriptions are escaped too."""
    html = page.render(result)
    assert "script" not in {tag for tag, _ in parsed(html).seen}
    assert '<span class="string">&#x27;&lt;script&gt;</span><mark' in html
    assert "the rule of &lt;thumb&gt;" in html


def test_a_mistake_is_marked_with_the_right_class(result: Result) -> None:
    """As a tooltip, and as text below the line; a wrong kind is marked too."""
    html = page.render(result)
    assert '<mark title="predicted name, is string">&#x27;</mark>' in html
    assert "<small>right: string</small>" in html
    assert '<mark title="is text">comment</mark>' in html
    assert html.count("<mark title=") == 3  # these two, and the one in the explanation


def test_runs_and_control_characters() -> None:
    """A run is one element, space is plain text, a tab stays, and other control characters are replaced."""
    line = Line("ab\t\x0c", ["name", "name", "space", "space"], "statement", False, "a.py", 1)
    assert page.color(line, line.classes) == '<span class="name">ab</span>\t\N{REPLACEMENT CHARACTER}'


def test_the_page_has_all_results(result: Result) -> None:
    """Scores of models and rules, both kinds of padding, and the numbers of lines."""
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.render(result)))
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
        "This includes 1 lines",
    ):
        assert found in text


def test_the_page_is_self_contained(result: Result) -> None:
    """No script, no link, nothing to fetch; it has a language and a viewport."""
    tags = parsed(page.render(result)).seen
    assert not {"script", "link", "img", "iframe", "base"} & {tag for tag, _ in tags}
    assert not any({"src", "href", "style"} & attributes.keys() for _, attributes in tags)
    assert "url(" not in page.render(result)
    assert tags[0] == ("html", {"lang": "en"})
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags
    assert {name for name in CLASSES if name != "space"} == {a["class"] for tag, a in tags if tag == "li"}


def test_colours_have_enough_contrast(result: Result) -> None:
    """4.5 to 1 in the light and the dark theme (WCAG 2, level AA)."""
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", page.render(result), re.DOTALL)
    ]
    assert len(themes) == 2
    for colours in themes:
        for name in (*(name for name in CLASSES if name != "space"), "ink", "quiet"):
            assert contrast(colours[name], colours["panel"]) >= 4.5, name
            assert contrast(colours[name], colours["paper"]) >= 4.5, name
        assert contrast(colours["wrong-ink"], colours["wrong"]) >= 4.5


@pytest.mark.parametrize(("owner", "name"), [(page, "render"), (Path, "replace")], ids=["render", "replace"])
def test_a_page_that_fails_leaves_the_old_one(
    result: Result, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    """The old page is replaced when the new one is complete; no draft remains."""

    def failing(*_: object) -> str:
        msg = "disk full"
        raise OSError(msg)

    result.page.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(OSError, match="disk full"):
            page.write(result)
    assert result.page.read_text() == "old"
    assert list(result.page.parent.iterdir()) == [result.page]
    page.write(result)
    assert result.page.read_text(encoding="utf-8") == page.render(result)
    assert list(result.page.parent.iterdir()) == [result.page]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, from 1 to 21.

    Source: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
    """
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, from 0 to 1."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
