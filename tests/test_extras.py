"""Optional packages are imported late, and their absence is reported with the extra that installs them."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import Tokenize
from pipeline.errors import MissingExtraError
from pipeline.extras import LazyModule, find_base, import_extra
from support.needs import needs

NEEDS_TEXT = (
    r"^a tokenizer needs the package tokenizers, which is not installed; pip install 'ragged-pipeline\[text\]'\.$"
)


@pytest.mark.parametrize("kind", ["words", "characters", "bytes", "bpe", "whole"])
def test_training_a_tokenizer_without_its_package_names_the_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is this library's own, and not wrapped in another."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=NEEDS_TEXT) as caught:
        Tokenize.train(["a fine film"], kind)
    assert caught.value.details == {"package": "tokenizers", "extra": "text"}


def test_reading_a_tokenizer_without_its_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is not about the file."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=NEEDS_TEXT):
        Tokenize.read(tmp_path / "tokenizer.json")


@needs("matplotlib", "pyarrow")
@pytest.mark.parametrize("package", ["tokenizers", "pyarrow", "matplotlib"])
def test_importing_the_library_imports_no_extra(package: str) -> None:
    """A whole process: registered plugins included, since looking up a part loads them."""
    program = (
        "import sys, pipeline; from pipeline import Encode, Pool; Encode('lstm', input_size=2, hidden_size=2); "
        f"Pool('max'); sys.exit({package!r} in sys.modules)"
    )
    blocked = f"import sys; sys.modules[{package!r}] = None; import pipeline; pipeline.Pool('mean')"
    assert subprocess.run([sys.executable, "-P", "-c", blocked], check=False).returncode == 0
    if package != "tokenizers":  # the tokenizers that ship are tried as they are registered
        assert subprocess.run([sys.executable, "-P", "-c", program], check=False).returncode == 0


def test_an_installed_package_that_lacks_a_dependency_is_not_reported_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original error is raised."""
    (tmp_path / "half_installed.py").write_text("import not_there_at_all\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        import_extra("half_installed", extra="text", why="a test")


def test_a_class_whose_base_is_not_installed_can_be_imported_but_not_used() -> None:
    """So modules with such a class can be documented, and tried without the package."""
    base = find_base("not_there_at_all", "Base", extra="lightning", why="Derived")
    derived: Any = type("Derived", (base,), {})
    with pytest.raises(MissingExtraError, match=r"Derived needs the package not_there_at_all, .*\[lightning\]"):
        derived(3)
    assert find_base("io", "StringIO", extra="lightning", why="a test") is io.StringIO


def test_a_lazy_module_is_imported_at_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when it is created."""
    (tmp_path / "imported_late.py").write_text("value = 3\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    module = LazyModule("imported_late", extra="text", why="a test")
    assert "imported_late" not in sys.modules
    assert module.value == 3
    assert "imported_late" in sys.modules


def test_lazy_module_has_the_special_names_of_its_module_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its `__version__` is found, and tools that look for `__wrapped__` need no package."""
    (tmp_path / "imported_late_too.py").write_text("__version__ = '3'\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert LazyModule("imported_late_too", extra="text", why="a test").__version__ == "3"
    missing = LazyModule("no_such_module", extra="text", why="a test")
    assert not hasattr(missing, "__wrapped__")
    with pytest.raises(MissingExtraError):
        _ = missing.value
