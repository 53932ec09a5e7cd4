"""Answers of a service: predictions, its state, and errors, without any server around it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from importlib.metadata import version
from typing import Any, Final, final

import attrs
import torch

from pipeline.core.stream_chain import StreamChain
from pipeline.errors import LengthError, ShapeError, TextError, ValuesError
from pipeline.inference.plain import Plain, find_heads, to_json, to_plain
from pipeline.labels import Labels
from pipeline.serving.gathering import BusyError, Gatherer
from pipeline.serving.limits import Limits
from pipeline.serving.requests import PredictRequest, RequestError, find_kind, read_request

_JSON: Final = "application/json"

_LARGE: Final = 2**16
"""Bytes from which a body is parsed in a thread, or other requests would wait for it: it takes a millisecond."""

_INPUT_ERRORS: Final = (TextError, ValuesError, LengthError, ShapeError)
"""Errors about a row, which are the client's fault."""

_MAX_DISCARDED: Final = 2**25
"""Bytes of a rejected body that are read: a client that still sends when the connection closes sees no answer."""

_MAX_LABELS: Final = 1_000

_logger: Final = logging.getLogger("pipeline.serving")


@final
@attrs.frozen
class Answer:
    """An answer to a request.

    Attributes:
        status: the HTTP status.
        body: the JSON.
        headers: headers beside those of every answer.
        inputs: the number of inputs, for the log.
    """

    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    inputs: int = 0

    def encode(self) -> bytes:
        """Return the body in UTF-8."""
        return json.dumps(self.body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def make_error(status: int, message: str, *, argument: str | None = None, **headers: str) -> Answer:
    """Return the answer for an error."""
    error = {"message": message} if argument is None else {"argument": argument, "message": message}
    return Answer(status, {"error": error}, {name.replace("_", "-"): value for name, value in headers.items()})


@final
class Service:
    """A pipe that answers requests.

    Args:
        pipe: the pipe.
        limits: the limits of requests.
    """

    def __init__(self, pipe: StreamChain[Any, Any], limits: Limits) -> None:
        self._pipe: Final = pipe
        self._limits: Final = limits
        self._kind: Final = find_kind(pipe)
        self._heads: Final = find_heads(pipe)
        self.gatherer: Final = Gatherer(self._predict, limits)
        self._is_ready = False

    def _predict(self, inputs: Sequence[object], scores: bool) -> Iterable[object]:
        return self._pipe.predict(inputs, scores=True) if scores else self._pipe.predict(inputs)

    async def start(self) -> None:
        """Run the model once: the first run of a process takes longer."""
        await asyncio.to_thread(self._warm_up)
        self._is_ready = True

    def _warm_up(self) -> None:
        if self._kind.name == "text":
            list(self._predict(["warm up"], scores=True))

    async def stop(self) -> None:
        """Answer all requests that wait, and take no more."""
        self._is_ready = False
        await asyncio.to_thread(self.gatherer.close)

    async def predict(self, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> Answer:
        """Answer a request to predict; what is wrong with it is an answer too."""
        try:
            self._check_headers(headers)
            request = await self._read(body)
            found = await asyncio.wrap_future(self._submit(request))
        except RequestError as error:
            is_read = await self._discard(headers, body)
            status, argument = error.details["status"], error.details["argument"]
            after = {} if is_read else {"Connection": "close"}
            return make_error(int(str(status)), str(error), argument=str(argument), **after)
        except BusyError as error:
            return make_error(503, str(error), Retry_After=str(error.details["retry_after"]))
        except Exception as error:
            if isinstance(error, _INPUT_ERRORS) and "row" in error.details:
                return make_error(422, str(error), argument=f"inputs[{error.details['row']}]")
            # Anything else is not the client's fault, and may tell more about the service than a client should know.
            _logger.exception("prediction failed")
            return make_error(500, "the model failed; the service's log has the error.")
        if request.is_single:
            return Answer(200, {"prediction": found[0]}, inputs=1)
        return Answer(200, {"predictions": found}, inputs=len(found))

    def _submit(self, request: PredictRequest) -> Future[list[Plain]]:
        convert: Callable[[object], Plain] = to_plain
        if request.scores:
            convert = partial(to_json, top=request.top, heads=self._heads)
        return self.gatherer.submit(request.inputs, convert, scores=request.scores)

    def _check_headers(self, headers: Mapping[str, str]) -> None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON:
            msg = f"the header Content-Type must be {_JSON}, got {kind!r:.60}; send JSON."
            raise RequestError(msg, argument="Content-Type", status=415)
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity":
            msg = f"the body must not be compressed, got Content-Encoding {encoding!r:.60}; send it as it is."
            raise RequestError(msg, argument="Content-Encoding", status=415)
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdecimal() and (len(length) > 18 or int(length) > self._limits.max_body):
            raise self._make_size_error()

    async def _read(self, body: AsyncIterator[bytes]) -> PredictRequest:
        content = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                async for part in body:
                    content += part
                    # Also without the header, or with a wrong one.
                    if len(content) > self._limits.max_body:
                        raise self._make_size_error()
        except TimeoutError as error:
            msg = f"the body must arrive within {self._limits.body_timeout:g} s; send it at once."
            raise RequestError(msg, argument="body", status=408) from error
        if len(content) > _LARGE:
            return await asyncio.to_thread(read_request, bytes(content), self._kind, self._limits)
        return read_request(bytes(content), self._kind, self._limits)

    async def _discard(self, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> bool:
        """Read what is left of a rejected body, within limits, without keeping it; return whether that was all."""
        length = headers.get("content-length", "0")
        is_declared_long = len(length) > 18 or (length.isdecimal() and int(length) > _MAX_DISCARDED)
        # A client that waits for permission to continue has not sent its body, and would only send it now.
        if is_declared_long or "expect" in headers:
            return False
        left = _MAX_DISCARDED
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                async for part in body:
                    left -= len(part)
                    if left < 0:
                        return False
        except (TimeoutError, RequestError):
            return False
        return True

    def _make_size_error(self) -> RequestError:
        msg = f"the body must have at most {self._limits.max_body} bytes, but has more; send fewer inputs per request."
        return RequestError(msg, argument="body", status=413)

    def describe_health(self) -> Answer:
        """Answer whether the process works."""
        if self.gatherer.is_alive:
            return Answer(200, {"status": "ok"})
        return make_error(503, "the service is stopping, or its thread has died; restart it.")

    def describe_readiness(self) -> Answer:
        """Answer whether requests should be sent here: the model has run once, and the service is not stopping."""
        if self._is_ready and self.gatherer.is_alive:
            return Answer(200, {"status": "ready", "waiting": self.gatherer.waiting})
        return make_error(503, "the service is starting or stopping; try again.", Retry_After="1")

    def describe(self) -> Answer:
        """Answer what the pipe takes and gives."""
        labels = find_labels(self._pipe)
        body = {
            "input": self._kind.name,
            "rule": self._kind.rule,
            "labels": labels if labels is None or len(labels) <= _MAX_LABELS else list(labels[:_MAX_LABELS]),
            "heads": list(self._heads),
            "stages": [{"name": name, "kind": type(stage).__name__} for name, stage in self._pipe.stages.items()],
            "weights": sum(weight.numel() for weight in self._pipe.parameters()),
            "limits": attrs.asdict(self._limits),
            "versions": {"pipeline": version("ragged-pipeline"), "torch": str(torch.__version__)},
        }
        return Answer(200, body)


def find_labels(pipe: StreamChain[Any, Any]) -> Sequence[str] | None:
    """Return the class names of a pipe with one head that has labels."""
    last: object = [*pipe.stages.values()][-1]
    names: object = getattr(last, "names", None)
    return list(names) if isinstance(names, Labels) else None
