"""Gather requests, and run the model over all that wait, in one thread of its own."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Final, TypeAlias, final

import attrs

from pipeline.errors import PipelineError
from pipeline.inference.plain import Plain
from pipeline.serving.limits import Limits

Predict: TypeAlias = Callable[[Sequence[object], bool], Iterable[object]]
"""Predicts inputs in order, with scores or without."""

_MAX_RETRY: Final = 60
"""Longest time in seconds after which a client is asked to try again."""

_SMOOTHING: Final = 0.2
"""Weight of the last batch in the average speed, which predicts when the queue will have room."""


class BusyError(PipelineError, RuntimeError):
    """A service that cannot take a request now; `details["retry_after"]` is the time in seconds to wait."""


@final
@attrs.frozen(eq=False)
class _Job:
    """The inputs of one request."""

    inputs: Sequence[object]
    scores: bool
    convert: Callable[[object], Plain]
    arrived: float
    answer: Future[list[Plain]]


@final
class Gatherer:
    """Runs a model in one thread over the inputs of all requests that wait.

    A request that is alone runs at once. If several wait, which is so while the model runs, they run together as soon
    as they have `max_rows` inputs, or the oldest has waited for `max_delay_ms`.

    Args:
        predict: the model.
        limits: the limits of the service.
    """

    def __init__(self, predict: Predict, limits: Limits) -> None:
        self._predict: Final = predict
        self._limits: Final = limits
        self._queue: Final = deque[_Job]()
        self._waiting = 0
        self._changed: Final = threading.Condition()
        self._is_closed = False
        self._rows_per_second = 100.0
        self._thread: threading.Thread | None = None
        self.batches: int = 0
        """The number of times that the model ran."""

    @property
    def waiting(self) -> int:
        """The number of inputs that wait."""
        return self._waiting

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered: the thread runs, or has not been needed yet."""
        return not self._is_closed and (self._thread is None or self._thread.is_alive())

    def submit(
        self, inputs: Sequence[object], convert: Callable[[object], Plain], *, scores: bool
    ) -> Future[list[Plain]]:
        """Queue the inputs of a request; the result has one converted prediction per input.

        Raises:
            BusyError: if the queue is full, or the service is stopping.
        """
        job = _Job(inputs, scores, convert, time.monotonic(), Future())
        with self._changed:
            if self._is_closed:
                raise BusyError("the service is stopping; send the request to another one.", retry_after=1)
            # A request that is larger than the queue is taken by an empty queue, or it could never be answered.
            if self._queue and self._waiting + len(inputs) > self._limits.max_queue:
                seconds = min(max(math.ceil(self._waiting / self._rows_per_second), 1), _MAX_RETRY)
                msg = f"the queue is full: {self._waiting} inputs wait; try again in {seconds} s."
                raise BusyError(msg, retry_after=seconds)
            self._start()
            self._queue.append(job)
            self._waiting += len(inputs)
            self._changed.notify()
        return job.answer

    def close(self) -> None:
        """Take no more requests, answer those that wait, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        # At the first request, because a server may fork its processes after the application was made.
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pipeline-model", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while jobs := self._take():
            begin, rows = time.monotonic(), sum(len(job.inputs) for job in jobs)
            self._answer(jobs)
            self.batches += 1
            speed = rows / max(time.monotonic() - begin, 1e-6)
            self._rows_per_second += _SMOOTHING * (speed - self._rows_per_second)

    def _take(self) -> list[_Job]:
        """Wait for requests, and return those that run together; nothing after the last one of a closed service."""
        with self._changed:
            while not self._queue:
                if self._is_closed:
                    return []
                self._changed.wait()
            if len(self._queue) > 1:
                self._wait_for_more(self._queue[0].arrived + self._limits.max_delay_ms / 1_000)
            jobs, rows = list[_Job](), 0
            while self._queue and (not jobs or rows + len(self._queue[0].inputs) <= self._limits.max_rows):
                job = self._queue.popleft()
                rows += len(job.inputs)
                jobs.append(job)
            self._waiting -= rows
        return jobs

    def _wait_for_more(self, deadline: float) -> None:
        while self._waiting < self._limits.max_rows and not self._is_closed:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _answer(self, jobs: Sequence[_Job]) -> None:
        # A client may have gone away while its request waited.
        wanted = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
        try:
            self._answer_together(wanted)
        except Exception as error:  # noqa: BLE001 - whatever a model raises must not end the thread
            if len(wanted) == 1:
                wanted[0].answer.set_exception(error)
                return
            # One request must not fail for another: each that has no answer yet runs again by itself.
            for job in wanted:
                if not job.answer.done():
                    self._answer_alone(job)

    def _answer_alone(self, job: _Job) -> None:
        try:
            self._answer_together([job])
        except Exception as error:  # noqa: BLE001
            job.answer.set_exception(error)

    def _answer_together(self, jobs: Sequence[_Job]) -> None:
        """Predict the inputs of requests together; each request is answered as soon as its last input is."""
        inputs = [value for job in jobs for value in job.inputs]
        predictions = iter(self._predict(inputs, any(job.scores for job in jobs)))
        for job in jobs:
            job.answer.set_result([job.convert(prediction) for prediction in islice(predictions, len(job.inputs))])
