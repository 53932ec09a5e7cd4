"""Write the history of a training to CSV and to TensorBoard, epoch by epoch."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Final, final

from typing_extensions import override

from pipeline.errors import MissingExtraError
from pipeline.training.loop import Training, Watcher


@final
class CsvLog(Watcher):
    """Writes the whole history to a CSV file after each epoch, so that a resumed training continues its file.

    Args:
        file: the file; its folder is made if it does not exist.
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self._file: Final = Path(file)
        self._file.parent.mkdir(parents=True, exist_ok=True)

    @override
    def after_epoch(self, training: Training) -> None:
        # Readers see the old lines or the new ones, never half of them.
        draft = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        training.history.to_csv(draft)
        draft.replace(self._file)


@final
class TensorBoardLog(Watcher):
    """Writes losses, metrics, learning rate, speed and padding to a folder of TensorBoard's logs, by epoch.

    Args:
        folder: the folder of the logs.

    Raises:
        MissingExtraError: if TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            module = import_module("torch.utils.tensorboard")
        except ModuleNotFoundError as error:
            msg = "log_tensorboard needs the package tensorboard, which is not installed; pip install tensorboard."
            raise MissingExtraError(msg, package="tensorboard") from error
        self._writer: Final[Any] = module.SummaryWriter(os.fspath(folder))
        self._written = 0

    @override
    def after_epoch(self, training: Training) -> None:
        # After resuming, the earlier epochs are in the logs of the earlier run.
        epoch = training.history.epochs[-1]
        for name, value in epoch.values().items():
            if name != "number":
                self._writer.add_scalar(name, value, epoch.number)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
