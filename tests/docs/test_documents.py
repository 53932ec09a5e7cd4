"""Every block of Python in the documents runs, page by page, from top to bottom."""

from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, so that what a page writes is left nowhere."""
    monkeypatch.chdir(tmp_path)
    for example in Sybil([PythonCodeBlockParser()], path=str(ROOT)).parse(page).examples():
        example.evaluate()


def test_there_are_pages() -> None:
    """The README and the pages that it names."""
    assert {page.name for page in PAGES} >= {"README.md", "tour.md", "stages.md", "cases.md", "plugins.md"}
