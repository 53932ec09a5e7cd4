"""The choice of an engine for each batch: the one that was asked for, or the fastest according to the cost model."""

from collections.abc import Mapping
from functools import cache
from typing import Final, Literal, TypeAlias, get_args

import torch

from pipeline.extend import OptionError, registry
from pipeline_recurrent.engines.costs import Costs, load_costs
from pipeline_recurrent.engines.engine import Engine, StackInputs
from pipeline_recurrent.engines.native import Native
from pipeline_recurrent.engines.plain import Plain
from pipeline_recurrent.engines.torch_kernels import CuDNN, Dense, Packed
from pipeline_recurrent.native.library import available, describe_instructions

EngineName: TypeAlias = Literal["auto", "packed", "dense", "plain", "native", "cudnn"]
"""The values of the option `engine`; `auto` chooses for each batch."""

ENGINES: Final[Mapping[str, Engine]] = {
    engine.name: engine for engine in (Packed(), Dense(), Plain(), Native(), CuDNN())
}
"""The engines by name."""


def choose_engine(name: EngineName, stack: StackInputs, costs: Costs | None = None) -> Engine:
    """Return the engine that computes a stack.

    Args:
        name: an engine's name, or "auto".
        stack: the layers and the batch.
        costs: a cost model; this package's own if None.

    Raises:
        OptionError: if the named engine cannot compute the stack, or none can.
    """
    device = stack.steps.device.type
    if stack.zoneout is not None:
        return _require("plain" if name == "auto" or device == "meta" else name, stack)
    if stack.projections and (name == "auto" or device == "meta"):
        is_fast = ENGINES["cudnn"].unsupported_reason(stack) is None
        return _require("cudnn" if is_fast else "packed", stack)
    # Tensors on the meta device have shapes only; a summary asks for these and counts operations, whichever the engine.
    if name != "auto" and device != "meta":
        return _require(name, stack)
    if device == "cpu":
        # In order of cost: an engine that comes after the chosen one is never asked, which might load a library.
        for candidate in (load_costs() if costs is None else costs).rank(stack):
            if candidate in ENGINES and ENGINES[candidate].unsupported_reason(stack) is None:
                return ENGINES[candidate]
    elif ENGINES["cudnn"].unsupported_reason(stack) is None:
        return ENGINES["cudnn"]
    # Packed takes everything but ids and transforms, and plain takes those.
    return _require("plain" if stack.looks_up or stack.transform else "packed", stack)


def _require(name: str, stack: StackInputs) -> Engine:
    """Return an engine by name if it can compute a stack."""
    engine = ENGINES.get(name) or _make_offered(name)
    lacks_zoneout = stack.zoneout is not None and not engine.zoneout
    lacks_projections = bool(stack.projections) and not engine.projections
    reason = "it has no zoneout" if lacks_zoneout else "it has no projections" if lacks_projections else None
    reason = reason or engine.unsupported_reason(stack)
    if reason is not None:
        msg = f"engine={name!r} cannot run this batch, because {reason}; choose another, or engine='auto'."
        raise OptionError(msg, engine=name, reason=reason)
    return engine


def check_engine_name(name: str) -> None:
    """Reject a name that is not one of this package's engines, and not one that another plugin offers for it.

    Raises:
        OptionError: listing the names.
    """
    if name in get_args(EngineName):
        return
    offered = registry().engines.names()
    if name not in offered:
        others = [other for other in offered if other not in ENGINES]
        msg = f"engine must be one of {', '.join([*get_args(EngineName), *others])}, got {name!r}."
        raise OptionError(msg, engine=name)
    _make_offered(name)


@cache
def _make_offered(name: str) -> Engine:
    """Create an engine that another plugin offers.

    Raises:
        OptionError: if it is an engine for another package.
    """
    engine = registry().engines.make(name)
    if not isinstance(engine, Engine):
        msg = f"engine={name!r} computes parts of {engine.computes}, not recurrent layers; choose another."
        raise OptionError(msg, engine=name)
    return engine


def describe_engines() -> str:
    """Return a line on what computes recurrent layers on this machine, and why nothing faster does.

    Example:
        >>> describe_engines().partition(" ")[0] in {"native", "plain", "cudnn"}
        True
    """
    reason, threads = available(), torch.get_num_threads()
    if reason is None:
        line = f"native (compiled, {describe_instructions()}), or torch's kernels where they are faster"
    else:
        line = f"plain torch operations, or torch's kernels where they are faster; not native, because {reason}"
    line = f"{line}; {threads} thread{'s' if threads > 1 else ''}"
    return f"cudnn on the GPU; on the CPU {line}" if torch.cuda.is_available() else line
