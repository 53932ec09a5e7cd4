"""A chain of stages as a module of plain tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from typing_extensions import override

from court.case import Case
from court.forms.exported import make_exported
from court.forms.precision import list_precisions
from court.libraries.ours.inputs import COUNT, SIZE, VECTORS, Inputs
from pipeline.data.batches import Padded
from pipeline.data.kinds import Kind
from pipeline.export.inputs import BatchInputs
from pipeline.export.outputs import read_outputs
from pipeline.extend import Chain
from pipeline.testing import ModuleOptions

AnyChain: TypeAlias = Chain[Any, Any]

Read: TypeAlias = Callable[[Any], Tensor]
"""Returns the numbers of a chain's output that are judged."""

Prepare: TypeAlias = Callable[[Padded[Kind]], Padded[Kind]]
"""Adds something to a batch, such as targets."""


@attrs.frozen(kw_only=True)
class Part:
    """A part, or a whole model, of this library, in the chain in which it is judged.

    Attributes:
        name: how a user writes it.
        make: creates the chain.
        each: whether there is a result per step or per row.
        inputs: the input of the chain.
        causal: whether no step depends on later ones.
        read: returns the numbers that are judged; by default those that an exported model returns.
        prepare: adds something to a batch.
        export: whether `export` writes what is judged; else the reason why it does not.
        note: what a reader should know.
    """

    name: str
    make: Callable[[], AnyChain]
    each: Literal["step", "row"]
    inputs: Inputs = VECTORS
    causal: bool = False
    read: Read | None = None
    prepare: Prepare | None = None
    export: str = ""
    note: str = ""

    def to_case(self) -> Case:
        """Return the case, in all its forms."""
        exported = make_exported(self.make_module, self.write, self.inputs.spread, per_step=self.each == "step")
        if self.export:
            exported = attrs.evolve(exported, make=self.reject_export)
        options: ModuleOptions = {"each": self.each, "causal": self.causal}
        if self.inputs.of_ids:
            options["vocab_size"] = COUNT
        else:
            options["input_size"] = SIZE
        return Case(
            name=self.name,
            call=f"{self.name}({self.inputs.call})",
            make=self.make_module,
            options=options,
            forms=[*list_precisions(self.make_module), exported],
            note=self.note,
        )

    def make_module(self) -> "ChainModule":
        """Create the module."""
        return ChainModule(self)

    def write(self, module: nn.Module, file: Path, batches: int) -> None:
        """Export a module that `make_module` made."""
        chain = cast("ChainModule", module).chain
        chain.export(file, kind=self.inputs.kind, sizes=self.inputs.sizes, batches=batches)

    def reject_export(self) -> nn.Module:
        """Reject the form.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(self.export)


class ChainModule(nn.Module):
    """The chain of a part, from values and lengths to one tensor."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part
        self.chain = part.make()

    def __deepcopy__(self, memo: dict[int, object]) -> "ChainModule":
        # The description of the part is shared.
        copied = ChainModule(self.part)
        copied.to(next((weight.dtype for weight in self.parameters()), torch.float32))
        copied.load_state_dict(self.state_dict())
        return copied.train(self.training)

    @override
    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return the results of steps or rows."""
        part = self.part
        width = values.shape[1]
        if not width and part.inputs.nested:
            # Pad gives such rows one empty inner row, for which these tensors have no place.
            values = values.new_zeros(len(values), 1)
        inputs = BatchInputs(part.inputs.kind, list(self.chain.stages.values()), part.inputs.sizes)
        batch = inputs.make_batch(part.inputs.spread(values, lengths))
        output: object = self.chain(batch if part.prepare is None else part.prepare(batch))
        result = _join_outputs(output) if part.read is None else part.read(output)
        # Scores of steps end at the longest row.
        return pad(result, (0, 0, 0, width - result.shape[1])) if part.each == "step" else result


def _join_outputs(output: object) -> Tensor:
    """Return the output of a chain; those of several heads side by side."""
    found = [*read_outputs(output).values()]
    return found[0] if len(found) == 1 else torch.cat(found, -1)
