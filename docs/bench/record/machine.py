"""What a run was measured on."""

import os
import platform
from pathlib import Path

import attrs
import torch

from pipeline_recurrent.native import available


@attrs.frozen
class Machine:
    """The machine and what ran on it.

    Attributes:
        processor: its name.
        instructions: the vector instructions that torch uses.
        cores: how many the process may use.
        threads: how many torch begins with.
        torch, python: their versions.
        native: why there is no native engine; None if there is one.
        load: how many processes wanted a core in the minute before; well above 0 it was a busy machine.
    """

    processor: str
    instructions: str
    cores: int
    threads: int
    torch: str
    python: str
    native: str | None
    load: float

    def __str__(self) -> str:
        engine = "native engine" if self.native is None else f"no native engine: {self.native}"
        return (
            f"{self.processor}, {self.instructions}, {self.cores} cores (load {self.load:.1f} at the start), "
            f"torch {self.torch} with threads={self.threads}, Python {self.python}, {engine}"
        )


def machine() -> Machine:
    """This one."""
    return Machine(
        processor=_processor(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        python=platform.python_version(),
        native=available(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    )


def _processor() -> str:
    """Its name where the system says it, else its kind."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
