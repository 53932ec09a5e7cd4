"""Which engines there are on this machine, in a line."""

import torch

from pipeline_recurrent.engines.native import compiled


def status() -> str:
    """What computes recurrent layers here, and why nothing faster does.

    Example:
        >>> status().partition(" ")[0] in {"native", "plain", "cudnn"}
        True
    """
    found, threads = compiled(), torch.get_num_threads()
    if isinstance(found, str):
        said = f"plain torch operations, or torch's kernels where they are faster; not native, because {found}"
    else:
        said = f"native (compiled, {found.instructions()}), or torch's kernels where they are faster"
    said = f"{said}; {threads} thread{'s' if threads > 1 else ''}"
    return f"cudnn on the GPU; on the CPU {said}" if torch.cuda.is_available() else said
