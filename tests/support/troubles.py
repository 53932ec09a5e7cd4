"""Sources and input stages that raise, die or hang at one record, for workers that import them by name."""

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


class UnpicklableError(Exception):
    """Takes two arguments and passes one to `Exception`, so it cannot be unpickled."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")


def cause_trouble(trouble: str) -> None:
    """Raise, die or hang."""
    match trouble:
        case "raise":
            raise KeyError("a field")
        case "reject":
            msg = "bad record"
            raise ValuesError(msg, step=7)
        case "unpicklable":
            raise UnpicklableError(1, 2)
        case "local":

            class LocalError(UnpicklableError):
                """An error whose class cannot be found by its name."""

            raise LocalError(1, 2)
        case "kill later":  # after the training process has received its first batch
            time.sleep(4)
            os.kill(os.getpid(), signal.SIGKILL)
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
class TroubledSource:
    """Source of ids that causes trouble at one record; `where` names the place of each."""

    def __init__(self, counts: Sequence[int], at: int, trouble: str) -> None:
        self.counts: Final = list(counts)
        self.at: Final = at
        self.trouble: Final = trouble

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int) -> list[int]:
        if index == self.at:
            cause_trouble(self.trouble)
        return [index] * self.counts[index]

    def where(self, index: int) -> str:
        """Return the place of a record, as a source does."""
        return f"rows.txt, line {index + 1}"


@final
class TroubledStage(InputStage[list[int], Ids]):
    """Input stage that causes trouble at rows that hold one id."""

    def __init__(self, at: int, trouble: str) -> None:
        self.at: Final = at
        self.trouble: Final = trouble

    @override
    def make_rows(self, examples: Sequence[Example[list[int]]], row_ids: Sequence[int]) -> list[Row[Ids]]:
        for example in examples:
            if self.at in example.input:
                cause_trouble(self.trouble)
        return [
            Row(Ids(torch.tensor(example.input, dtype=torch.int64)), example.target, row_id)
            for example, row_id in zip(examples, row_ids, strict=True)
        ]


def collate_worker_and_row_ids(rows: list[Row[Ids]]) -> tuple[int | None, list[int]]:
    """Collate to the number of the worker and the row ids."""
    worker = get_worker_info()
    return None if worker is None else worker.id, [row.row_id for row in rows]


def fail_to_start(worker: int) -> None:
    """Raise an error that cannot be pickled as it is."""
    raise UnpicklableError(worker, 2)
