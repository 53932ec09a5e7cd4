"""Stages and helpers for the tests of summaries."""

from torch import Tensor, nn
from typing_extensions import override

from pipeline import (
    Batch,
    Causal,
    Chain,
    Embed,
    Encode,
    Encoder,
    Hidden,
    Ids,
    MaybeCausal,
    ModuleStage,
    Scores,
    Stage,
    States,
)
from pipeline.summary.summary import Summary
from pipeline_recurrent import LSTM

HOSTILE = 'end"]; #quot; `x` <script>alert("x")</script> [red]r[/red] \x1b[31m\n| & %%'


class Widened(ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """A stage that adds features, and does not state its sizes: it has no `build`."""

    def __init__(self, size: int, more: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size + more)

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        """Return wider states."""
        return States(value.packed().with_values(self.linear(value.packed().values)), self.linear(value.final))


class Best(Stage[Scores, list[int]]):
    """A stage without weights after a model."""

    @override
    def __call__(self, value: Scores, /) -> list[int]:
        """Fail: it must not be called without data."""
        raise NotImplementedError


class Rectangular(Encoder[Causal]):
    """An encoder that reads padded batches."""

    causal = True
    layouts = ("padded",)
    exportable = True

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = output_size
        self.linear = nn.Linear(input_size, output_size)

    @override
    def forward(self, batch: Batch[Hidden]) -> States[Causal]:
        rows = batch.padded()
        values: Tensor = self.linear(rows.values)
        return self.make_states(rows.with_values(values), values[:, 0])


def small(encode: Encode | None = None) -> Chain[Batch[Ids], States]:
    """Return the first stages of a model: from ids to states of size 6."""
    return Embed(9, 4) >> (Encode(LSTM(4, 6)) if encode is None else encode)


def gives(summary: Summary) -> list[str]:
    """Return the output of each stage."""
    return [str(entry.output) for entry in summary.entries]


def notes(summary: Summary) -> dict[str, str]:
    """Return the notes of the stages that have some."""
    return {entry.stage: ", ".join(entry.notes) for entry in summary.entries if entry.notes}
