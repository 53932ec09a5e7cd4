"""How long each engine takes for a run: a few fitted numbers times a few sizes."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Final, Literal, TypeAlias, cast, final

import attrs
import torch

from pipeline_recurrent.engines.run import Cell, Run

Family: TypeAlias = Literal["lstm", "gru", "rnn"]
"""The cells whose costs differ: what squashes a plain RNN's sum hardly matters."""

FEATURES: Final = ("call", "step", "direction_step", "input", "recurrent", "weights", "elements", "square")
"""What time may go to, in the order of `features`."""

EVEN: Final = "packed, even"
"""What torch's packed LSTM is called in the file where all rows are of one length."""

_GATES: Final[Mapping[Family, int]] = {"lstm": 4, "gru": 3, "rnn": 1}
_REMEMBERED: Final = 4_096
"""How many sizes are remembered with what they were best done by."""
_MARGIN: Final = 0.9
"""Another engine must promise to take at most this share of the time that torch's packed kernel takes: a model errs."""


@attrs.frozen
class Sizes:
    """What of a run its cost depends on.

    Attributes:
        family: what kind of cell.
        learning: whether gradients will be asked for.
        rows: how many rows have steps.
        longest: how many steps the longest has.
        steps: how many real steps there are.
        features: how many features a step has that comes in.
        hidden: how many a state has, a direction.
        layers: how many are stacked.
        directions: one, or two.
    """

    family: Family
    learning: bool
    rows: int
    longest: int
    steps: int
    features: int
    hidden: int
    layers: int = 1
    directions: int = 1

    @classmethod
    def of(cls, run: Run) -> "Sizes":
        """The sizes of a run."""
        order = run.order
        return cls(
            family_of(run.cell),
            run.learning,
            order.occupied,
            order.longest,
            order.steps,
            run.features,
            run.hidden,
            run.layers,
            run.directions,
        )


def family_of(cell: Cell) -> Family:
    """What kind of cell it is to the cost model."""
    return "lstm" if cell == "lstm" else "gru" if cell == "gru" else "rnn"


def features(engine: str, sizes: Sizes) -> tuple[float, ...]:
    """What an engine's time is a weighted sum of, in units near a microsecond each.

    By name: `call` and `step` count calls of a layer and steps in time, `direction_step` the latter for each
    direction; `input` and `recurrent` are the operations of the two products, in millions, `weights` how often the
    recurrent weights are read, `elements` the numbers in the gates, and `square` what autograd fills with zeros when
    it differentiates torch's packed loop, which is quadratic in the length of the rows.
    """
    steps = sizes.rows * sizes.longest if engine == "dense" else sizes.steps
    gates = _GATES[sizes.family] * sizes.hidden / 1e6
    halves, layers, time = sizes.directions, sizes.layers, sizes.longest
    read = sizes.features + (layers - 1) * sizes.hidden * halves
    return (
        layers,
        layers * time,
        layers * time * halves,
        halves * steps * gates * read,
        halves * layers * steps * gates * sizes.hidden,
        halves * layers * time * gates * sizes.hidden,
        halves * layers * steps * gates,
        halves * layers * time * steps * gates if engine == "packed" and sizes.learning else 0.0,
    )


Table: TypeAlias = Mapping[str, Mapping[str, tuple[float, ...]]]
"""For each "family training" or "family inference" the weights of `features`, an engine."""


_Asked: TypeAlias = tuple[Sizes, int, torch.dtype]


@final
@attrs.frozen
class Costs:
    """What engines cost, by the number of threads that was measured with.

    Example:
        >>> sizes = Sizes("lstm", True, rows=32, longest=600, steps=7_000, features=100, hidden=128)
        >>> known = costs()
        >>> known.microseconds("plain", sizes, threads=1) < known.microseconds("packed", sizes, threads=1)
        True
    """

    by_threads: Mapping[int, Table]
    _remembered: dict[_Asked, Sequence[str]] = attrs.field(factory=dict[_Asked, Sequence[str]], init=False, eq=False)

    @classmethod
    def read(cls, text: str) -> "Costs":
        """Costs as `fit` writes them."""
        held = cast("dict[str, dict[str, dict[str, dict[str, float]]]]", json.loads(text)["threads"])
        return cls(
            {
                int(threads): {
                    of: {engine: tuple(weights.get(name, 0.0) for name in FEATURES) for engine, weights in row.items()}
                    for of, row in table.items()
                }
                for threads, table in held.items()
            }
        )

    def of(self, sizes: Sizes, threads: int) -> Mapping[str, tuple[float, ...]]:
        """The engines' weights for such sizes, measured with about as many threads."""
        nearest = min(self.by_threads, key=lambda known: (abs(known - threads), known))
        return self.by_threads[nearest].get(key(sizes), {})

    def microseconds(self, engine: str, sizes: Sizes, threads: int) -> float:
        """About how long an engine takes, in training with its backward pass; of any use only beside another's."""
        weights = self.of(sizes, threads)[entry(engine, sizes)]
        return sum(weight * feature for weight, feature in zip(weights, features(engine, sizes), strict=True))

    def ranked(self, run: Run) -> Sequence[str]:
        """The engines whose costs are known, the one to try first in front."""
        sizes, threads = Sizes.of(run), torch.get_num_threads()
        # Remembered: over one short row it takes as long to weigh the engines as to gain by the choice.
        found = self._remembered.get((sizes, threads, run.dtype))
        if found is None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            found = self._remembered[sizes, threads, run.dtype] = self._ranked(sizes, threads, run.dtype)
        return found

    def _ranked(self, sizes: Sizes, threads: int, dtype: torch.dtype) -> Sequence[str]:
        known = self.of(sizes, threads)
        engines = [engine for engine in known if engine != EVEN and entry(engine, sizes) in known]
        times = {engine: self.microseconds(engine, sizes, threads) for engine in engines}
        if "packed" in times:
            times["packed"] *= _MARGIN
        # oneDNN knows no float64, and what was measured is float32.
        if dtype is torch.float64:
            times.pop("dense", None)
        return sorted(times, key=lambda engine: times[engine])


def entry(engine: str, sizes: Sizes) -> str:
    """Under which name an engine's weights stand: torch's packed LSTM goes the dense way over rows of one length."""
    even = engine == "packed" and sizes.family == "lstm" and sizes.steps == sizes.rows * sizes.longest
    return EVEN if even else engine


def key(sizes: Sizes) -> str:
    """Under which name the weights for such sizes stand in the file."""
    return f"{sizes.family} {'training' if sizes.learning else 'inference'}"


@cache
def costs() -> Costs:
    """The costs that this package was shipped with, or that `python -m pipeline_recurrent.engines.fit` wrote."""
    return Costs.read(files("pipeline_recurrent.engines").joinpath("costs.json").read_text("utf-8"))
