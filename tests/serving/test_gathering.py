"""Requests are predicted together when they wait, each gets its own answer, and none waits for nothing."""

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from pipeline.inference.plain import Plain, check_plain
from pipeline.serving.gathering import BusyError, Gatherer
from pipeline.serving.limits import Limits

WAIT = 20.0
"""Seconds after which a test fails: far more than an answer takes on a busy machine."""


class Model:
    """Doubles numbers, while it is allowed to run, and remembers what ran together."""

    def __init__(self) -> None:
        self.runs: list[list[object]] = []
        self.may_run = threading.Event()
        self.is_running = threading.Event()
        self.may_run.set()

    def predict(self, inputs: Sequence[object], scores: bool) -> Iterable[object]:
        """Yield the doubled inputs; with scores, as text."""
        self.runs.append([*inputs])
        self.is_running.set()
        assert self.may_run.wait(WAIT)
        for value in inputs:
            if not isinstance(value, int):
                msg = f"{value!r} is no number"
                raise TypeError(msg)
            yield str(2 * value) if scores else 2 * value

    def block(self, gatherer: Gatherer) -> "Future[list[Plain]]":
        """Let the model run with the input 0 until it may run on."""
        self.may_run.clear()
        answer = submit(gatherer, 0)
        assert self.is_running.wait(WAIT)
        return answer


def submit(gatherer: Gatherer, *inputs: object, scores: bool = False) -> "Future[list[Plain]]":
    """Queue a request."""
    return gatherer.submit(inputs, check_plain, scores=scores)


def make(**options: Any) -> tuple[Model, Gatherer]:
    """Return a model and what gathers requests for it."""
    model = Model()
    options.setdefault("max_delay_ms", 0.0)
    return model, Gatherer(model.predict, Limits(**options))


def test_requests_that_wait_run_together_and_get_their_own_answers() -> None:
    """In the order in which they were sent."""
    model, gatherer = make()
    first = model.block(gatherer)
    rest = [submit(gatherer, 1), submit(gatherer), submit(gatherer, 2, 3)]
    model.may_run.set()
    assert first.result(WAIT) == [0]
    assert [answer.result(WAIT) for answer in rest] == [[2], [], [4, 6]]
    assert model.runs == [[0], [1, 2, 3]]
    gatherer.close()


def test_scores_are_computed_if_a_request_wants_them() -> None:
    """For all that run together; each converts its own."""
    model, gatherer = make()
    model.block(gatherer)
    answers = [submit(gatherer, 1), submit(gatherer, 2, scores=True)]
    model.may_run.set()
    assert [answer.result(WAIT) for answer in answers] == [["2"], ["4"]]
    assert submit(gatherer, 3).result(WAIT) == [6]
    gatherer.close()


def test_a_request_that_is_alone_does_not_wait() -> None:
    """Although others could come within the delay."""
    _, gatherer = make(max_delay_ms=WAIT * 2_000)
    begin = time.monotonic()
    assert submit(gatherer, 1).result(WAIT) == [2]
    assert time.monotonic() - begin < WAIT
    gatherer.close()


def test_two_requests_wait_for_more_until_there_are_enough() -> None:
    """The delay is so long that the test would fail if it passed."""
    model, gatherer = make(max_delay_ms=WAIT * 2_000, max_rows=3)
    model.block(gatherer)
    answers = [submit(gatherer, 1), submit(gatherer, 2)]
    model.may_run.set()
    time.sleep(0.05)
    assert not answers[0].done()
    answers.append(submit(gatherer, 3))
    assert [answer.result(WAIT) for answer in answers] == [[2], [4], [6]]
    assert model.runs == [[0], [1, 2, 3]]
    gatherer.close()


def test_two_requests_run_when_the_delay_has_passed() -> None:
    """Also if there are not enough."""
    model, gatherer = make(max_delay_ms=20.0, max_rows=3)
    model.block(gatherer)
    answers = [submit(gatherer, 1), submit(gatherer, 2)]
    model.may_run.set()
    assert [answer.result(WAIT) for answer in answers] == [[2], [4]]
    gatherer.close()


def test_no_more_inputs_run_together_than_allowed() -> None:
    """Except those of one request."""
    model, gatherer = make(max_rows=2)
    model.block(gatherer)
    answers = [submit(gatherer, 1), submit(gatherer, 2), submit(gatherer, 3, 4, 5), submit(gatherer, 6)]
    model.may_run.set()
    assert [answer.result(WAIT) for answer in answers] == [[2], [4], [6, 8, 10], [12]]
    assert model.runs == [[0], [1, 2], [3, 4, 5], [6]]
    gatherer.close()


def test_an_error_fails_only_the_request_that_caused_it() -> None:
    """The others run again, and the thread lives."""
    model, gatherer = make()
    model.block(gatherer)
    answers = [submit(gatherer, 1), submit(gatherer, "x"), submit(gatherer, 2)]
    model.may_run.set()
    assert (answers[0].result(WAIT), answers[2].result(WAIT)) == ([2], [4])
    assert str(answers[1].exception(WAIT)) == "'x' is no number"
    assert str(submit(gatherer, None).exception(WAIT)) == "None is no number"
    assert gatherer.is_alive
    gatherer.close()


def test_a_full_queue_rejects_requests_and_says_when_to_try_again() -> None:
    """A request that is larger than the whole queue is taken if nothing waits."""
    model, gatherer = make(max_queue=3)
    first = model.block(gatherer)
    large = submit(gatherer, *range(5))
    with pytest.raises(BusyError, match="the queue is full: 5 inputs wait; try again in 1 s") as caught:
        submit(gatherer, 1)
    assert caught.value.details["retry_after"] == 1
    model.may_run.set()
    assert (first.result(WAIT), large.result(WAIT)) == ([0], [0, 2, 4, 6, 8])
    gatherer.close()


def test_closing_answers_all_requests_that_wait() -> None:
    """And no others."""
    model, gatherer = make(max_delay_ms=WAIT * 2_000)
    first = model.block(gatherer)
    rest = [submit(gatherer, 1), submit(gatherer, 2)]
    closing = threading.Thread(target=gatherer.close)
    closing.start()
    while gatherer.is_alive:
        time.sleep(0.001)
    with pytest.raises(BusyError, match="the service is stopping"):
        submit(gatherer, 3)
    model.may_run.set()
    closing.join(WAIT)
    assert [answer.result(0) for answer in (first, *rest)] == [[0], [2], [4]]


def test_a_request_that_was_given_up_does_not_run() -> None:
    """Its client went away while it waited."""
    model, gatherer = make()
    first = model.block(gatherer)
    given_up, last = submit(gatherer, 1), submit(gatherer, 2)
    assert given_up.cancel()
    model.may_run.set()
    assert (first.result(WAIT), last.result(WAIT)) == ([0], [4])
    assert model.runs == [[0], [2]]
    gatherer.close()


def test_closing_without_requests_returns_at_once() -> None:
    """No thread was started."""
    _, gatherer = make()
    gatherer.close()
    assert not gatherer.is_alive
