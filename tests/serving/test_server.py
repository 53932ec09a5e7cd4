"""A service in a process of its own: many clients, wrong requests, and the end of the process."""

import asyncio
import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.measurements.serve import connect_to, load, start_service
from pipeline.errors import MissingExtraError, OptionError
from pipeline.serving import serve
from support.commands import REVIEWS, make_classifier
from support.needs import needs

pytestmark = needs("starlette", "uvicorn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a saved classifier."""
    path = tmp_path_factory.mktemp("served") / "model"
    make_classifier().save(path)
    return path


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    """Return the port of a service. It ends without an error when it gets a signal to stop."""
    with start_service(folder, "--max-rows", "16") as found:
        yield found


def test_many_clients_get_the_answers_of_the_pipe(port: int) -> None:
    """64 clients at once, with malformed requests among theirs."""
    texts = [text for text, _ in REVIEWS]
    wanted = dict(zip(texts, make_classifier().predict(texts), strict=True))
    found = asyncio.run(load(lambda: connect_to(port), wanted, clients=64, requests=8))
    assert (found.answers, len(found.seconds)) == (512, 448)
    assert str(found).startswith("512 requests, ")


def test_bytes_that_are_no_http_close_the_connection(port: int) -> None:
    """And nothing else: the service keeps running."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"\x16\x03\x01 no HTTP \x00\r\n\r\n")
        assert client.recv(1_000).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2**17)
        assert client.recv(1_000).startswith(b"HTTP/1.1 400")
    assert get(port, "/health") == {"status": "ok"}


def test_a_client_that_goes_away_harms_nobody(port: int) -> None:
    """In the middle of its request, or before its answer."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n"
    for body in (b'{"input"', b'{"input": "film"}'):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(head + body)
    assert get(port, "/ready")["status"] == "ready"


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_client_sees_why_its_large_body_is_rejected(port: int, is_declared: bool) -> None:
    """Although it sends everything before it reads the answer; the connection can be used again."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    parts = [b" " * 2**20] * 20
    client.request(
        "POST",
        "/predict",
        b"".join(parts) if is_declared else iter(parts),
        {"Content-Type": "application/json"},
        encode_chunked=not is_declared,
    )
    answer = client.getresponse()
    assert answer.status == 413
    assert b"the body must have at most 1048576 bytes" in answer.read()
    client.request("GET", "/health")
    assert client.getresponse().status == 200
    client.close()


def test_a_body_is_not_awaited_without_end(port: int) -> None:
    """One that is declared as huge, and one whose client waits for permission to send it."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
    for rest in (b"99999999999\r\n\r\n", b"2000000\r\nExpect: 100-continue\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(head + rest)
            answer = b"".join(iter(lambda: client.recv(2**16), b""))
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"\r\nconnection: close\r\n" in answer.lower()


def get(port: int, path: str) -> dict[str, object]:
    """Return the JSON at a path."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.request("GET", path)
    found: dict[str, object] = json.loads(client.getresponse().read())
    client.close()
    return found


def test_a_port_that_is_in_use_is_an_error(port: int) -> None:
    """And one that does not exist."""
    with pytest.raises(OptionError, match=f"port {port} of '127.0.0.1' cannot be used: Address already in use"):
        serve(make_classifier(), port=port)
    with pytest.raises(OptionError, match="port must be a number from 0 to 65535, got 70000"):
        serve(make_classifier(), port=70_000)
    with pytest.raises(OptionError, match="port 0 of 'no.host.invalid' cannot be used: "):
        serve(make_classifier(), host="no.host.invalid", port=0)
    assert not logging.getLogger("pipeline.serving.access").handlers


def test_stopping_answers_requests_that_were_taken(folder: Path) -> None:
    """Also one whose body comes after the signal; the process ends without an error."""
    body = json.dumps({"inputs": ["a fine film"] * 200}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n"
    with ExitStack() as stack:
        with start_service(folder) as port:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
            # The service asks for the body when it handles the request.
            assert client.recv(1_000).startswith(b"HTTP/1.1 100 ")
            threading.Timer(0.5, client.sendall, [body]).start()
        # `start_service` has sent SIGTERM, and checked the status and the output of the process.
        answer = b"".join(iter(lambda: client.recv(10_000), b""))
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"]) == 200


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded."""
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"a service needs the package uvicorn, .*\[serve\]"):
        serve(make_classifier())
