"""Compile the kernels. In a checkout, `python -m pipeline_recurrent.native` does it in place.

Only the standard library is imported: the build hook runs this file by path, where torch may be absent.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

SOURCES = (Path(__file__).with_name("kernels.c"), Path(__file__).with_name("inference.c"))
"""The sources; the first one also has the parts that depend on no instruction set."""
LIBRARY = SOURCES[0].with_name({"win32": "kernels.dll", "darwin": "kernels.dylib"}.get(sys.platform, "kernels.so"))

# -ffp-contract=off: the source says itself where a product and a sum are rounded once. No -ffast-math: with it the
# compiler may assume that there are no NaNs, but a NaN in a batch must survive.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-g0", "-fvisibility=default", "-Wall", "-Wextra", "-ffp-contract=off")
# -mprefer-vector-width=512: by default some compilers split vectors of 16 floats into two of 8.
AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mprefer-vector-width=512")
# LANES is floats per vector register. TILE is rows whose sums stay in registers during a product: each row needs four
# (a vector of each gate). With 16 registers (sse2, avx2), three rows take 12, and the columns and the multiplier the
# rest. With 32 (avx512, neon), six rows take 24. More rows would spill to memory; fewer load the weights more often.
X86: dict[str, tuple[str, ...]] = {
    "sse2": ("-DLANES=4", "-DTILE=3"),
    "avx2": ("-DLANES=8", "-DTILE=3", "-mavx2", "-mfma"),
    "avx512": ("-DLANES=16", "-DTILE=6", "-mavx2", "-mfma", *AVX512),
    # With products of bfloat16 (Cooper Lake, Sapphire Rapids, Zen 4), and of bytes, which these processors have too.
    "avx512bf16": ("-DLANES=16", "-DTILE=6", "-mavx2", "-mfma", *AVX512, "-mavx512vnni", "-mavx512bf16"),
}
ARM: dict[str, tuple[str, ...]] = {"neon": ("-DLANES=4", "-DTILE=6")}
SETS: dict[str, dict[str, tuple[str, ...]]] = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}
"""For each kind of machine, its instruction sets, the narrowest first, with their compiler flags."""
BFLOAT16_SETS = {"avx512bf16"}
"""Instruction sets with products of bfloat16. The first source is compiled for these once more, with -DLOW."""


class CompileError(Exception):
    """The library could not be compiled; the message gives the reason, and the compiler's own words."""


def compute_digest() -> str:
    """Return a hash of the sources. A library contains that of its own sources, and is rejected with any other."""
    return hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:16]


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


def compile_library(target: Path = LIBRARY, extra: tuple[str, ...] = ()) -> Path:
    """Compile for every instruction set of this kind of machine, with the first compiler that succeeds.

    Sets whose flags the compiler does not know are left out, except the narrowest one. Then narrower ones are loaded.

    Args:
        target: the file to write.
        extra: more flags for both compiler and linker, such as `-fsanitize=address`.

    Raises:
        CompileError: if there is no compiler, or none succeeds.
    """
    sets = SETS.get(platform.machine().lower())
    if sets is None:
        msg = f"no instruction set is known for {platform.machine()!r}, only for {', '.join(SETS)}."
        raise CompileError(msg)
    complaints: list[str] = []
    for compiler in find_compilers():
        try:
            _compile(compiler, sets, target, extra)
        except (OSError, subprocess.SubprocessError) as error:
            output = f"\n{error.stderr}" if isinstance(error, subprocess.CalledProcessError) else ""
            complaints.append(f"{shlex.join(compiler)}: {error}{output}")
        else:
            return target
    raise CompileError("\n".join(complaints) or "no compiler was found: set CC, or install gcc, clang or ziglang.")


def _compile(compiler: list[str], sets: dict[str, tuple[str, ...]], target: Path, extra: tuple[str, ...]) -> None:
    # Compiled in a temporary folder and moved when complete: another process reads the old library or the new one.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        sets = {name: flags for at, (name, flags) in enumerate(sets.items()) if not at or _knows(compiler, flags)}
        parts = {
            f"{source.stem}-{name}": (source, f"-DSET={name}", *flags)
            for source in SOURCES
            for name, flags in sets.items()
        }
        for name in BFLOAT16_SETS.intersection(sets):
            parts[f"low-{name}"] = (SOURCES[0], f"-DSET={name}_low", "-DLOW", *sets[name])
        parts["main"] = (SOURCES[0], "-DMAIN", f"-DDIGEST={compute_digest()}")
        objects = [str(Path(folder, f"{name}.o")) for name in parts]
        commands = [
            [*compiler, *FLAGS, *flags, *extra, "-c", str(source), "-o", output]
            for output, (source, *flags) in zip(objects, parts.values(), strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_call, commands))
        linked = str(Path(folder, target.name))
        _call([*compiler, "-shared", "-pthread", *extra, *objects, "-o", linked])
        Path(linked).replace(target)


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


def main() -> int:
    """Compile in place, with the command line's arguments as more flags, and print the path of the library."""
    try:
        sys.stdout.write(f"{compile_library(extra=tuple(sys.argv[1:]))}\n")
    except CompileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
