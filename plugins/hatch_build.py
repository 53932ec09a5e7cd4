"""Build hook of hatchling: a wheel that is built where a compiler exists contains the compiled kernels.

They depend on no version of Python or torch, so such a wheel is tagged `py3-none-<platform>`. Where nothing can be
compiled, the wheel is `py3-none-any` without them, and the library works all the same. Zig makes wheels for systems
older than its own:

    CC="zig cc -target x86_64-linux-gnu.2.17" PIPELINE_PLATFORM=manylinux_2_17_x86_64 nox -s wheel

This file lies outside the packages: it is needed to build them, and is not installed.
"""

import os
import runpy
import sysconfig
from pathlib import Path
from typing import Any, final

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PLUGINS = Path(__file__).parent
_COMPILE = _PLUGINS.parent / "pipeline" / "native" / "compile.py"


@final
class CompileHook(BuildHookInterface[BuilderConfig]):
    """Compile the kernels of every plugin that has some into its package, and add the libraries to the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile if possible; otherwise print the reason, and build without the kernels."""
        if os.environ.get("PIPELINE_NATIVE") == "0":
            return
        # By path: importing the package would import torch, which may be absent where wheels are built.
        compile_folder = runpy.run_path(str(_COMPILE))["compile_folder"]
        libraries: list[Path] = []
        for description in sorted(_PLUGINS.glob("*/native/native.toml")):
            try:
                libraries.append(Path(compile_folder(description.parent)))
            except Exception as error:  # noqa: BLE001 - no failure of any kind may stop an installation
                plugin = description.parents[1].name
                self.app.display_warning(
                    f"The kernels of {plugin} were not compiled; torch's operations replace them. {error}"
                )
        if libraries and version != "editable":
            build_data["artifacts"].extend(library.relative_to(self.root).as_posix() for library in libraries)
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{get_platform_tag()}"


def get_platform_tag() -> str:
    """Return the platform's name in wheels: PIPELINE_PLATFORM if a compiler targets another, or this machine's."""
    named = os.environ.get("PIPELINE_PLATFORM") or sysconfig.get_platform()
    return named.replace("-", "_").replace(".", "_")
