"""Pairs of texts: their class of rows, and the input stage for them."""

from collections.abc import Sequence
from typing import Final, cast, final

import attrs
from typing_extensions import TypeVar, override

from pipeline.checks.hints import describe
from pipeline.data.kinds import Ids
from pipeline.data.rows import Example, Row
from pipeline.errors import PipelineError, TextError
from pipeline.stages.fields import Sides
from pipeline.stages.input_stage import InputStage

X = TypeVar("X")


@final
@attrs.frozen(eq=False)
class TextPair(Sides):
    """Two texts per row: a premise and a hypothesis, a question and an answer, a text and its paraphrase.

    For other names, or for sides of other kinds, derive a class from `Sides`.
    """

    first: Ids
    second: Ids


@final
class TokenizePair(InputStage[tuple[X, X], TextPair]):
    """Turn pairs of texts into rows with two sides.

    Args:
        first: the input stage of the first text, such as `Tokenize`.
        second: that of the second text; by default the same.

    Example:
        >>> from pipeline import Tokenize
        >>> row = TokenizePair(Tokenize.train(["is it so", "it is"]))(("is it so", "it is"))
        >>> row.sequence.first.values.tolist(), row.sequence.second.values.tolist()
        ([4, 5, 6], [5, 4])
    """

    def __init__(self, first: InputStage[X, Ids], second: InputStage[X, Ids] | None = None) -> None:
        self.first: Final = first
        self.second: Final = first if second is None else second

    @override
    def make_rows(self, examples: Sequence[Example[tuple[X, X]]], row_ids: Sequence[int]) -> list[Row[TextPair]]:
        """Return the rows of some examples.

        Raises:
            TextError: if an input is not a pair.
            PipelineError: of the stage of a text, with the side.
        """
        for example, row in zip(examples, row_ids, strict=True):
            given = cast("object", example.input)
            if not isinstance(given, tuple | list) or len(cast("Sequence[object]", given)) != 2:
                got = describe(example.input)
                msg = f"row {row} must be a pair of texts, got {got}; pass pairs: [(first, second), ...]."
                raise TextError(msg, row=row)
        firsts = _read("first", self.first, [example.input[0] for example in examples], row_ids)
        seconds = _read("second", self.second, [example.input[1] for example in examples], row_ids)
        sides = zip(examples, row_ids, firsts, seconds, strict=True)
        return [Row(TextPair(first, second), example.target, row) for example, row, first, second in sides]


def _read(side: str, stage: InputStage[X, Ids], inputs: Sequence[X], row_ids: Sequence[int]) -> list[Ids]:
    try:
        return [row.sequence for row in stage.make_rows(list(map(Example, inputs)), row_ids)]
    except PipelineError as error:
        msg = f"{side} text: {error}"
        raise type(error)(msg, **error.details) from error
