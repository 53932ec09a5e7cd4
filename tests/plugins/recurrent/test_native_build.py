"""Compile the native kernels and build wheels with them; or report why that is impossible."""

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

from pipeline.native import SETS, SLOW_SETS
from pipeline.native import compile as compiling
from pipeline_recurrent import native
from pipeline_recurrent.native import library

FAST = ("-O0",)
"""Compiling takes a tenth of the time without optimization."""
HOOK = Path(__file__).parents[3] / "plugins" / "hatch_build.py"  # not part of the wheel


@pytest.fixture
def library_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Look for the library in a temporary folder, with nothing cached before and after."""

    def clear_caches() -> None:
        for cached in (library.open_library, library.load_kernels, library.explain_unavailable):
            cached.cache_clear()

    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    monkeypatch.setattr(library, "LIBRARY", tmp_path / library.LIBRARY.name)
    clear_caches()
    yield tmp_path / library.LIBRARY.name
    clear_caches()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Compile a library, or skip the test where nothing can be compiled."""
    target = tmp_path_factory.mktemp("made") / library.LIBRARY.name
    try:
        return compiling.compile_library(library.SOURCES, target, FAST).read_bytes()
    except compiling.CompileError as error:
        (pytest.fail if os.environ.get("PIPELINE_TESTS_NATIVE") == "1" else pytest.skip)(str(error))


def test_a_missing_library_names_the_command_that_makes_it(library_path: Path) -> None:
    """And the path at which it was expected."""
    reason = native.available()
    assert reason == f"it is not compiled: there is no {library_path}; python -m pipeline_recurrent.native makes it"


def test_a_file_that_is_not_a_library_gives_the_loaders_error(library_path: Path) -> None:
    """In the loader's words."""
    library_path.write_text("no library")
    assert str(native.available()).startswith("it does not load: ")


def test_a_stale_library_is_rejected(library_path: Path, compiled: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was compiled from another source may expect other arguments."""
    library_path.write_bytes(compiled)
    digest = library.SOURCES.compute_digest()

    def compute_another(_: compiling.KernelSources) -> str:
        return "another"

    monkeypatch.setattr(compiling.KernelSources, "compute_digest", compute_another)
    assert f"was compiled from another source ({digest}, not another)" in str(native.available())


def test_a_changed_header_makes_a_library_stale(project: Path) -> None:
    """Headers beside the sources describe structs that Python fills in."""
    before = compiling.read_sources(project).compute_digest()
    assert before == library.SOURCES.compute_digest()
    with (project / "job.h").open("a") as header:
        header.write("/* changed */")
    assert compiling.read_sources(project).compute_digest() != before


def test_a_compiled_library_is_used(library_path: Path, compiled: bytes) -> None:
    """Unless this machine has too few instructions for it to pay."""
    library_path.write_bytes(compiled)
    name = library.load_kernels().name
    assert name in SETS[platform.machine().lower()]
    assert (native.available() is None) == (name not in SLOW_SETS)


def test_the_environment_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any time."""
    monkeypatch.setenv("PIPELINE_NATIVE", "0")
    assert native.available() == "it is switched off by PIPELINE_NATIVE=0"


def test_other_dtypes_and_devices_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by name."""
    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    assert native.available(torch.float64) == "it computes in torch.float32 and torch.bfloat16, not in torch.float64"
    assert native.available(device="cuda:1") == "it runs on a CPU, not on cuda:1"


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no file is left."""
    complaint = "import sys; sys.exit('no such flag')"
    monkeypatch.setenv("CC", f"'{sys.executable}' -c \"{complaint}\"")
    with pytest.raises(compiling.CompileError, match="no such flag"):
        compiling.compile_library(library.SOURCES, tmp_path / "kernels.so")
    assert not list(tmp_path.iterdir())


def test_a_set_that_the_compiler_does_not_know_is_left_out(library_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a narrower one is loaded. Flags of the narrowest set are not tried."""
    compiler = next(compiling.find_compilers(), None)
    sets = list(SETS.get(platform.machine().lower(), ()))
    if compiler is None or len(sets) < 2:
        pytest.skip("needs a compiler and a machine with several instruction sets")
    old = library_path.with_name("old.py")
    refuse = f"sys.exit('unknown flag') if {compiling.X86[sets[-1]][-1]!r} in sys.argv else None"
    old.write_text(f"import subprocess, sys; {refuse}; sys.exit(subprocess.call({compiler!r} + sys.argv[1:]))")
    monkeypatch.setenv("CC", shlex.join([sys.executable, str(old)]))
    compiling.compile_library(library.SOURCES, library_path, FAST)
    found = [name for name in sets if hasattr(library.open_library(), f"pipeline_run_{name}")]
    assert found == sets[:-1]
    assert library.load_kernels().name in found
    assert not library.load_kernels().computes(torch.bfloat16)


def test_a_missing_compiler_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")

    def nowhere(name: str) -> None:
        assert name == "ziglang"

    monkeypatch.setattr(compiling, "find_spec", nowhere)
    with pytest.raises(compiling.CompileError, match="install gcc, clang or ziglang"):
        compiling.compile_library(library.SOURCES, tmp_path / "kernels.so")


def test_an_unknown_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together with the supported ones."""
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(compiling.CompileError, match="'s390x', only for x86_64"):
        compiling.compile_library(library.SOURCES)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Copy the files that the hook needs, so that it compiles next to the copy; return the folder of its library."""
    folder = tmp_path / "plugins/pipeline_recurrent/native"
    folder.mkdir(parents=True)
    for file in library.LIBRARY.parent.glob("*.[cht]*"):
        shutil.copy(file, folder)
    shared = tmp_path / "pipeline/native"
    shared.mkdir(parents=True)
    for file in Path(compiling.__file__).parent.glob("*.*"):
        shutil.copy(file, shared)
    shutil.copy(HOOK, folder.parents[1])
    return folder


def run_hook(project: Path, version: str = "standard") -> dict[str, Any]:
    """Return the build data of a wheel after the hook."""
    root = str(project.parents[2])
    builder: Any = WheelBuilder(root)
    hook = runpy.run_path(str(project.parents[1] / HOOK.name))["CompileHook"](root, {}, None, None, root, "wheel")
    data: dict[str, Any] = {"artifacts": [], **builder.get_default_build_data()}
    hook.initialize(version, data)
    return data


def test_a_failed_compilation_stops_no_installation(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is a warning, and the wheel is for any platform."""
    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    monkeypatch.setenv("CC", "no-such-compiler")
    data = run_hook(project)
    assert data["pure_python"]
    assert not data["artifacts"]
    assert "tag" not in data
    printed = capsys.readouterr()
    assert (
        "pipeline_recurrent were not compiled; torch's operations replace them. no-such-compiler"
        in printed.out + printed.err
    )


def test_a_wheel_with_kernels_is_for_one_platform_and_any_python(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library links neither Python nor torch. A cross compiler may be named, together with its platform."""
    compiler = project / "compiler.py"
    compiler.write_text("import sys; open(sys.argv[sys.argv.index('-o') + 1], 'w').write('made')")
    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    monkeypatch.setenv("CC", shlex.join([sys.executable, str(compiler)]))
    monkeypatch.setenv("PIPELINE_PLATFORM", "manylinux-2.17-riscv")
    data = run_hook(project)
    assert data["tag"] == "py3-none-manylinux_2_17_riscv"
    assert not data["pure_python"]
    assert data["artifacts"] == [f"plugins/pipeline_recurrent/native/{library.LIBRARY.name}"]
    assert (project / library.LIBRARY.name).read_text() == "made"
    assert not run_hook(project, "editable")["artifacts"]
    monkeypatch.setenv("PIPELINE_NATIVE", "0")
    assert not run_hook(project)["artifacts"]
