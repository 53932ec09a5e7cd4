"""A predictor that notes its process, for tests with several."""

import os
import time
from typing import Any

from pipeline import ColumnPredictor


class NotingPredictor:
    """Predicts, and adds a column with the number of the process. Slow enough that each worker gets a batch."""

    def __init__(self, pipe: Any, column: str) -> None:
        self._predictor = ColumnPredictor(pipe, column)

    def __call__(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Return the columns with predictions."""
        time.sleep(0.5)
        found = self._predictor(columns)
        return {**found, "process": [os.getpid()] * len(found["prediction"])}
