"""Fake installed distributions: a folder with metadata and modules, on the path while a test runs."""

import importlib
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

from pipeline.registry import Registry, discover_plugins
from pipeline.registry.choice import PLUGINS, STRICT, Choice
from pipeline.registry.shared import SharedRegistry


class Fakes:
    """A folder of installed distributions."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        # A registry of its own, so that plugins of the folder are forgotten with the test.
        monkeypatch.setattr("pipeline.registry.shared._shared", SharedRegistry())
        for variable in (PLUGINS, STRICT):
            monkeypatch.delenv(variable, raising=False)

    def add(self, package: str, source: str, *, version: str = "1.0") -> None:
        """Install a distribution with one module, and one entry point with the name of the module."""
        module = package.replace("-", "_").lower()
        self.metadata(
            f"{module}-{version}",
            METADATA=f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
            **{"entry_points.txt": f"[pipeline]\n{module} = {module}\n"},
        )
        (self.folder / f"{module}.py").write_text(dedent(source))
        # Set and deleted, so that monkeypatch removes the imported module at the end of the test.
        self._monkeypatch.setitem(sys.modules, module, ModuleType(module))
        del sys.modules[module]
        importlib.invalidate_caches()

    def metadata(self, name: str, **files: str) -> None:
        """Write a folder of metadata, which may be broken."""
        folder = self.folder / f"{name}.dist-info"
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)

    def found(self) -> list[Distribution]:
        """Return the distributions of the folder, in the order of the file system."""
        return list(distributions(path=[str(self.folder)]))

    def registry(self, choice: Choice | None = None) -> Registry:
        """Return a registry of the distributions of the folder, or of the chosen ones."""
        return discover_plugins(self.found(), choice)


def offering(*names: str) -> str:
    """Return the source of a module that offers the LSTM as an encoder under some names."""
    return f"""\
from pipeline.extend import hookimpl
from pipeline_recurrent import LSTM

@hookimpl
def pipeline_encoders():
    return dict.fromkeys({list(names)}, LSTM)
"""


def returning(mapping: str, *, hook: str = "pipeline_encoders", takes: str = "") -> str:
    """Return the source of a module whose hook returns an expression."""
    return f"""\
from pipeline import Encoder
from pipeline.extend import hookimpl
from pipeline_recurrent import LSTM

@hookimpl
def {hook}({takes}):
    return {mapping}
"""
