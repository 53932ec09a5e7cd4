"""The half of a pipe that has weights, as one module."""

from collections.abc import Sequence
from typing import final

from torch import nn

from pipeline.core.running import NumberedStage, Observer, run_stages
from pipeline.data.batches import Batch
from pipeline.data.kinds import Kind


@final
class Model(nn.Module):
    """The stages with weights as one module, from a batch to predictions. Errors name the stages of the whole pipe."""

    def __init__(self, stages: Sequence[NumberedStage], observer: Observer | None = None) -> None:
        super().__init__()
        self._stages = stages
        self._observer = observer
        for number, stage in stages:
            if isinstance(stage, nn.Module):
                self.add_module(str(number), stage)

    def forward(self, batch: Batch[Kind]) -> object:
        """Return the predictions."""
        device = next((weight.device for weight in self.parameters()), None)
        return run_stages(self._stages, batch, device, observer=self._observer)
