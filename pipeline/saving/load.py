"""Load a saved pipe, with the type that it had."""

import os
from collections.abc import Iterable
from typing import Any, TypeVar, overload

import torch

from pipeline.core.stream_chain import StreamChain
from pipeline.data.rows import Example
from pipeline.data.scores import Predictions, Scores, StepScores

X = TypeVar("X")
P = TypeVar("P", bound=Predictions[Any, Any])
R = TypeVar("R")


@overload
def load(
    folder: str | os.PathLike[str],
    *,
    takes: type[X],
    gives: type[str],
    records: Iterable[type] = (),
    device: torch.device | str | None = None,
) -> StreamChain[X | Example[X], Scores[str]]: ...
@overload
def load(
    folder: str | os.PathLike[str],
    *,
    takes: type[X],
    gives: type[int],
    records: Iterable[type] = (),
    device: torch.device | str | None = None,
) -> StreamChain[X | Example[X], Scores[int]]: ...
@overload
def load(
    folder: str | os.PathLike[str],
    *,
    takes: type[X],
    gives: type[list[str]],
    records: Iterable[type] = (),
    device: torch.device | str | None = None,
) -> StreamChain[X | Example[X], StepScores[str]]: ...
@overload
def load(
    folder: str | os.PathLike[str],
    *,
    takes: type[X],
    gives: type[list[int]],
    records: Iterable[type] = (),
    device: torch.device | str | None = None,
) -> StreamChain[X | Example[X], StepScores[int]]: ...
@overload
def load(
    folder: str | os.PathLike[str],
    *,
    takes: type[X],
    gives: type[P],
    records: Iterable[type] = (),
    device: torch.device | str | None = None,
) -> StreamChain[X | Example[X], P]: ...
@overload
def load(
    folder: str | os.PathLike[str],
    *,
    takes: type[X],
    gives: type[R],
    records: Iterable[type] = (),
    device: torch.device | str | None = None,
) -> StreamChain[X | Example[X], Predictions[R]]: ...
@overload
def load(
    folder: str | os.PathLike[str],
    *,
    takes: type[X],
    records: Iterable[type] = (),
    device: torch.device | str | None = None,
) -> StreamChain[X | Example[X], Predictions[object]]: ...
@overload
def load(
    folder: str | os.PathLike[str], *, records: Iterable[type] = (), device: torch.device | str | None = None
) -> StreamChain[object, Predictions[object]]: ...
def load(
    folder: str | os.PathLike[str],
    *,
    takes: type[object] | None = None,
    gives: type[object] | None = None,
    records: Iterable[type] = (),
    device: torch.device | str | None = None,
) -> StreamChain[Any, Any]:
    """Load a pipe that `pipe.save` wrote. It is in evaluation mode, and answers as the saved one, to the last bit.

    No code of the folder is executed, and nothing of it is used before its digest is checked. Installed plugins that
    the pipe needs are imported, as for any look-up by name.

    Args:
        folder: the saved folder, or a path of a downloaded one; its files may be symbolic links.
        takes: the type of an input: `str`, `list[str]`, `tuple[str, str]`, `dict[str, object]`, ... A type checker
            takes the type of the pipe from it, and it is compared with the manifest. Any type if it is left out.
        gives: the type of a prediction: `str`, `int`, `float`, `list[str]` (a tagger), or the class that was passed as
            `into`; or the type of a head's output: `MultiLabelScores[str]` for several classes per row, `Scores[str]`,
            ... Compared in the same way.
        records: the classes of fields in the pipe. They are found by their names, and must have the saved fields.
            Those left out, and a class of joint predictions, are made from their description.
        device: where to put the weights; the CPU by default.

    Raises:
        LoadError: if the folder is damaged, malicious, of an unknown format or of another type, or a plugin is missing.
        FolderError: if a file cannot be read.

    Example:
        >>> import tempfile
        >>> from pipeline import Bucket, FromIds, Pad, classifier
        >>> pipe = FromIds() >> Bucket(rows=2) >> Pad() >> classifier(9, 2, hidden_size=3)
        >>> folder = tempfile.mkdtemp()
        >>> pipe.save(folder)
        >>> loaded = load(folder, takes=list[int], gives=int)
        >>> list(loaded.predict([[1, 2], [3]])) == list(pipe.predict([[1, 2], [3]]))
        True
    """
    from pipeline.saving.reading import load_pipe  # noqa: PLC0415 - `import pipeline` must not wait for what it needs

    return load_pipe(folder, takes=takes, gives=gives, records=records, device=device)
