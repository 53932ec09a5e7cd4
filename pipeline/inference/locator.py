"""Where the steps of a row are in its input: offsets of tokens in a text, and of words in a list of words."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from typing_extensions import TypeIs, override

from pipeline.core.running import Observer
from pipeline.core.stage import StageBase
from pipeline.data.kinds import Kind
from pipeline.data.predictions import Span
from pipeline.data.rows import Example, Row, is_row
from pipeline.stages.input_stage import InputStage, locate_in_row


class Locator(Observer):
    """Keeps inputs and rows until they are predicted, and locates the steps of a row in its input.

    Args:
        stages: the stages of the pipe.
    """

    def __init__(self, stages: Mapping[str, StageBase]) -> None:
        self._input_stage = next(filter(_is_input_stage, stages.values()), None)
        # Another stage before the input stage changes the input.
        self._begins = self._input_stage in {None, next(iter(stages.values()))}
        self.inputs: dict[int, object] = {}
        self.rows: dict[int, Row[Kind] | None] = {}

    @override
    def see_input(self, row_id: int, value: object) -> None:
        if self._input_stage is not None:
            self.inputs[row_id] = cast("Example[object]", value).input if isinstance(value, Example) else value

    @override
    def see_row(self, row: object) -> None:
        if is_row(row):
            # Parts of one row have one id, and only the whole row has a place for each step.
            self.rows[row.row_id] = None if row.row_id in self.rows else row

    def locate(self, row_id: int) -> Sequence[Span] | None:
        """Return the start and the end of each step of a row; None if they are not known."""
        row = self.rows.get(row_id)
        if row is None or not self._begins:
            return None
        if self._input_stage is None:
            return locate_in_row(row)
        return self._input_stage.locate_steps(self.inputs[row_id], row)

    def forget(self, row_id: int) -> None:
        """Drop a row that was predicted."""
        self.inputs.pop(row_id, None)
        self.rows.pop(row_id, None)


def _is_input_stage(stage: StageBase) -> TypeIs[InputStage[Any, Kind]]:
    return isinstance(stage, InputStage)
