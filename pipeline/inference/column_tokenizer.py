"""Rows of ids prepared for batches of columns, so that training reads them instead of tokenizing in each epoch."""

from collections.abc import Sequence
from typing import Any, Final, TypeVar, cast, final

from typing_extensions import override

from pipeline.checks.hints import describe
from pipeline.data.kinds import Ids
from pipeline.data.rows import Example, Row
from pipeline.data.tensors import to_ints
from pipeline.errors import OptionError, PipelineError
from pipeline.inference.columns import add_columns, read_column
from pipeline.labels import is_step_target, to_steps
from pipeline.stages.input_stage import InputStage

T = TypeVar("T")
X = TypeVar("X")


@final
class ColumnTokenizer:
    """Add the ids of texts, or of rows of words, to batches of columns: a function as `ColumnPredictor` is one.

    What it adds is read with `FromIds`, for example from a Parquet file.

    Args:
        tokenize: the input stage, such as `Tokenize` or `TokenizeWords`.
        column: the column of the inputs.
        ids: the name of the new column of ids, bos and eos included.
        length: the name of the column with the number of ids, from which batches are planned; None leaves it out.
        target: the column of targets per word or token. It is replaced by one target per id: None for bos and eos, and
            for all but the first token of a word.

    Raises:
        OptionError: if `tokenize` is not an input stage.

    Example:
        >>> from pipeline import Tokenize
        >>> prepare = ColumnTokenizer(Tokenize.train(["to be", "or not"], eos=True))
        >>> prepare({"text": ["be or", "not"]})
        {'text': ['be or', 'not'], 'ids': [[4, 6, 3], [5, 3]], 'length': [3, 2]}
    """

    def __init__(
        self,
        tokenize: InputStage[X, Ids],
        column: str = "text",
        *,
        ids: str = "ids",
        length: str | None = "length",
        target: str | None = None,
    ) -> None:
        if not isinstance(cast("object", tokenize), InputStage):
            msg = f"tokenize must be an input stage, such as Tokenize, got {describe(tokenize)}."
            raise OptionError(msg)
        self._tokenize: Final[InputStage[Any, Ids]] = tokenize
        self.column: Final = column
        self.ids: Final = ids
        self.length: Final = length
        self.target: Final = target

    def __call__(self, columns: T) -> T:
        """Return the columns with those of ids and lengths added.

        Raises:
            OptionError: if `columns` is not a batch, a column is missing, or a new one exists already.
            TargetError: if there is not one target per word or token.
        """
        inputs = read_column(columns, self.column)
        targets = [None] * len(inputs) if self.target is None else read_column(columns, self.target)
        examples = [Example(value, target) for value, target in zip(inputs, targets, strict=True)]
        try:
            rows = self._tokenize.make_rows(examples, range(len(examples)))
        except PipelineError as error:
            error.add_note(f"Rows are numbered from 0 within a batch of {len(inputs)} rows of column {self.column!r}.")
            raise
        new: dict[str, Sequence[object]] = {self.ids: [to_ints(row.sequence.values) for row in rows]}
        if self.length is not None:
            new[self.length] = [len(row) for row in rows]
        if self.target is not None:
            new[self.target] = list(map(_list_targets, rows))
        return add_columns(columns, new, replaces=self.target)

    @override
    def __repr__(self) -> str:
        return f"ColumnTokenizer({type(self._tokenize).__name__}, {self.column!r})"


def _list_targets(row: Row[Ids]) -> object:
    """Return the target of a row: per step as a list, where a step that needs no prediction has None."""
    return list(to_steps(row.target)) if is_step_target(row.target) else row.target
