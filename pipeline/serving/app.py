"""The application: routes around a service, for any server of ASGI. Needs the extra `serve`."""

import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, final

from typing_extensions import Unpack

from pipeline.core.stream_chain import StreamChain
from pipeline.extras import LazyModule, import_extra
from pipeline.serving.limits import Limits, ServeOptions
from pipeline.serving.page import HEADERS, PAGE
from pipeline.serving.requests import RequestError
from pipeline.serving.service import Answer, Service, make_error

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

Request: TypeAlias = Any
"""A request of starlette, which is imported late and has no types here."""

_responses: Final[Any] = LazyModule("starlette.responses", extra="serve", why="a service")
_access: Final = logging.getLogger("pipeline.serving.access")
_ROUTES: Final = "POST /predict, GET /info, GET /health, GET /ready and GET /"


@final
class App:
    """An ASGI application that answers requests with a pipe; see `make_app`."""

    def __init__(self, service: Service) -> None:
        self.service: Final = service
        self._app: Final = _make_routes(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and write a line to the log `pipeline.serving.access`: JSON with its time and status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 0

        async def see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, see)
        finally:
            if _access.isEnabledFor(logging.INFO):
                _access.info(_format_line(scope, status, time.perf_counter() - begin))


def make_app(pipe: StreamChain[Any, Any], **options: Unpack[ServeOptions]) -> App:
    """Return an ASGI application that answers requests with the predictions of a pipe.

    Run it with any server of ASGI, or in one call with `serve`. `POST /predict` takes `{"inputs": [...]}` or
    `{"input": ...}`, with `"scores": true` for probabilities. `GET /info` describes the pipe, `GET /health` and
    `GET /ready` its state, and `GET /` is a page to try it in a browser.

    Args:
        pipe: the pipe; it runs in one thread.
        options: see `ServeOptions`, which `Limits` describes.

    Raises:
        MissingExtraError: if starlette is not installed.
        OptionError: if an option is out of range.
    """
    return App(Service(pipe, Limits(**options)))


def _make_routes(service: Service) -> Any:  # noqa: ANN401 - an application of starlette
    applications, requests, routing = (
        import_extra(f"starlette.{name}", extra="serve", why="a service")
        for name in ("applications", "requests", "routing")
    )

    async def read_body(request: Request) -> AsyncGenerator[bytes]:
        try:
            async for part in request.stream():
                yield part
        except requests.ClientDisconnect as error:
            # Nobody reads the answer; the line in the log says what happened.
            raise RequestError("the client went away.", argument="body", status=400) from error

    async def predict(request: Request) -> object:
        answer = await service.predict(request.headers, read_body(request))
        request.scope["inputs"] = answer.inputs
        return _respond(answer)

    @asynccontextmanager
    async def live(_: object) -> AsyncGenerator[None]:
        await service.start()
        yield
        await service.stop()

    routes = [
        routing.Route("/predict", predict, methods=["POST"]),
        routing.Route("/info", _make_get(service.describe), methods=["GET"]),
        routing.Route("/health", _make_get(service.describe_health), methods=["GET"]),
        routing.Route("/ready", _make_get(service.describe_readiness), methods=["GET"]),
        routing.Route("/", _show_page, methods=["GET"]),
    ]
    handlers: Mapping[int, object] = {404: _reject_path, 405: _reject_method}
    app = applications.Starlette(routes=routes, exception_handlers=handlers, lifespan=live)
    # A path with a slash too many is an error like any other unknown one, instead of a redirection.
    app.router.redirect_slashes = False
    return app


def _respond(answer: Answer) -> object:
    headers = {"X-Content-Type-Options": "nosniff", **answer.headers}
    return _responses.Response(answer.encode(), answer.status, headers, "application/json")


def _make_get(describe: Callable[[], Answer]) -> Callable[[Request], Awaitable[object]]:
    async def handle(_: Request) -> object:
        return _respond(describe())

    return handle


async def _show_page(_: Request) -> object:
    return _responses.Response(PAGE, 200, HEADERS, "text/html")


async def _reject_path(request: Request, _: Exception) -> object:
    return _respond(make_error(404, f"there is no {request.url.path!r:.100}; use {_ROUTES}."))


async def _reject_method(request: Request, error: Any) -> object:  # noqa: ANN401 - an exception of starlette
    allowed = dict(error.headers or {}).get("Allow", "GET")
    message = f"{request.url.path} takes {allowed}, got {request.method:.20}; use {_ROUTES}."
    return _respond(make_error(405, message, Allow=allowed))


def _format_line(scope: Scope, status: int, seconds: float) -> str:
    client = scope.get("client")
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": round(seconds * 1_000, 3),
        "inputs": scope.get("inputs", 0),
    }
    # As JSON, so that no path can write a second line.
    return json.dumps(line)
