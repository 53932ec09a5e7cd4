"""Which engine runs a batch: the one that was asked for, or the one that the cost model thinks fastest."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from pipeline.errors import OptionError
from pipeline_recurrent.engines.costs import Costs, costs
from pipeline_recurrent.engines.dense import Dense
from pipeline_recurrent.engines.engine import Engine
from pipeline_recurrent.engines.native import Native
from pipeline_recurrent.engines.packed import CuDNN, Packed
from pipeline_recurrent.engines.plain import Plain
from pipeline_recurrent.engines.run import Run

EngineName: TypeAlias = Literal["auto", "packed", "dense", "plain", "native", "cudnn"]
"""What may be asked for; `auto` is asked for each batch anew."""

ENGINES: Final[Mapping[str, Engine]] = {
    engine.name: engine for engine in (Packed(), Dense(), Plain(), Native(), CuDNN())
}
"""The engines by name."""


def chosen(name: EngineName, run: Run, known: Costs | None = None) -> Engine:
    """The engine for a run.

    Args:
        name: an engine's, or "auto".
        run: what is to be computed.
        known: what engines cost; that of this package if None.

    Raises:
        OptionError: if an engine is named that cannot take the run, or none can.
    """
    last = "plain" if run.precompute_inputs else "packed"
    # Of tensors without content shapes are asked for, and how much there is to compute: any engine tells.
    if name != "auto" and run.steps.device.type != "meta":
        return _able(name, run)
    if run.steps.device.type != "cpu":
        return _able(last, run) if ENGINES["cudnn"].refusal(run) else ENGINES["cudnn"]
    known = costs() if known is None else known
    # Cheapest first, so that no engine is asked in vain: to ask may mean to look for a library.
    for candidate in known.ranked(run):
        if candidate in ENGINES and ENGINES[candidate].refusal(run) is None:
            return ENGINES[candidate]
    return _able(last, run)


def _able(name: str, run: Run) -> Engine:
    """An engine that takes a run."""
    reason = ENGINES[name].refusal(run)
    if reason is not None:
        msg = f"engine={name!r} cannot run this batch, because {reason}; choose another, or engine='auto'."
        raise OptionError(msg, engine=name, reason=reason)
    return ENGINES[name]
