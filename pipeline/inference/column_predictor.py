"""Predictions for batches of columns, as Ray Data and Hugging Face `datasets` pass them."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final, Never, TypeAlias, TypeVar, final

import torch
from typing_extensions import TypeIs, override

from pipeline.checks.hints import describe
from pipeline.core.stream_chain import StreamChain
from pipeline.data.scores import Predictions
from pipeline.errors import OptionError, PipelineError
from pipeline.inference.columns import add_columns, read_column
from pipeline.inference.plain import find_heads, to_columns
from pipeline.stages.tokenize_joined import TokenizeJoined
from pipeline.stages.tokenize_pair import TokenizePair

T = TypeVar("T")

_Pipe: TypeAlias = StreamChain[Never, Predictions[object, object]]
"""A pipe of any input and any predictions."""


@final
class ColumnPredictor:
    """Add predictions to batches of columns: a function for `map_batches` of Ray Data, and `map` of `datasets`.

    A batch is a mapping from columns to arrays or lists, a table of pyarrow, or a data frame of pandas; it is returned
    with the columns `prediction` and `probability`. A class per step, or several classes, are lists. With several heads
    each has its own columns, with its name at the end. A number has no probability.

    It can be pickled, and so can be sent to other processes. There it predicts what it predicts here.

    Args:
        pipe: the pipe; or a function without arguments that returns it, which is called once in each process. Give the
            latter if each process should read the weights from a folder: `partial(load, "folder", takes=str,
            gives=str)`.
        column: the column of the inputs. A list of columns gives a pair to `TokenizePair`, and to other stages a
            mapping from columns to values, as `FromColumns` takes.
        prediction: the name of the new column.
        probability: the name of the column with the probability; None leaves it out.
        device: the device to which the model is moved, in each process; None leaves it where it is. A pickled pipe is
            on the CPU.

    Raises:
        OptionError: if `pipe` is neither a pipe nor a function, or `column` is empty.

    Example:
        >>> from pipeline import Bucket, Labels, Pad, Tokenize, classifier
        >>> tokenize, labels = Tokenize.train(["to be", "or not"]), Labels(["no", "yes"])
        >>> pipe = tokenize >> Bucket(rows=2) >> Pad() >> classifier(tokenize.vocab_size, labels, hidden_size=4)
        >>> found = ColumnPredictor(pipe)({"text": ["to be", "or not", "be"], "number": [7, 8, 9]})
        >>> list(found), found["prediction"] == list(pipe.predict(["to be", "or not", "be"]))
        (['text', 'number', 'prediction', 'probability'], True)
    """

    def __init__(
        self,
        pipe: _Pipe | Callable[[], _Pipe],
        column: str | Sequence[str] = "text",
        *,
        prediction: str = "prediction",
        probability: str | None = "probability",
        device: torch.device | str | None = None,
    ) -> None:
        given: object = pipe
        if not callable(given):
            msg = f"pipe must be a pipe, or a function that returns one, got {describe(given)}; load(folder) loads one."
            raise OptionError(msg)
        if not column:
            msg = f"column must name a column, or list several, got {column!r}."
            raise OptionError(msg, column=column)
        self._pipe: Any = pipe
        self._loaded: StreamChain[Any, Any] | None = None
        self.column: Final[str | Sequence[str]] = column
        self.prediction: Final = prediction
        self.probability: Final = probability
        self.device: Final = device

    def __call__(self, columns: T) -> T:
        """Return the columns with predictions added. A batch without rows is returned as it is.

        Raises:
            OptionError: if `columns` is not a batch, a column is missing, or that of the predictions exists already.
        """
        pipe = self._get_pipe()
        inputs = self._read_inputs(pipe, columns)
        if not inputs:
            return columns
        heads = find_heads(pipe)
        try:
            found = [to_columns(prediction, heads) for prediction in pipe.predict(inputs, scores=True)]
        except PipelineError as error:
            error.add_note(f"Rows are numbered from 0 within a batch of {len(inputs)} rows of column {self.column!r}.")
            raise
        new = {name: [row[name] for row in found] for name in found[0]}
        return add_columns(columns, {own: values for name, values in new.items() if (own := self._rename(name))})

    def _read_inputs(self, pipe: StreamChain[Any, Any], columns: object) -> list[Any]:
        if isinstance(self.column, str):
            return read_column(columns, self.column)
        values = {name: read_column(columns, name) for name in self.column}
        rows = list(zip(*values.values(), strict=True))
        first: object = next(iter(pipe.stages.values()))
        is_pair = isinstance(first, TokenizePair | TokenizeJoined)
        return rows if is_pair else [dict(zip(values, row, strict=True)) for row in rows]

    def _rename(self, name: str) -> str | None:
        """Return the chosen name of a column; None for a probability that is left out."""
        kind, _, head = name.partition("_")
        chosen = self.prediction if kind == "prediction" else self.probability
        return chosen if chosen is None or not head else f"{chosen}_{head}"

    def _get_pipe(self) -> StreamChain[Any, Any]:
        if self._loaded is None:
            made: object = self._pipe if _is_pipe(self._pipe) else self._pipe()
            if not _is_pipe(made):
                got = describe(made)
                msg = f"pipe must be a pipe, or a function that returns one, got a function that returns {got}."
                raise OptionError(msg)
            loaded = made
            self._loaded = loaded if self.device is None else loaded.to(self.device)
        return self._loaded

    def __getstate__(self) -> dict[str, object]:
        """Return the state for pickling. Weights on another device are pickled as on the CPU: any process has one."""
        pipe: object = self._pipe
        if _is_pipe(pipe) and any(weight.device.type != "cpu" for weight in pipe.parameters()):
            pipe = copy.deepcopy(pipe).cpu()
        return {**vars(self), "_pipe": pipe, "_loaded": None}

    @override
    def __repr__(self) -> str:
        return f"ColumnPredictor({self._pipe!r}, {self.column!r})"


def _is_pipe(value: object) -> TypeIs[StreamChain[Any, Any]]:
    return isinstance(value, StreamChain)
