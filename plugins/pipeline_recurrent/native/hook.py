"""Hatchling's way to the compiler: a wheel built where one is found carries the compiled kernels.

They bind to no version of Python or torch, so such a wheel is `py3-none-<platform>`. Where nothing can be compiled
it is `py3-none-any`, without them: the library works all the same. Zig makes wheels for older systems than this one:
`CC="zig cc -target x86_64-linux-gnu.2.17" PIPELINE_PLATFORM=manylinux_2_17_x86_64 nox -s wheel`.
"""

import os
import runpy
import sysconfig
from pathlib import Path
from typing import Any, final

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


@final
class CompileHook(BuildHookInterface[BuilderConfig]):
    """Compiles into the package's folder, and adds what came out to the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile if that is possible; if not, say why and go on."""
        if os.environ.get("PIPELINE_NATIVE") == "0":
            return
        try:
            # By path: the package itself imports torch, which need not be installed where wheels are built.
            compiled = runpy.run_path(str(Path(__file__).with_name("compile.py")))["compiled"]
            library = Path(compiled())
        except Exception as error:  # noqa: BLE001 - nothing that goes wrong here may stop an installation
            self.app.display_warning(f"The native engine was not compiled, others do its work. {error}")
            return
        if version != "editable":
            build_data["artifacts"].append(library.relative_to(self.root).as_posix())
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag()}"


def platform_tag() -> str:
    """The platform as wheels name it: PIPELINE_PLATFORM, for a compiler that aims elsewhere, or this machine's."""
    named = os.environ.get("PIPELINE_PLATFORM") or sysconfig.get_platform()
    return named.replace("-", "_").replace(".", "_")
