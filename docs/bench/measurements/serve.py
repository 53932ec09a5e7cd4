"""A saved pipe: a service of it, beside the model alone and under the load of many clients; and loading it.

Loading is measured beside reading and hashing the weights with safetensors and hashlib.
"""

import asyncio
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeAlias, cast

import attrs
import safetensors.torch
import torch
from torch import Tensor

from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    Quartiles,
    Rounds,
    Threads,
    Times,
    describe_threads,
    time_interleaved,
    use_threads,
)
from pipeline import Bucket, FromIds, Labels, Pad, StreamChain, Tokenize, classifier
from pipeline import load as load_pipe
from pipeline.serving import App, make_app
from pipeline.serving.app import Message

WORDS: Final = 24
"""Words per text."""

CLIENTS: Final = 64

_MALFORMED: Final[Sequence[tuple[bytes, int]]] = (
    (b"{", 400),
    (b'{"input": 5}', 422),
    (b'{"input": "a\\ud800"}', 422),
    (b'{"inputs": ["a"], "input": "a"}', 400),
    (b"[" * 10_000, 400),
    (b'{"input": NaN}', 400),
    (json.dumps({"input": "a" * 20_000}).encode(), 413),
)
"""Requests that must be rejected, with their status."""

Send: TypeAlias = Callable[[bytes], Awaitable[tuple[int, bytes]]]
"""Sends the body of a request to predict, and returns the status and the body of the answer."""

Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[Send]]
"""Opens the connection of one client, and returns what sends its requests."""


def make_texts(number: int) -> list[str]:
    """Make texts of different lengths."""
    lengths = [1 + row * 13 % (2 * WORDS) for row in range(number)]
    return [" ".join(f"w{(7 * row + 3 * at) % 1_000}" for at in range(length)) for row, length in enumerate(lengths)]


def make_pipe() -> StreamChain[Any, Any]:
    """Make a classifier with random weights, in evaluation mode."""
    torch.default_generator.manual_seed(0)
    labels = Labels([f"class {number}" for number in range(8)])
    tokenize = Tokenize.train(make_texts(1_000))
    return (tokenize >> Bucket(max_padded_steps=4_096) >> Pad() >> classifier(tokenize.vocab_size, labels)).eval()


async def send_in_process(app: App, body: bytes) -> tuple[int, bytes]:
    """Send a request to an application of this process, without a network."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@attrs.frozen
class Load:
    """What clients saw.

    Attributes:
        seconds: the time of each good request.
        answers: the number of all requests.
        total: the time of all together.
    """

    seconds: Sequence[float]
    answers: int
    total: float

    def get_quantile(self, share: float) -> float:
        """Return the time, in milliseconds, within which a share of the good requests were answered."""
        return 1e3 * sorted(self.seconds)[min(int(share * len(self.seconds)), len(self.seconds) - 1)]

    def __str__(self) -> str:
        return (
            f"{self.answers} requests, {self.answers / self.total:,.0f} per second, "
            f"p50 {self.get_quantile(0.5):.2f} ms, p99 {self.get_quantile(0.99):.2f} ms"
        )


async def load(connect: Connect, wanted: Mapping[str, str], *, clients: int, requests: int) -> Load:
    """Let clients send requests one after another, each eighth of them malformed, and check every answer.

    Args:
        connect: returns what sends the requests of a client.
        wanted: texts with their predictions.
        clients: the number of clients.
        requests: the number of requests of each.

    Raises:
        AssertionError: if an answer differs from the pipe's own.
    """
    texts, seconds = list(wanted), list[float]()

    async def run(client: int, send: Send) -> None:
        for number in range(client, client + requests):
            if number % 8 == 7:
                body, status = _MALFORMED[number // 8 % len(_MALFORMED)]
                found, _ = await send(body)
                assert found == status, (body[:40], found)
                continue
            text = texts[number * 31 % len(texts)]
            begin = time.perf_counter()
            status, answer = await send(json.dumps({"input": text}).encode())
            seconds.append(time.perf_counter() - begin)
            assert (status, json.loads(answer)) == (200, {"prediction": wanted[text]}), (text, answer)

    async with AsyncExitStack() as stack:
        sends = [await stack.enter_async_context(connect()) for _ in range(clients)]
        begin = time.perf_counter()
        await asyncio.gather(*(run(client, send) for client, send in enumerate(sends)))
        return Load(seconds, clients * requests, time.perf_counter() - begin)


@asynccontextmanager
async def connect_to(port: int) -> AsyncGenerator[Send]:
    """Open a connection to a service of this machine, which is kept for all requests of a client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send(body: bytes) -> tuple[int, bytes]:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        await writer.drain()
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", answer, flags=re.IGNORECASE)
        assert length is not None
        return int(answer.split()[1]), await reader.readexactly(int(length.group(1)))

    try:
        yield send
    finally:
        writer.close()
        await writer.wait_closed()


@contextmanager
def start_service(folder: Path, *options: str) -> Generator[int]:
    """Start a service in a process of its own, give its port, and stop it; it must end without an error."""
    command = [sys.executable, "-P", "-m", "pipeline", "serve", str(folder), "--port", "0", "--quiet", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        try:
            yield int(line.split(":")[2].split()[0])
        finally:
            process.terminate()
            rest = process.stderr.read()
    assert (process.returncode, rest) == (0, ""), (line, rest)


def load_process(*, clients: int, requests: int) -> Load:
    """Load a service in a process of its own over the network of this machine, after some requests to warm up."""
    pipe, texts = make_pipe(), make_texts(64)
    wanted = dict(zip(texts, pipe.predict(texts), strict=True))

    async def run(port: int) -> Load:
        await load(lambda: connect_to(port), wanted, clients=clients, requests=4)
        return await load(lambda: connect_to(port), wanted, clients=clients, requests=requests)

    with TemporaryDirectory() as folder:
        pipe.save(Path(folder) / "model")
        with start_service(Path(folder) / "model") as port:
            return asyncio.run(run(port))


@attrs.frozen
class ServeCase:
    """One text, answered by the model alone and by the service.

    Example:
        >>> str(ServeCase())
        'one text of 24 words, all threads'
    """

    words: int = WORDS
    threads: Threads = "all"

    def __str__(self) -> str:
        return f"one text of {self.words} words, {describe_threads(self.threads)}"


def measure_serve(extent: Extent) -> Iterator[Result]:
    """Time one text through the service and through the model alone, in interleaved rounds; then load the service."""
    rounds = Rounds(most=200, fewest=50, seconds=5.0) if extent == "quick" else Rounds(most=1_000, fewest=200)
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        return
    case = ServeCase()
    with use_threads(case.threads) as threads:
        times = time_one(case, rounds)
        found = load_process(clients=CLIENTS, requests=10 if extent == "quick" else 50)
    yield Result("serve", str(case), threads, attrs.asdict(case), times, notes=[f"{CLIENTS} clients: {found}"])


def time_one(case: ServeCase, rounds: Rounds) -> dict[str, Times]:
    """Time one text."""
    pipe, text = make_pipe(), " ".join(f"w{number}" for number in range(case.words))
    body = json.dumps({"input": text}).encode()
    loop = asyncio.new_event_loop()
    app = make_app(pipe)
    loop.run_until_complete(app.service.start())
    steps: dict[str, Callable[[], Any]] = {
        "model": lambda: list(pipe.predict([text])),
        "service": lambda: loop.run_until_complete(send_in_process(app, body)),
    }
    try:
        assert json.loads(steps["service"]()[1]) == {"prediction": steps["model"]()[0]}
        return time_interleaved(steps, rounds)
    finally:
        loop.run_until_complete(app.service.stop())
        loop.close()


def tabulate_serve(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    headings = ("service", "threads", "model alone", "through the service", "more, ms")
    note = "One text: in process, without a network. The clients use another process; 1 in 8 requests is malformed."
    return ReportTable("Service", headings, [_make_serve_cells(result) for result in results], [note])


def _make_serve_cells(result: Result) -> list[str]:
    model, service = result.times["model"], result.times["service"]
    more = Quartiles.of([1e3 * (two - one) for one, two in zip(model.seconds, service.seconds, strict=True)])
    return ["; ".join([result.point, *result.notes]), str(result.threads), str(model), str(service), str(more)]


SERVE: Final = Measurement("serve", measure_serve, tabulate_serve)


SAVED_SIZES: Final[Mapping[Extent, Sequence[int]]] = {
    "quick": (1, 100),
    "default": (1, 100),
    "full": (1, 10, 100, 1_000),
}
"""Megabytes of weights."""

_EMBEDDING: Final = 100

_load_file: Final[Callable[[Path], Mapping[str, Tensor]]] = cast("Any", safetensors.torch).load_file


def measure_saving(extent: Extent) -> Iterator[Result]:
    """Measure each size on one thread: hashing uses no more."""
    for megabytes in SAVED_SIZES[extent]:
        yield measure_loading(megabytes)


def measure_loading(megabytes: int, rounds: int = 15) -> Result:
    """Load a classifier of ids with an embedding of this size; its files are in the cache of the system."""
    ids = max(megabytes * 1_000_000 // (4 * _EMBEDDING) - 2_000, 10)
    with tempfile.TemporaryDirectory() as parent, use_threads("one") as number:
        folder = Path(parent) / "pipe"
        (FromIds() >> Bucket(rows=2) >> Pad() >> classifier(ids, 2, embedding_dim=_EMBEDDING)).save(folder)
        weights = folder / "weights.safetensors"

        def read_weights() -> Mapping[str, Tensor]:
            found = _load_file(weights)
            with weights.open("rb") as file:
                hashlib.file_digest(file, "sha256").hexdigest()
            return found

        candidates: Mapping[str, Callable[[], object]] = {
            "load": lambda: load_pipe(folder, takes=list[int], gives=int),
            "safetensors": read_weights,
        }
        times = time_interleaved(candidates, Rounds(rounds))
        return Result("saving", f"{megabytes} MB of weights", number, {"bytes": weights.stat().st_size}, times)


def tabulate_saving(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per size."""
    headings = ("weights", "load", "safetensors.torch.load_file + hashlib.file_digest", "ratio")
    return ReportTable("Loading a saved pipe", headings, [_make_saving_cells(result) for result in results])


def _make_saving_cells(result: Result) -> list[str]:
    ours, theirs = result.times["load"], result.times["safetensors"]
    return [result.point, str(ours), str(theirs), str(ours.divide_by(theirs))]


SAVING: Final = Measurement("saving", measure_saving, tabulate_saving)
