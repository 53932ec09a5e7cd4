"""A pipe in two halves: the stages that make batches, and the model."""

from collections.abc import Sequence
from typing import Any, cast, final

import attrs
from torch import nn

from pipeline.core.running import NumberedStage
from pipeline.core.stage import is_stream
from pipeline.core.stream_chain import StreamChain
from pipeline.data.kinds import Kind
from pipeline.errors import CompositionError
from pipeline.stages.bptt_windows import BPTTWindows
from pipeline.stages.bucket import Bucket


@final
@attrs.frozen(eq=False)
class SplitPipe:
    """A pipe in two halves.

    Attributes:
        data: the stages that make batches, up to the first stage with weights after the last stream.
        model: the stages after them, with their numbers in the pipe.
    """

    data: Sequence[NumberedStage]
    model: Sequence[NumberedStage]

    @classmethod
    def of(cls, pipe: StreamChain[Any, Any]) -> "SplitPipe":
        """Split a pipe.

        Raises:
            CompositionError: if it has no model, or stages with weights before its last stream.
        """
        numbered = list(enumerate(pipe.stages.values(), start=1))
        last = max(number for number, stage in numbered if is_stream(stage))
        first = next((number for number, stage in numbered[last:] if isinstance(stage, nn.Module)), None)
        if first is None:
            msg = (
                "fit and evaluate need a pipe with a model, but no stage after the batches has weights; "
                "join one: data >> model."
            )
            raise CompositionError(msg)
        early = next((each for each in numbered[:last] if isinstance(each[1], nn.Module)), None)
        if early is not None:
            number, stage = early
            msg = (
                "fit and evaluate need all weights after the last stream, "
                f"stage {last} `{type(numbered[last - 1][1]).__name__}`, "
                f"but stage {number} `{type(stage).__name__}` has some; move it to the model."
            )
            raise CompositionError(msg, stage_number=number)
        return cls(numbered[: first - 1], numbered[first - 1 :])

    def split_model(self) -> tuple[Sequence[NumberedStage], Sequence[NumberedStage]]:
        """Return the stages of the model up to the last one that makes targets, and the others.

        Raises:
            CompositionError: if the first ones have weights.
        """
        made = [at for at, (_, stage) in enumerate(self.model, start=1) if getattr(stage, "makes_targets", False)]
        first, others = self.model[: max(made, default=0)], self.model[max(made, default=0) :]
        for number, stage in first:
            if isinstance(stage, nn.Module) and next(stage.parameters(), None) is not None:
                name, maker = type(stage).__name__, type(first[-1][1]).__name__
                msg = f"stage {number} `{name}` has weights, but {maker} makes targets after it; put {maker} after Pad."
                raise CompositionError(msg, stage_number=number)
        return first, others

    @property
    def windows(self) -> BPTTWindows[Kind] | None:
        """The stage that cuts rows into windows, if there is one."""
        found = (cast("BPTTWindows[Kind]", stage) for _, stage in self.data if isinstance(stage, BPTTWindows))
        return next(found, None)

    @property
    def bucket(self) -> Bucket[Kind] | None:
        """The stage that makes batches of rows of similar length, if there is one."""
        return next((cast("Bucket[Kind]", stage) for _, stage in self.data if isinstance(stage, Bucket)), None)
