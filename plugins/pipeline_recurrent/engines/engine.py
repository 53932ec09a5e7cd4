"""What an engine is: a way to compute a stack of recurrent layers. All give the same; they differ in time alone."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from pipeline.data.batches import Carry
from pipeline.data.order import Order
from pipeline_recurrent.engines.run import Answer, Cell, Run, Steps, Weights


class Engine(ABC):
    """A way to run a batch through a stack.

    Attributes:
        name: what it is called in options, reports and errors.
    """

    name: ClassVar[str]

    @abstractmethod
    def refusal(self, run: Run) -> str | None:
        """Why it cannot take this run, as a clause that follows "because"; None if it can.

        It is asked before every run: it looks at dtypes, devices and modes, and reads no number of a tensor.
        """

    @abstractmethod
    def run(self, run: Run) -> Answer:
        """The states of the last layer, and what every layer ended with. Asked of what it does not refuse alone."""


class Layered(Engine):
    """An engine that computes one layer at a time; what happens between layers is the same for all of these."""

    @abstractmethod
    def layer(
        self,
        cell: Cell,
        x: Steps,
        order: Order,
        weights: Sequence[Weights],
        initial: Carry | None,
    ) -> Answer:
        """One layer, in all of its directions.

        Args:
            cell: what it computes at a step.
            x: what comes in, in packed order; ids, if the input weights are a table for them.
            order: where the steps stand.
            weights: those of each direction; the second reads each row from its own last step.
            initial: tensors of directions x rows x hidden, of the rows that have steps, the longest first; or None.
        """

    @override
    def run(self, run: Run) -> Answer:
        x: Steps = run.steps
        carried = list[Carry]()
        for number, weights in enumerate(run.weights):
            here = slice(number * run.directions, (number + 1) * run.directions)
            initial = None if run.initial is None else tuple(state[here] for state in run.initial)
            given, ended = self.layer(run.cell, x, run.order, weights, initial)
            x = given + x if run.residual and number else given
            if number < run.layers - 1:
                x = between(x, run, number)
            carried.append(ended)
        return x, tuple(torch.cat(states) for states in zip(*carried, strict=True))


def between(x: Float[Tensor, "steps hidden"], run: Run, number: int) -> Float[Tensor, "steps hidden"]:
    """What the next layer reads of the output of one: normalised, then dropped out, where the run says so."""
    if run.norms:
        normalised: Tensor = run.norms[number](x)
        x = normalised
    return torch.dropout(x, run.dropout, train=True) if run.dropout else x
