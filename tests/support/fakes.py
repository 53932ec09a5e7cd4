"""Distributions that pretend to be installed: a folder with metadata and modules, on the path while a test runs."""

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
        # What is chosen and loaded while the folder is on the path goes with it.
        monkeypatch.setattr("pipeline.registry.shared._shared", SharedRegistry())
        for variable in (PLUGINS, STRICT):
            monkeypatch.delenv(variable, raising=False)

    def add(self, package: str, source: str, *, version: str = "1.0") -> None:
        """Install a package with one module, and one entry point named as the module is."""
        module = package.replace("-", "_").lower()
        self.metadata(
            f"{module}-{version}",
            METADATA=f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
            **{"entry_points.txt": f"[pipeline]\n{module} = {module}\n"},
        )
        (self.folder / f"{module}.py").write_text(dedent(source))
        # Set and taken away again, so that the end of the test takes away what was imported.
        self._monkeypatch.setitem(sys.modules, module, ModuleType(module))
        del sys.modules[module]
        importlib.invalidate_caches()

    def metadata(self, name: str, **files: str) -> None:
        """Write a folder of metadata as it is given, however broken."""
        folder = self.folder / f"{name}.dist-info"
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)

    def found(self) -> list[Distribution]:
        """The distributions in the folder, in the order of the file system."""
        return list(distributions(path=[str(self.folder)]))

    def registry(self, choice: Choice | None = None) -> Registry:
        """What the distributions in the folder offer, or those of them that are chosen, and they alone."""
        return discover_plugins(self.found(), choice)


def offering(*names: str) -> str:
    """The source of a module that offers the LSTM as an encoder under some names."""
    return f"""\
from pipeline.hooks import hookimpl
from pipeline_recurrent import LSTM

@hookimpl
def pipeline_encoders():
    return dict.fromkeys({list(names)}, LSTM)
"""


def returning(mapping: str, *, hook: str = "pipeline_encoders", takes: str = "") -> str:
    """The source of a module whose hook gives an expression."""
    return f"""\
from pipeline import Encoder
from pipeline.hooks import hookimpl
from pipeline_recurrent import LSTM

@hookimpl
def {hook}({takes}):
    return {mapping}
"""


def untried(_: str, __: object) -> bool:
    """In the place of `probed`: nothing that is offered can be tried, so that all of it is taken."""
    return False
