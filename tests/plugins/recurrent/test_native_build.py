"""Compiling the native engine, and what is said where it cannot be had."""

import os
import platform
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hatchling.builders.wheel import WheelBuilder

from pipeline_recurrent import native
from pipeline_recurrent.native import compile as compiling
from pipeline_recurrent.native import library


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Look for the library in a folder of the test's own, and forget what was found before and after."""

    def forget() -> None:
        for found in (library.opened, library.kernels, library.trouble):
            found.cache_clear()

    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    monkeypatch.setattr(library, "LIBRARY", tmp_path / compiling.LIBRARY.name)
    forget()
    yield tmp_path / compiling.LIBRARY.name
    forget()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A library compiled here and now, or no test where nothing can be compiled."""
    try:
        return compiling.compiled(tmp_path_factory.mktemp("made") / compiling.LIBRARY.name).read_bytes()
    except compiling.CompileError as error:
        (pytest.fail if os.environ.get("PIPELINE_TESTS_NATIVE") == "1" else pytest.skip)(str(error))


def test_what_was_never_compiled_says_how_it_is(elsewhere: Path) -> None:
    """The path that was looked at, and the command."""
    reason = native.available()
    assert reason == f"it is not compiled: there is no {elsewhere}, which python -m pipeline_recurrent.native makes"


def test_what_is_no_library_says_why_it_does_not_load(elsewhere: Path) -> None:
    """In the loader's words."""
    elsewhere.write_text("no library")
    assert str(native.available()).startswith("it does not load: ")


def test_a_stale_library_is_refused(elsewhere: Path, made: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was compiled from another source: its arguments may be others."""
    elsewhere.write_bytes(made)
    made_from = compiling.digest()
    monkeypatch.setattr(library, "digest", lambda: "another")
    assert f"was compiled from another source ({made_from}, here is another)" in str(native.available())


def test_a_compiled_library_is_used(elsewhere: Path, made: bytes) -> None:
    """Unless this machine is too plain for it, which is said."""
    elsewhere.write_bytes(made)
    name = library.kernels().name
    assert name in compiling.SETS[platform.machine().lower()]
    assert (native.available() is None) == (name not in library.SLOW)


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, at any time."""
    monkeypatch.setenv("PIPELINE_NATIVE", "0")
    assert native.available() == "it is switched off by PIPELINE_NATIVE=0"


def test_other_dtypes_and_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by name."""
    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    assert native.available(torch.float64) == "it computes in torch.float32, not in torch.float64"
    assert native.available(device="cuda:1") == "it runs on a CPU, not on cuda:1"


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said, and no library left behind."""
    complaint = "import sys; sys.exit('no such flag')"
    monkeypatch.setenv("CC", f"'{sys.executable}' -c \"{complaint}\"")
    with pytest.raises(compiling.CompileError, match="no such flag"):
        compiling.compiled(tmp_path / "kernels.so")
    assert not list(tmp_path.iterdir())


def test_no_compiler_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")

    def nowhere(name: str) -> None:
        assert name == "ziglang"

    monkeypatch.setattr(compiling, "find_spec", nowhere)
    with pytest.raises(compiling.CompileError, match="install gcc, clang or ziglang"):
        compiling.compiled(tmp_path / "kernels.so")


def test_an_unknown_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside those that are known."""
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(compiling.CompileError, match="'s390x', only for x86_64"):
        compiling.compiled()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the hook needs, so that it compiles beside the copy; the folder of its library."""
    folder = tmp_path / "plugins/pipeline_recurrent/native"
    folder.mkdir(parents=True)
    for name in ("hook.py", "compile.py", "kernels.c"):
        shutil.copy(compiling.SOURCE.with_name(name), folder)
    return folder


def hooked(project: Path, version: str = "standard") -> dict[str, Any]:
    """What the hook makes of a wheel."""
    root = str(project.parents[2])
    builder: Any = WheelBuilder(root)
    hook = runpy.run_path(str(project / "hook.py"))["CompileHook"](root, {}, None, None, root, "wheel")
    data: dict[str, Any] = {"artifacts": [], **builder.get_default_build_data()}
    hook.initialize(version, data)
    return data


def test_a_failure_stops_no_installation(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a warning with the reason, and a wheel for any platform."""
    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    monkeypatch.setenv("CC", "no-such-compiler")
    data = hooked(project)
    assert data["pure_python"]
    assert not data["artifacts"]
    assert "tag" not in data
    said = capsys.readouterr()
    assert "was not compiled, others do its work. no-such-compiler" in said.out + said.err


def test_a_wheel_with_kernels_is_of_one_platform_and_any_python(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They link neither Python nor torch; a compiler for another platform may be named with that platform."""
    compiler = project / "compiler.py"
    compiler.write_text("import sys; open(sys.argv[sys.argv.index('-o') + 1], 'w').write('made')")
    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    monkeypatch.setenv("CC", shlex.join([sys.executable, str(compiler)]))
    monkeypatch.setenv("PIPELINE_PLATFORM", "manylinux-2.17-riscv")
    data = hooked(project)
    assert data["tag"] == "py3-none-manylinux_2_17_riscv"
    assert not data["pure_python"]
    assert data["artifacts"] == [f"plugins/pipeline_recurrent/native/{compiling.LIBRARY.name}"]
    assert (project / compiling.LIBRARY.name).read_text() == "made"
    assert not hooked(project, "editable")["artifacts"]
    monkeypatch.setenv("PIPELINE_NATIVE", "0")
    assert not hooked(project)["artifacts"]
