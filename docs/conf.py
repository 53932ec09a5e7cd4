"""Sphinx configuration: `nox -s docs` builds the site, where every warning is an error."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version as find_version
from pathlib import Path
from typing import Protocol

DOCS = Path(__file__).parent
HIDDEN_COLON = "\N{SYMBOL FOR UNIT SEPARATOR}"

project = "ragged-pipeline"
author = "The pipeline authors"
project_copyright = author
version = release = find_version("ragged-pipeline")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
# Examples and benchmarks are programs, news are fragments of the changelog, and the rest is output.
exclude_patterns = ["_build", "bench", "examples", "news"]

html_theme = "furo"
html_title = f"pipeline {release}"
html_static_path = ["_static"]

myst_heading_anchors = 4

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "alphabetical"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # shapes such as `batch *feature` are not reStructuredText; signatures show them
napoleon_custom_sections = [("Source", "notes_style")]
# `Example:` sections are rendered under their own heading.
napoleon_use_admonition_for_examples = False
toc_object_entries_show_parents = "hide"


class Application(Protocol):
    """The part of `sphinx.application.Sphinx` that is used here."""

    def connect(self, event: str, callback: Callable[..., None], priority: int = 500) -> int:
        """Call back at an event; lower priorities come first."""
        ...


def setup(app: Application) -> None:
    """Register the callbacks."""
    app.connect("builder-inited", write_unreleased)
    app.connect("source-read", leave_out_documented_names)
    # Before napoleon, which has priority 500: it expects reStructuredText.
    app.connect("autodoc-process-docstring", convert_markdown, priority=400)
    app.connect("autodoc-process-docstring", restore_colons, priority=600)
    app.connect("autodoc-process-bases", leave_out_private_bases)


def write_unreleased(_: object) -> None:
    """Render the news fragments into a page that the changelog includes."""
    target = DOCS / "_build" / "unreleased.md"
    target.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "Unreleased", "--date", ""]
    run = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=True)
    target.write_text(re.sub(r"^## .*$", "## Unreleased", run.stdout, count=1, flags=re.MULTILINE), encoding="utf-8")


def leave_out_documented_names(_: object, page: str, source: list[str]) -> None:
    """Document a name once: leave names of other public modules out of the page of `pipeline.extend`, and list them."""
    if page != "reference/pipeline.extend":
        return
    names = set[str](import_module("pipeline.extend").__all__)
    others = ("pipeline", "pipeline.batching", "pipeline.errors", "pipeline.hooks", "pipeline.testing")
    documented = {module: sorted(names.intersection(import_module(module).__all__)) for module in others}
    lists = [
        f"From [{module}]({module}.md): {', '.join(f'`{name}`' for name in found)}."
        for module, found in documented.items()
        if found
    ]
    excluded = sorted({name for found in documented.values() for name in found})
    source[0] = source[0].replace("@LISTS@", "\n\n".join(lists)).replace("@EXCLUDED@", ", ".join(excluded))


def convert_markdown(_app: object, what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Convert a docstring's Markdown into reStructuredText.

    Text in backticks becomes a literal, and characters with a meaning in reStructuredText are escaped. Code is left
    alone: doctests, and blocks that are indented after a colon and a blank line.
    """
    in_doctest, code_indent = False, 0
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if code_indent and line.strip() and indent < code_indent:
            code_indent = 0
        in_doctest = line.lstrip().startswith(">>>") or (in_doctest and bool(line.strip()))
        if in_doctest or code_indent:
            continue
        following = lines[number + 1 : number + 3]
        if line.endswith(":") and len(following) == 2 and not following[0].strip():
            next_indent = len(following[1]) - len(following[1].lstrip())
            if next_indent >= indent + 4:
                line += ":"  # noqa: PLW2901 - two colons begin a literal block
                code_indent = next_indent
        pieces = re.split(r"(`+[^`]+`+)", line)
        # Every second piece is a literal.
        pieces[::2] = [re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", piece) for piece in pieces[::2]]
        pieces[1::2] = [f"``{piece.strip('`')}``" for piece in pieces[1::2]]
        # A letter after a literal, as in `Example`s, needs an escaped space.
        pieces[2::2] = [re.sub(r"^(?=\w)", r"\\ ", piece) for piece in pieces[2::2]]
        lines[number] = "".join(pieces)
    if lines and what in {"attribute", "data", "property"}:
        # Otherwise napoleon takes the words before a colon in the first line for a type.
        lines[0] = lines[0].replace(":", HIDDEN_COLON)


def restore_colons(_app: object, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Undo the replacement of colons that `convert_markdown` makes."""
    lines[:] = [line.replace(HIDDEN_COLON, ":") for line in lines]


def leave_out_private_bases(_app: object, _name: str, _object: object, _options: object, bases: list[object]) -> None:
    """Leave out base classes that a reader cannot look up."""
    bases[:] = [base for base in bases if not getattr(base, "__name__", "").startswith("_")]
