"""Sources and doors that raise, die or hang at one record, for workers that import them by name."""

import os
import signal
import time
from collections.abc import Sequence
from typing import Final, final

import torch
from torch.utils.data import get_worker_info
from typing_extensions import override

from pipeline import Example, Ids, Row
from pipeline.errors import ValuesError
from pipeline.stages.input_stage import InputStage


class UnkindError(Exception):
    """It is made of two arguments, and keeps one: no pipe brings it back."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")


def in_trouble(trouble: str) -> None:
    """Raise, die or hang."""
    match trouble:
        case "raise":
            raise KeyError("a field")
        case "refuse":
            msg = "it is no good"
            raise ValuesError(msg, step=7)
        case "unkind":
            raise UnkindError(1, 2)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGSEGV)
        case "leave":
            os._exit(0)
        case _:
            time.sleep(60)


@final
class Troubled:
    """Rows of numbers, one of them in trouble; the places of all known."""

    def __init__(self, counts: Sequence[int], at: int, trouble: str) -> None:
        self.counts: Final = list(counts)
        self.at: Final = at
        self.trouble: Final = trouble

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int) -> list[int]:
        if index == self.at:
            in_trouble(self.trouble)
        return [index] * self.counts[index]

    def where(self, index: int) -> str:
        """As a source says it."""
        return f"rows.txt, line {index + 1}"


@final
class Stumbling(InputStage[list[int], Ids]):
    """A door that stumbles over rows of one number."""

    def __init__(self, over: int, trouble: str) -> None:
        self.over_number: Final = over
        self.trouble: Final = trouble

    @override
    def rows(self, examples: Sequence[Example[list[int]]], places: Sequence[int]) -> list[Row[Ids]]:
        for example in examples:
            if self.over_number in example.input:
                in_trouble(self.trouble)
        return [
            Row(Ids(torch.tensor(example.input, dtype=torch.int64)), example.target, place)
            for example, place in zip(examples, places, strict=True)
        ]


def workers_places(rows: list[Row[Ids]]) -> tuple[int | None, list[int]]:
    """A collate function: which worker made it, and the places of its rows."""
    worker = get_worker_info()
    return None if worker is None else worker.id, [row.row_id for row in rows]
