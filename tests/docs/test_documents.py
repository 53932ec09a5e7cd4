"""The pages run, and the site is complete."""

import re
import runpy
from importlib import import_module
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from pictures import NAMES
from support.needs import KERNELS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]
    if not {"_build", "news"}.intersection(page.relative_to(ROOT).parts)
)
PUBLIC = [
    "pipeline",
    "pipeline.batching",
    "pipeline.errors",
    "pipeline.extend",
    "pipeline.forecast",
    "pipeline.hooks",
    "pipeline.loading",
    "pipeline.native",
    "pipeline.serving",
    "pipeline.sources",
    "pipeline.testing",
    "pipeline.training",
    "pipeline.training.adapters",
    "pipeline.training.lightning",
    "pipeline.training.scikit_learn",
    "pipeline_attention",
    "pipeline_convolutional",
    "pipeline_decoders",
    "pipeline_embeddings",
    "pipeline_heads",
    "pipeline_recurrent",
    "pipeline_transformer",
]


def read_prose(page: Path) -> str:
    """Read a page without its code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


# `deterministic=True` of this page needs the kernels.
RUNNABLE = [pytest.param(page, marks=KERNELS if page.name == "inference.md" else ()) for page in PAGES]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Python block of a page, from top to bottom, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for example in Sybil([PythonCodeBlockParser()], path=str(ROOT)).parse(page).examples():
        example.evaluate()


def test_there_are_pages() -> None:
    """The glob above finds the README, pages and pages in folders."""
    found = {str(page.relative_to(ROOT)) for page in PAGES}
    assert found >= {"README.md", "docs/tutorial.md", "docs/plugins.md", "docs/decisions/index.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_exist(page: Path) -> None:
    """Relative links and images of a page, and the headings that links to pages name."""
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", read_prose(page))
    for target, _, heading in (link.partition("#") for link in links):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", read_prose(file), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors


def test_the_reference_has_a_page_for_each_public_module() -> None:
    """And no others; each of these modules declares its public names."""
    pages = {page.stem for page in (DOCS / "reference").glob("*.md")} - {"index"}
    assert pages == set(PUBLIC)
    for name in PUBLIC:
        assert f".. automodule:: {name}\n" in (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")
        module = import_module(name)
        assert all(hasattr(module, public) for public in module.__all__)


def test_the_figures_are_up_to_date() -> None:
    """The committed files are what `python docs/drawings.py` writes, besides the pictures of a trained model."""
    drawings = runpy.run_path(str(DOCS / "drawings.py"))
    assert {file.name for file in (DOCS / "_static").glob("*.svg")} == {*drawings["FIGURES"], *NAMES}
    for name, draw in drawings["FIGURES"].items():
        assert (DOCS / "_static" / name).read_text(encoding="utf-8") == draw()


def test_the_layers_figure_describes_existing_layers() -> None:
    """Each described layer is in the import contract, and is a module."""
    drawings = runpy.run_path(str(DOCS / "drawings.py"))
    assert set(drawings["LAYERS"]) <= set(drawings["read_layers"]())
    for name in drawings["read_layers"]():
        assert (ROOT / "pipeline" / name).is_dir() or (ROOT / "pipeline" / f"{name}.py").is_file()


def test_news_fragments_have_a_kind_and_one_sentence() -> None:
    """Towncrier would ignore a fragment of another kind."""
    for fragment in (DOCS / "news").glob("*.md"):
        assert re.fullmatch(r"\+[a-z0-9-]+\.(breaking|deprecation|feature|fix|doc)\.md", fragment.name)
        text = fragment.read_text(encoding="utf-8")
        assert text.endswith(".\n")
        assert text.count("\n") == 1
