"""A client for applications of ASGI, without a server and without another package."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import attrs

from pipeline.serving.app import App, Message


@attrs.frozen
class Response:
    """An answer: status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The message of an error."""
        return str(self.json["error"]["message"])


async def call(
    app: App,
    method: str,
    path: str,
    body: bytes | Sequence[bytes] = b"",
    *,
    pause: float = 0.0,
    **headers: str,
) -> Response:
    """Send a request, whose body may be several parts with a pause before each."""
    parts = [body] if isinstance(body, bytes) else list(body)
    given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(pause)
        if not parts:
            await asyncio.sleep(1_000)
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    names = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Response(sent[0]["status"], names, b"".join(message.get("body", b"") for message in sent[1:]))


async def predict(app: App, value: object, content_type: str = "application/json") -> Response:
    """Send JSON to be predicted."""
    return await call(app, "POST", "/predict", json.dumps(value).encode(), content_type=content_type)
