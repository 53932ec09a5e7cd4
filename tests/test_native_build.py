"""Compiling the native engine, and what is said where it cannot be had."""

import platform
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
from pipeline_recurrent.native.hook import CompileHook

ROOT = Path(__file__).parent.parent


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


def compiled_in(target: Path) -> Path:
    """The library in a test's own folder, or no test where nothing can be compiled."""
    try:
        return compiling.compiled(target)
    except compiling.CompileError as error:
        pytest.skip(str(error))


def test_what_was_never_compiled_says_how_it_is(elsewhere: Path) -> None:
    """The path that was looked at, and the command."""
    reason = native.available()
    assert reason == f"it is not compiled: there is no {elsewhere}, which python -m pipeline_recurrent.native makes"


def test_what_is_no_library_says_why_it_does_not_load(elsewhere: Path) -> None:
    """In the loader's words."""
    elsewhere.write_text("no library")
    assert str(native.available()).startswith("it does not load: ")


def test_a_stale_library_is_refused(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was compiled from another source: its arguments may be others."""
    compiled_in(elsewhere)
    made_from = compiling.digest()
    monkeypatch.setattr(library, "digest", lambda: "another")
    assert f"was compiled from another source ({made_from}, here is another)" in str(native.available())


def test_a_compiled_library_is_used(elsewhere: Path) -> None:
    """Unless this machine is too plain for it, which is said."""
    compiled_in(elsewhere)
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
    monkeypatch.setattr(compiling, "find_spec", lambda _: None)
    with pytest.raises(compiling.CompileError, match="install gcc, clang or ziglang"):
        compiling.compiled(tmp_path / "kernels.so")


def test_an_unknown_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside those that are known."""
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(compiling.CompileError, match="'s390x', only for x86_64"):
        compiling.compiled()


def hook_builds(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the hook makes of a wheel."""
    builder = WheelBuilder(str(ROOT))
    hook = CompileHook(str(ROOT), {}, builder.config, builder.metadata, str(tmp_path), "wheel")
    data = {"artifacts": list[str](), **builder.get_default_build_data()}
    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    hook.initialize(version, data)
    return data


def test_a_failure_stops_no_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a warning with the reason, and a wheel for any platform."""
    monkeypatch.setenv("CC", "no-such-compiler")
    data = hook_builds("standard", tmp_path, monkeypatch)
    assert data["pure_python"]
    assert not data["artifacts"]
    assert "tag" not in data
    said = capsys.readouterr()
    assert "was not compiled, others do its work. no-such-compiler" in said.out + said.err


def test_a_wheel_with_kernels_is_of_one_platform_and_any_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They link neither Python nor torch."""
    compiled_in(tmp_path / "kernels.so")
    monkeypatch.setenv("PIPELINE_PLATFORM", "manylinux-2.17-riscv")
    data = hook_builds("standard", tmp_path, monkeypatch)
    assert data["tag"] == "py3-none-manylinux_2_17_riscv"
    assert data["artifacts"] == [f"plugins/pipeline_recurrent/native/{compiling.LIBRARY.name}"]
    assert not hook_builds("editable", tmp_path, monkeypatch)["artifacts"]
