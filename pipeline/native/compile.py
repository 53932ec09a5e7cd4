"""Compile C kernels for every instruction set of a kind of machine into one library.

The sources are described by a file `native.toml` in their folder:

    sources = ["kernels.c"]     # compiled once per instruction set, with -DSET=<its name> -DLANES=<floats per vector>

    [flags]                     # optional: more flags for some instruction sets
    avx2 = ["-DTILE=3"]

    [variants.low]              # optional: the first source once more, with -DSET=<the set's name>_low
    sets = ["avx512bf16"]
    flags = ["-DLOW"]

`kernels.h` and `vectors.h` beside this file can be included. Name exported functions with `NAME(prefix_, SET)` of it,
so that `find_kernels` finds the best one of the machine.

Only the standard library is imported: a build hook runs this file by path, where torch may be absent:

    runpy.run_path("pipeline/native/compile.py")["compile_folder"](Path("my_plugin/native"))
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_SHARED = Path(__file__).parent
_MAIN, _HEADERS = _SHARED / "main.c", (_SHARED / "kernels.h", _SHARED / "vectors.h")

# -ffp-contract=off: the source says itself where a product and a sum are rounded once. No -ffast-math: with it the
# compiler may assume that there are no NaNs, but a NaN in a batch must survive.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-g0", "-fvisibility=default", "-Wall", "-Wextra", "-ffp-contract=off")
# -mprefer-vector-width=512: by default some compilers split vectors of 16 floats into two of 8.
AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mprefer-vector-width=512")
X86: dict[str, tuple[str, ...]] = {
    "sse2": ("-DLANES=4",),
    "avx2": ("-DLANES=8", "-mavx2", "-mfma"),
    "avx512": ("-DLANES=16", "-mavx2", "-mfma", *AVX512),
    # With products of bfloat16 (Cooper Lake, Sapphire Rapids, Zen 4), and of bytes, which these processors have too.
    "avx512bf16": ("-DLANES=16", "-mavx2", "-mfma", *AVX512, "-mavx512vnni", "-mavx512bf16"),
}
ARM: dict[str, tuple[str, ...]] = {"neon": ("-DLANES=4",)}
SETS: dict[str, dict[str, tuple[str, ...]]] = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}
"""For each kind of machine, its instruction sets, the narrowest first, with their compiler flags."""

DESCRIPTION = "native.toml"
"""The file that describes the sources of a folder."""


class CompileError(Exception):
    """The library could not be compiled; the message gives the reason, and the compiler's own words."""


@dataclass(frozen=True)
class KernelSources:
    """The C sources of a library.

    Attributes:
        sources: the files.
        headers: what they include, besides the headers beside this file.
        flags: more compiler flags for an instruction set.
        variants: for a suffix, the instruction sets for which the first source is compiled once more, and the flags.
    """

    sources: tuple[Path, ...]
    headers: tuple[Path, ...]
    flags: Mapping[str, tuple[str, ...]]
    variants: Mapping[str, tuple[frozenset[str], tuple[str, ...]]]

    @property
    def library(self) -> Path:
        """The file to compile to, next to the first source."""
        suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
        return self.sources[0].with_suffix(suffix)

    def compute_digest(self) -> str:
        """Return a hash of the sources. A library contains that of its own sources, and is rejected with any other."""
        parts = b"".join(source.read_bytes() for source in (_MAIN, *_HEADERS, *self.sources, *self.headers))
        return hashlib.sha256(parts).hexdigest()[:16]


def read_sources(folder: Path) -> KernelSources:
    """Read the description of a folder's sources, `native.toml`. Headers are all files `*.h` beside it."""
    found = tomllib.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    described = found.get("variants", {}).items()
    variants = {name: (frozenset(each["sets"]), tuple(each["flags"])) for name, each in described}
    flags = {name: tuple(flags) for name, flags in found.get("flags", {}).items()}
    headers = tuple(sorted(folder.glob("*.h")))
    return KernelSources(tuple(folder / name for name in found["sources"]), headers, flags, variants)


def find_compilers() -> Iterator[list[str]]:
    """Yield the compilers to try, the preferred one first: only CC if it is set; otherwise gcc, clang, cc, zig."""
    if named := os.environ.get("CC"):
        yield shlex.split(named)
        return
    for name in ("gcc", "clang", "cc"):
        if found := shutil.which(name):
            yield [found]
    if find_spec("ziglang") is not None:
        yield [sys.executable, "-m", "ziglang", "cc"]


def compile_folder(folder: Path) -> Path:
    """Compile the sources of a folder in place, and return the path of the library; see `compile_library`."""
    return compile_library(read_sources(folder))


def compile_library(sources: KernelSources, target: Path | None = None, extra: Sequence[str] = ()) -> Path:
    """Compile for every instruction set of this kind of machine, with the first compiler that succeeds.

    Sets whose flags the compiler does not know are left out, except the narrowest one. Then narrower ones are loaded.

    Args:
        sources: what to compile.
        target: the file to write; by default `sources.library`.
        extra: more flags for both compiler and linker, such as `-fsanitize=address`.

    Raises:
        CompileError: if there is no compiler, or none succeeds.
    """
    target = sources.library if target is None else target
    sets = SETS.get(platform.machine().lower())
    if sets is None:
        msg = f"no instruction set is known for {platform.machine()!r}, only for {', '.join(SETS)}."
        raise CompileError(msg)
    complaints: list[str] = []
    for compiler in find_compilers():
        try:
            _compile(compiler, sources, sets, target, extra)
        except (OSError, subprocess.SubprocessError) as error:
            output = f"\n{error.stderr}" if isinstance(error, subprocess.CalledProcessError) else ""
            complaints.append(f"{shlex.join(compiler)}: {error}{output}")
        else:
            return target
    raise CompileError("\n".join(complaints) or "no compiler was found: set CC, or install gcc, clang or ziglang.")


def _compile(
    compiler: list[str],
    sources: KernelSources,
    sets: Mapping[str, tuple[str, ...]],
    target: Path,
    extra: Sequence[str],
) -> None:
    # Compiled in a temporary folder and moved when complete: another process reads the old library or the new one.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        sets = {name: flags for at, (name, flags) in enumerate(sets.items()) if not at or _knows(compiler, flags)}
        parts = list(_list_parts(sources, sets))
        objects = [str(Path(folder, f"{number}.o")) for number in range(len(parts))]
        commands = [
            [*compiler, *FLAGS, f"-I{_SHARED}", *flags, *extra, "-c", str(source), "-o", output]
            for output, (source, flags) in zip(objects, parts, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_call, commands))
        linked = str(Path(folder, target.name))
        # libm is named last: linkers look in a library for what is missing so far.
        _call([*compiler, "-shared", "-pthread", *extra, *objects, "-o", linked, "-lm"])
        Path(linked).replace(target)


def _list_parts(sources: KernelSources, sets: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield each file to compile, with its flags."""
    yield _MAIN, (f"-DDIGEST={sources.compute_digest()}",)
    for name, needed in sets.items():
        flags = (*needed, *sources.flags.get(name, ()))
        for source in sources.sources:
            yield source, (f"-DSET={name}", *flags)
        for suffix, (names, more) in sources.variants.items():
            if name in names:
                yield sources.sources[0], (f"-DSET={name}_{suffix}", *more, *flags)


def _knows(compiler: list[str], flags: tuple[str, ...]) -> bool:
    """Return whether a compiler accepts flags: gcc before 10 and clang before 9 have no -mavx512bf16."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder, "empty.c")
        empty.touch()
        try:
            _call([*compiler, *flags, "-c", str(empty), "-o", str(empty.with_suffix(".o"))])
        except subprocess.CalledProcessError:
            return False
    return True


def _call(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)  # noqa: S603 - the user's compiler


def compile_in_place(folder: Path, extra: Sequence[str] = ()) -> int:
    """Compile a folder in place, with more flags, and print the path of the library."""
    try:
        sys.stdout.write(f"{compile_library(read_sources(folder), extra=extra)}\n")
    except CompileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
