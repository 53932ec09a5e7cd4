"""Compiling the kernels: `python -m pipeline_recurrent.native` does it in place, for a checkout.

Nothing is needed but the standard library: the build hook loads this file by itself, where torch may be absent.
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
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.c")
LIBRARY = SOURCE.with_name({"win32": "kernels.dll", "darwin": "kernels.dylib"}.get(sys.platform, "kernels.so"))

FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-g0", "-fvisibility=default", "-Wall", "-Wextra", "-ffp-contract=off")
AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mprefer-vector-width=512")
X86: dict[str, tuple[str, ...]] = {
    "sse2": ("-DLANES=4", "-DTILE=3"),
    "avx2": ("-DLANES=8", "-DTILE=3", "-mavx2", "-mfma"),
    # Thirty-two registers hold six rows of four sums, the columns and what multiplies them; sixteen hold three.
    "avx512": ("-DLANES=16", "-DTILE=6", "-mavx2", "-mfma", *AVX512),
}
ARM: dict[str, tuple[str, ...]] = {"neon": ("-DLANES=4", "-DTILE=6")}
SETS: dict[str, dict[str, tuple[str, ...]]] = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}
"""The instruction sets of each kind of machine, the narrowest first, and what the compiler is told for each."""


class CompileError(Exception):
    """No library could be made; the message says why, in the compiler's words where it spoke."""


def digest() -> str:
    """What tells this source from any other: a library carries it, and is refused beside another source."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]


def compilers() -> Iterator[list[str]]:
    """The compilers to try, the best first: what CC names, alone if it is set; gcc; clang; cc; zig."""
    if named := os.environ.get("CC"):
        yield shlex.split(named)
        return
    for name in ("gcc", "clang", "cc"):
        if found := shutil.which(name):
            yield [found]
    if find_spec("ziglang") is not None:
        yield [sys.executable, "-m", "ziglang", "cc"]


def compiled(target: Path = LIBRARY, extra: tuple[str, ...] = ()) -> Path:
    """Make the library with the first compiler that can, for every instruction set of this kind of machine.

    Args:
        target: where it goes.
        extra: more flags, for the compiler and the linker alike: `-fsanitize=address` is one.

    Raises:
        CompileError: if there is no compiler, or none that can.
    """
    sets = SETS.get(platform.machine().lower())
    if sets is None:
        msg = f"no instruction set is known for {platform.machine()!r}, only for {', '.join(SETS)}."
        raise CompileError(msg)
    complaints: list[str] = []
    for compiler in compilers():
        try:
            _compile(compiler, sets, target, extra)
        except (OSError, subprocess.SubprocessError) as error:
            said = f"\n{error.stderr}" if isinstance(error, subprocess.CalledProcessError) else ""
            complaints.append(f"{shlex.join(compiler)}: {error}{said}")
        else:
            return target
    raise CompileError("\n".join(complaints) or "no compiler was found: set CC, or install gcc, clang or ziglang.")


def _compile(compiler: list[str], sets: dict[str, tuple[str, ...]], target: Path, extra: tuple[str, ...]) -> None:
    # In a folder of its own and moved when whole: what reads the library meanwhile sees the old one or the new one.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        parts = {name: (f"-DSET={name}", *flags) for name, flags in sets.items()}
        parts["main"] = ("-DMAIN", f"-DDIGEST={digest()}")
        objects = [str(Path(folder, f"{name}.o")) for name in parts]
        for made, flags in zip(objects, parts.values(), strict=True):
            _call([*compiler, *FLAGS, *flags, *extra, "-c", str(SOURCE), "-o", made])
        whole = str(Path(folder, target.name))
        _call([*compiler, "-shared", "-pthread", *extra, *objects, "-o", whole])
        Path(whole).replace(target)


def _call(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)  # noqa: S603 - what CC names


def main() -> int:
    """Compile in place, with what is on the command line as more flags, and say where the library is."""
    try:
        sys.stdout.write(f"{compiled(extra=tuple(sys.argv[1:]))}\n")
    except CompileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
