"""A service answers as its pipe, says clearly what is wrong with a request, and is not stopped by any."""

import asyncio
import json
import logging
import re
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest
import torch

from pipeline import (
    Bucket,
    Classify,
    ClassifyMultiLabel,
    Embed,
    Encode,
    FromFeatures,
    Heads,
    Labels,
    Pad,
    Pool,
    Regress,
    Tokenize,
    Vectors,
)
from pipeline.serving import App, make_app
from pipeline.serving.page import PAGE
from support.asgi import Response, call, predict
from support.commands import REVIEWS, make_classifier, make_tagger
from support.needs import needs

pytestmark = needs("starlette")

TEXTS = [text for text, _ in REVIEWS[:4]]


def run(use: Callable[[App], Coroutine[Any, Any, None]], pipe: Any = None, **options: Any) -> None:
    """Use an application, which is started before and stopped after."""

    async def live() -> None:
        app = make_app(pipe or make_classifier(), **options)
        await app.service.start()
        try:
            await use(app)
        finally:
            await app.service.stop()

    asyncio.run(live())


def test_predictions_are_those_of_the_pipe() -> None:
    """Of one input, of several, and of none."""
    pipe = make_classifier()
    wanted = list(pipe.predict(TEXTS))

    async def use(app: App) -> None:
        assert (await predict(app, {"inputs": TEXTS})).json == {"predictions": wanted}
        assert (await predict(app, {"input": TEXTS[2]})).json == {"prediction": wanted[2]}
        assert (await predict(app, {"inputs": []})).json == {"predictions": []}

    run(use, pipe)


def test_scores_are_those_of_the_pipe() -> None:
    """The best classes with their probabilities, in the requested number."""
    pipe = make_classifier()

    async def use(app: App) -> None:
        found = (await predict(app, {"inputs": TEXTS, "scores": True, "top": 1})).json["predictions"]
        for one, wanted in zip(found, pipe.predict(TEXTS, scores=True), strict=True):
            assert one["label"] == wanted.label
            assert one["probability"] == pytest.approx(wanted.probability, abs=1e-6)
            assert [each["label"] for each in one["top"]] == [wanted.label]

    run(use, pipe)


def test_a_tagger_answers_a_class_per_word_with_its_place() -> None:
    """Also for a row without words."""
    pipe = make_tagger()

    async def use(app: App) -> None:
        words = ["a", "b", "a"]
        assert (await predict(app, {"inputs": [words, []]})).json["predictions"] == list(pipe.predict([words, []]))
        found = (await predict(app, {"input": words, "scores": True})).json["prediction"]
        assert [(step["start"], step["end"]) for step in found] == [(0, 1), (2, 3), (4, 5)]
        assert [step["label"] for step in found] == next(pipe.predict([words]))

    run(use, pipe)


def test_several_heads_answer_under_their_names() -> None:
    """With scores; without them, the joint prediction."""
    tokenize = Tokenize.train(TEXTS)
    body = Embed(tokenize.vocab_size, 4) >> Encode("gru", hidden_size=4) >> Pool("max")
    heads = Heads(ClassifyMultiLabel(Labels(["x", "y"]), threshold=0.0), Regress())
    pipe = tokenize >> Bucket(rows=4) >> Pad() >> body >> heads

    async def use(app: App) -> None:
        (labels, number), scored = next(pipe.predict(["film"])), await predict(app, {"input": "film", "scores": True})
        assert (await predict(app, {"input": "film"})).json["prediction"] == [labels, pytest.approx(number)]
        found = scored.json["prediction"]
        assert found["classify_multi_label"]["labels"] == labels == ["x", "y"]
        assert {each["label"] for each in found["classify_multi_label"]["top"]} == {"x", "y"}
        assert found["regress"] == pytest.approx(number)

    run(use, pipe)


def test_requests_at_once_are_gathered_and_get_their_own_answers() -> None:
    """Wrong ones among them too."""
    pipe = make_classifier()
    texts = [" ".join(TEXTS[: 1 + number % 4]) for number in range(64)]
    wanted = list(pipe.predict(texts))

    async def use(app: App) -> None:
        requests = [predict(app, {"input": text}) for text in texts]
        wrong = [predict(app, {"input": 5}) for _ in range(8)]
        answers = await asyncio.gather(*requests, *wrong)
        assert [answer.json["prediction"] for answer in answers[:64]] == wanted
        assert {answer.status for answer in answers[64:]} == {422}
        assert app.service.gatherer.batches < 64

    run(use, pipe, max_rows=16)


def test_the_loop_answers_while_the_model_runs() -> None:
    """The model has a thread of its own."""
    may_run = threading.Event()

    async def use(app: App) -> None:
        _hold(app, may_run)
        slow = asyncio.create_task(predict(app, {"input": "film"}))
        await asyncio.sleep(0.01)
        assert (await call(app, "GET", "/health")).status == 200
        may_run.set()
        assert (await slow).status == 200

    run(use)


async def get_status(app: App, **request: Any) -> Response:
    """Send a request that is wrong in one way."""
    options: dict[str, Any] = {"method": "POST", "path": "/predict", "body": b'{"input": "film"}', **request}
    return await call(app, options.pop("method"), options.pop("path"), options.pop("body"), **options)


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "no JSON": ({"body": b"{"}, 400, "the body must be JSON, got an error"),
    "wrong type": ({"body": b'{"input": 5}'}, 422, "input must be text, got the number 5"),
    "content type": (
        {"content_type": "text/plain"},
        415,
        "the header Content-Type must be application/json, got 'text/plain'",
    ),
    "no content type": ({"content_type": ""}, 415, "the header Content-Type must be application/json, got ''"),
    "compressed": ({"content_encoding": "gzip"}, 415, "the body must not be compressed, got Content-Encoding 'gzip'"),
    "declared too large": ({"content_length": "101"}, 413, "the body must have at most 100 bytes"),
    "declared absurdly large": ({"content_length": "9" * 5_000}, 413, "the body must have at most 100 bytes"),
    "too large": ({"body": [b" " * 60, b" " * 60]}, 413, "the body must have at most 100 bytes"),
    "unknown path": ({"path": "/predicts"}, 404, "there is no '/predicts'; use POST /predict, GET /info"),
    "a slash too many": ({"path": "/predict/"}, 404, "there is no '/predict/'"),
    "a path with control characters": ({"path": "/\x1b[31m\n"}, 404, "there is no "),
    "wrong method": ({"method": "GET"}, 405, "/predict takes POST, got GET"),
    "wrong method of a page": ({"method": "POST", "path": "/info"}, 405, "/info takes"),
    "slow": ({"body": [b'{"input"', b': "film"}'], "pause": 0.2}, 408, "the body must arrive within 0.3 s"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests_get_a_clear_answer(case: str) -> None:
    """With a status of the 400s; the service keeps running."""
    request, status, message = WRONG[case]

    async def use(app: App) -> None:
        answer = await get_status(app, **request)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
        assert answer.message.startswith(message)
        assert ("allow" in answer.headers) == (status == 405)
        assert (await predict(app, {"input": "film"})).status == 200

    run(use, max_body=100, body_timeout=0.3)


def test_content_types_may_have_parameters() -> None:
    """And capitals."""

    async def use(app: App) -> None:
        assert (await predict(app, {"input": "film"}, content_type="Application/JSON; charset=utf-8")).status == 200

    run(use)


def test_an_input_that_the_pipe_rejects_is_the_clients_fault() -> None:
    """The number in the message is that of the input in its own request, also if requests were gathered."""
    data = FromFeatures() >> Bucket(Vectors, rows=4) >> Pad(Vectors)
    pipe = data >> Encode("gru", input_size=1, hidden_size=2) >> Pool("max") >> Classify(2)

    async def use(app: App) -> None:
        good, bad = {"inputs": [[1.0], [2.0, 3.0]]}, {"inputs": [[1.0], ["x"]]}
        answers = await asyncio.gather(*(predict(app, each) for each in [good, bad, good, bad]))
        assert [answer.status for answer in answers] == [200, 422, 200, 422]
        for answer in (answers[1], answers[3]):
            assert answer.json["error"]["argument"] == "inputs[1]"
            assert "row 1 must be a floating-point tensor of time x feature, got 'x' at step 0" in answer.message

    run(use, pipe)


def test_a_model_that_fails_tells_the_log_and_not_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """Its error may tell more about the service than a client should know. NaN is such an error."""
    pipe = make_classifier()
    with torch.no_grad():
        for weight in pipe.parameters():
            weight.fill_(torch.nan)

    async def use(app: App) -> None:
        answer = await predict(app, {"input": "film", "scores": True})
        assert (answer.status, answer.message) == (500, "the model failed; the service's log has the error.")
        assert (await call(app, "GET", "/health")).status == 200

    run(use, pipe)
    assert "a prediction must be a finite number, got nan" in caplog.text


def test_a_full_queue_is_answered_with_503_and_the_time_to_wait() -> None:
    """The requests that were taken are answered."""
    may_run = threading.Event()

    async def use(app: App) -> None:
        _hold(app, may_run)
        first = asyncio.create_task(predict(app, {"input": "film"}))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(predict(app, {"input": "film"}))
        await asyncio.sleep(0.05)
        answer = await predict(app, {"input": "film"})
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.message.startswith("the queue is full: 1 inputs wait")
        may_run.set()
        assert [(await each).status for each in (first, second)] == [200, 200]

    run(use, max_queue=1)


def _hold(app: App, may_run: threading.Event) -> None:
    """Let the model of an application wait."""
    gatherer: Any = app.service.gatherer
    predict_now: Callable[..., Iterable[object]] = gatherer._predict

    def wait(inputs: Any, scores: bool) -> Iterable[object]:
        assert may_run.wait(20)
        return predict_now(inputs, scores)

    gatherer._predict = wait


def test_stopping_answers_what_was_taken() -> None:
    """And nothing else: readiness is withdrawn."""
    may_run = threading.Event()

    async def use(app: App) -> None:
        assert (await call(app, "GET", "/ready")).json == {"status": "ready", "waiting": 0}
        _hold(app, may_run)
        taken = [asyncio.create_task(predict(app, {"input": "film"})) for _ in range(3)]
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(app.service.stop())
        await asyncio.sleep(0.05)
        assert (await call(app, "GET", "/ready")).status == 503
        refused = await predict(app, {"input": "film"})
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        may_run.set()
        await stopping
        assert [(await each).status for each in taken] == [200, 200, 200]
        assert (await call(app, "GET", "/health")).status == 503

    run(use)


def test_an_application_is_not_ready_before_it_has_started() -> None:
    """It is alive."""

    async def use() -> None:
        app = make_app(make_classifier())
        assert (await call(app, "GET", "/ready")).status == 503
        assert (await call(app, "GET", "/health")).json == {"status": "ok"}

    asyncio.run(use())


def test_info_describes_the_pipe() -> None:
    """Its input, classes, stages, limits and versions."""

    async def use(app: App) -> None:
        found = (await call(app, "GET", "/info")).json
        assert (found["input"], found["labels"], found["heads"]) == ("text", ["bad", "good"], [])
        assert [stage["kind"] for stage in found["stages"]][:3] == ["Tokenize", "Bucket", "Pad"]
        assert found["limits"]["max_rows"] == 7
        assert {"pipeline", "torch"} == set(found["versions"])

    run(use, max_rows=7)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    """Its policy allows only its own script and style, and requests to the service."""

    async def use(app: App) -> None:
        answer = await call(app, "GET", "/")
        assert answer.body.decode() == PAGE
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "connect-src 'self'" in policy
        assert answer.headers["content-type"].startswith("text/html")

    run(use)
    assert not re.search(r"https?:|//[a-z]|<link|<img|<iframe|url\(|innerHTML| on[a-z]+=", PAGE)
    assert "color-scheme: light dark" in PAGE


def test_each_request_writes_a_line_of_json(caplog: pytest.LogCaptureFixture) -> None:
    """No path can write a second one."""
    caplog.set_level(logging.INFO, "pipeline.serving.access")

    async def use(app: App) -> None:
        await predict(app, {"inputs": TEXTS})
        await call(app, "GET", '/\n{"status": 200}')

    run(use)
    lines = [record.getMessage() for record in caplog.records if record.name == "pipeline.serving.access"]
    assert all("\n" not in line for line in lines)
    first, second = map(json.loads, lines)
    assert (first["method"], first["path"], first["status"], first["inputs"]) == ("POST", "/predict", 200, 4)
    assert first["ms"] > 0
    assert (second["path"], second["status"]) == ('/\n{"status": 200}', 404)
