"""The cost model: the time of an engine as a weighted sum of a few sizes.

`fit_costs.py` fits the weights to measured times, separately for each engine, kind of cell, training or inference,
precision, machines with AMX and without, and number of threads; `costs.json` holds them. The model errs by several
percent. That is enough to choose by: where the times of two engines are so close, either is a good choice.
`check_costs.py` measures what choices cost.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Final, Literal, TypeAlias, cast, final

import attrs
import torch

from pipeline_recurrent.engines.engine import Cell, StackInputs
from pipeline_recurrent.native.library import has_amx

Family: TypeAlias = Literal["lstm", "gru", "rnn"]
"""Cells with costs of their own; the nonlinearity of a plain RNN hardly matters."""

Precision: TypeAlias = Literal["float32", "bfloat16"]
"""Precisions with costs of their own: bfloat16 weights and bfloat16 autocast share one, all other dtypes the other."""

FEATURES: Final = (
    "call",
    "direction",
    "step",
    "direction_step",
    "vectors",
    "input",
    "recurrent",
    "packing",
    "weights",
    "spill",
    "elements",
    "square",
)
"""The names of the terms, in the order of `compute_features`."""

PACKED_EVEN: Final = "packed, even"
"""The entry in the file for torch's packed LSTM over rows of one length, which torch sends to its dense kernel."""

_GATES: Final[Mapping[Family, int]] = {"lstm": 4, "gru": 3, "rnn": 1}

# Floats of weights that stay in a core's second-level cache between two steps: half of its usual megabyte.
_CACHED: Final = 2**17

# The native engine rounds hidden sizes up to whole vectors: 16 floats with AVX-512.
_LANES: Final = 16

# Choices are remembered for this many sizes, then all are forgotten: nothing else bounds them in a long run.
_MAX_REMEMBERED: Final = 4_096


@attrs.frozen
class Sizes:
    """The sizes that costs depend on.

    Attributes:
        family: the kind of cell.
        training: whether a backward pass follows.
        rows: number of rows that have steps.
        longest: steps of the longest row.
        steps: number of real steps.
        features: features of an input vector; 0 if input products are looked up.
        hidden: features of a state, per direction.
        layers: number of layers.
        directions: 1 or 2.
        precision: the precision of the products that is asked for.
        amx: whether the machine has AMX. Only products of bfloat16 use it; but such processors are of another kind, on
            which other engines are the fastest in float32, too.
    """

    family: Family
    training: bool
    rows: int
    longest: int
    steps: int
    features: int
    hidden: int
    layers: int = 1
    directions: int = 1
    precision: Precision = "float32"
    amx: bool = False

    @classmethod
    def of(cls, stack: StackInputs) -> "Sizes":
        """Return the sizes of a stack over a batch."""
        order, is_low = stack.order, stack.low_dtype is torch.bfloat16
        return cls(
            _FAMILIES[stack.cell],
            stack.needs_grad,
            order.nonempty_count,
            order.longest,
            order.steps,
            stack.features,
            stack.hidden,
            stack.layers,
            stack.directions,
            "bfloat16" if is_low else "float32",
            has_amx(),
        )

    @property
    def table_key(self) -> str:
        """The key of the engines' weights for these sizes in the file."""
        mode, machine = "training" if self.training else "inference", " with amx" if self.amx else ""
        return f"{self.family} {mode} {self.precision}{machine}"

    def entry_of(self, engine: str) -> str:
        """Return the entry with an engine's weights: torch's packed LSTM has two."""
        even = engine == "packed" and self.family == "lstm" and self.steps == self.rows * self.longest
        return PACKED_EVEN if even else engine


_FAMILIES: Final[Mapping[Cell, Family]] = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "rnn", "rnn_relu": "rnn"}


def compute_features(engine: str, sizes: Sizes) -> tuple[float, ...]:
    """Return the terms of an engine's time, in the order of `FEATURES`, in units near a microsecond each.

    - call, direction, step, direction_step: calls of a layer and of its directions, time steps, and time steps of each
      direction: fixed overheads.
    - vectors: numbers in the input, which some engines copy, reverse or pad.
    - input, recurrent: operations of the two products, in millions.
    - packing: numbers in the weights, once: they are rearranged before the first step, and get gradients at the end.
    - weights: reads of the recurrent weights, once per time step: the time of a lone row, which waits for memory.
    - spill: those of them that do not fit into the cache.
    - elements: numbers in the gates: sigmoids and tanhs.
    - square: zeros that autograd fills in when it differentiates torch's packed loop. Each step's gradient is padded to
      the size of all steps, so this is quadratic in the length of the rows.
    """
    # The dense kernel also computes the padding.
    steps = sizes.rows * sizes.longest if engine == "dense" else sizes.steps
    hidden = -(-sizes.hidden // _LANES) * _LANES if engine == "native" else sizes.hidden
    directions, layers, time = sizes.directions, sizes.layers, sizes.longest
    gates = _GATES[sizes.family] * hidden / 1e6
    # All layers but the first read the output of the layer before, of both directions.
    inputs = sizes.features + (layers - 1) * hidden * directions
    runs = layers * directions
    return (
        layers,
        runs,
        layers * time,
        runs * time,
        directions * steps * inputs / 1e6,
        directions * steps * gates * inputs,
        runs * steps * gates * hidden,
        directions * gates * (inputs + layers * hidden),
        runs * time * gates * hidden,
        runs * time * max(0.0, gates * hidden - _CACHED / 1e6),
        runs * steps * gates,
        runs * time * steps * gates if engine == "packed" and sizes.training else 0.0,
    )


Table: TypeAlias = Mapping[str, Mapping[str, tuple[float, ...]]]
"""For each `Sizes.table_key`, each engine's weights of the features."""

_Remembered: TypeAlias = dict[tuple[Sizes, int, torch.dtype], Sequence[str]]


@final
@attrs.frozen
class Costs:
    """The costs of the engines, by the number of threads with which they were measured.

    Example:
        >>> sizes = Sizes("lstm", True, rows=32, longest=600, steps=7_000, features=100, hidden=128)
        >>> costs = load_costs()
        >>> costs.microseconds("plain", sizes, threads=1) < costs.microseconds("packed", sizes, threads=1)
        True
    """

    by_threads: Mapping[int, Table]
    _remembered: _Remembered = attrs.field(factory=_Remembered, init=False, eq=False)

    @classmethod
    def read(cls, text: str) -> "Costs":
        """Read the JSON that `fit_costs` writes."""
        tables = cast("dict[str, dict[str, dict[str, dict[str, float]]]]", json.loads(text)["threads"])
        return cls(
            {
                int(threads): {
                    key: {engine: tuple(weights.get(name, 0.0) for name in FEATURES) for engine, weights in row.items()}
                    for key, row in table.items()
                }
                for threads, table in tables.items()
            }
        )

    def weights(self, sizes: Sizes, threads: int) -> Mapping[str, tuple[float, ...]]:
        """Return the engines' weights, measured with the nearest number of threads."""
        # Not interpolated: no engine's time falls in proportion to the number of threads.
        nearest = min(self.by_threads, key=lambda known: (abs(known - threads), known))
        table = self.by_threads[nearest]
        # A file without costs of bfloat16, or of AMX, is still better than none.
        without = attrs.evolve(sizes, amx=False)
        keys = sizes.table_key, without.table_key, attrs.evolve(without, precision="float32").table_key
        found = [table[key] for key in keys if key in table]
        return found[0] if found else {}

    def microseconds(self, engine: str, sizes: Sizes, threads: int) -> float:
        """Return an estimate of an engine's time, with its backward pass in training. Only good for comparing."""
        weights = self.weights(sizes, threads)[sizes.entry_of(engine)]
        return sum(weight * feature for weight, feature in zip(weights, compute_features(engine, sizes), strict=True))

    def rank(self, stack: StackInputs) -> Sequence[str]:
        """Return the engines with known costs, the cheapest first."""
        sizes, threads = Sizes.of(stack), torch.get_num_threads()
        # Remembered, because over one short row ranking takes as long as the best engine saves.
        ranked = self._remembered.get((sizes, threads, stack.dtype))
        if ranked is None:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            ranked = self.rank_sizes(sizes, threads)
            # The dense engine's times are those of oneDNN, which has no float64.
            if stack.dtype is torch.float64:
                ranked = [engine for engine in ranked if engine != "dense"]
            self._remembered[sizes, threads, stack.dtype] = ranked
        return ranked

    def rank_sizes(self, sizes: Sizes, threads: int) -> Sequence[str]:
        """Return the engines with known costs for sizes, the cheapest first."""
        known = self.weights(sizes, threads)
        engines = [engine for engine in known if engine != PACKED_EVEN and sizes.entry_of(engine) in known]
        times = {engine: self.microseconds(engine, sizes, threads) for engine in engines}
        return sorted(times, key=lambda engine: times[engine])


@cache
def load_costs() -> Costs:
    """Load this package's costs; `python -m pipeline_recurrent.engines.fit_costs` replaces them."""
    return Costs.read(files("pipeline_recurrent.engines").joinpath("costs.json").read_text("utf-8"))
