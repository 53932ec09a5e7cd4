"""Save a pipe, and predict with the loaded one in a new process, as another program would."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import attrs

from highlight.model import CharacterPipe

PROGRAM = """\
import json, sys
from pipeline import load

pipe = load(sys.argv[1], takes=str, gives=list[str])
json.dump(list(pipe.predict(json.load(sys.stdin))), sys.stdout)
"""
"""The whole program that predicts with a saved pipe: JSON in, JSON out."""


@attrs.frozen
class SavedPipe:
    """A pipe that was saved, and what a new process predicted with it.

    Attributes:
        folder: the folder of the saved pipe.
        size: the size of its files in bytes.
        predicted: the number of lines that the new process predicted.
        equal: the number of them with the predictions of the pipe that was saved.
        seconds: the time of the new process, in which it loaded the library, too.
    """

    folder: Path
    size: int
    predicted: int
    equal: int
    seconds: float


def save_and_predict(
    pipe: CharacterPipe, folder: Path, texts: Sequence[str], predicted: Sequence[Sequence[str]]
) -> SavedPipe:
    """Save a pipe, predict texts with it in a new process, and compare with its predictions before."""
    card = "Predicts the class of each character of a line of Python. Written by docs/examples/highlight."
    pipe.save(folder, card=card)
    started = perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[list[str]] = json.loads(run.stdout)
    equal = sum(list(one) == other for one, other in zip(predicted, found, strict=True))
    size = sum(file.stat().st_size for file in folder.iterdir())
    return SavedPipe(folder.resolve(), size, len(found), equal, perf_counter() - started)
