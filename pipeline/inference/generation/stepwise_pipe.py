"""The parts of a pipe that runs step by step: its data stages, and its model."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, final

import attrs
import torch
from torch import nn
from typing_extensions import TypeIs

from pipeline.core.running import NumberedStage, run_stages
from pipeline.core.stage import StageBase, is_stream
from pipeline.data.batches import Batch, Padded
from pipeline.data.kinds import Kind
from pipeline.data.rows import Row
from pipeline.errors import CompositionError
from pipeline.stages.input_stage import InputStage
from pipeline.stages.pad import Pad
from pipeline.stages.shift import Shift


@final
@attrs.frozen
class StepwisePipe:
    """A pipe, divided at `Pad`.

    Attributes:
        input_stage: the stage that turns inputs into rows; None if the pipe takes rows.
        row_stages: the numbered stages that change rows, after the input stage.
        kind: the kind of the rows.
        model: the stages after `Pad`, by name.
        first: the number of the first stage of the model.
        device: the device of the weights; None without weights.
    """

    input_stage: InputStage[Any, Kind] | None
    row_stages: Sequence[NumberedStage]
    kind: type[Kind]
    model: Mapping[str, StageBase]
    first: int
    device: torch.device | None

    @classmethod
    def of(cls, stages: Mapping[str, StageBase], pipe: nn.Module) -> Self:
        """Divide the stages of a pipe.

        Raises:
            CompositionError: if it has no `Pad`, or a stage before it that may change steps by their neighbors.
        """
        numbered = list(enumerate(stages.values(), start=1))
        pad = next(((number, stage) for number, stage in numbered if _is_pad(stage)), None)
        if pad is None:
            msg = f"a pipe that runs step by step must have a stage Pad, got {pipe!r}; join data stages with Pad."
            raise CompositionError(msg)
        input_stage: InputStage[Any, Kind] | None = None
        row_stages: list[NumberedStage] = []
        for number, stage in numbered[: pad[0] - 1]:
            if _is_input_stage(stage) and number == 1:
                input_stage = stage
            elif not stage.stepwise:
                name = type(stage).__name__
                msg = (
                    f"stage {number} `{name}` may change a step by others of its row, so its pipe cannot run step by "
                    "step; leave it out, or declare stepwise = True in a stage of your own that does not."
                )
                raise CompositionError(msg, stage_number=number, stage=name)
            elif not is_stream(stage) and not isinstance(stage, Shift):
                row_stages.append((number, stage))
        device = next((weights.device for weights in pipe.parameters()), None)
        kind = pad[1].kind
        return cls(input_stage, row_stages, kind, dict([*stages.items()][pad[0] :]), pad[0] + 1, device)

    def collate(self, sequences: Sequence[Kind]) -> Batch[Kind]:
        """Return the batch of some sequences, one row for each, on the device of the weights."""
        # Not with the pipe's own `Pad`: it may round up the shape of a batch, and ask for targets.
        rows: list[Row[Kind]] = [
            run_stages(self.row_stages, Row(sequence, row_id=row)) for row, sequence in enumerate(sequences)
        ]
        batch = Pad(self.kind)(rows)
        return self.move(batch)

    def move(self, batch: Padded[Kind]) -> Padded[Kind]:
        """Return the batch on the device of the weights."""
        return batch if self.device is None or batch.values.device == self.device else batch.to(self.device)


def _is_pad(stage: object) -> TypeIs[Pad[Kind]]:
    return isinstance(stage, Pad)


def _is_input_stage(stage: object) -> TypeIs[InputStage[Any, Kind]]:
    return isinstance(stage, InputStage)
