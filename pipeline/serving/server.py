"""Run a service with uvicorn, and stop it without losing a request."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from os import PathLike
from types import FrameType
from typing import Any, Final

from typing_extensions import Unpack

from pipeline.core.stream_chain import StreamChain
from pipeline.errors import OptionError
from pipeline.extras import import_extra
from pipeline.serving.app import make_app
from pipeline.serving.limits import ServeOptions

_GRACE: Final = 30
"""Seconds in which requests may end after the signal to stop."""

_LAST_PORT: Final = 65_535

_CONNECTIONS: Final = 1_000
"""Connections beyond this number are answered with status 503."""


def serve(
    pipe: StreamChain[Any, Any] | str | PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    log: bool = True,
    **options: Unpack[ServeOptions],
) -> None:
    """Answer requests with the predictions of a pipe until the process gets a signal to stop.

    After Ctrl + C or SIGTERM no request is taken any more; those that were taken are answered.

    Args:
        pipe: the pipe, or the folder of a saved one.
        host: the address to listen on; only this machine can reach the default.
        port: the port; 0 chooses a free one.
        log: write a line of JSON per request to standard output.
        options: see `ServeOptions`, which `Limits` describes.

    Raises:
        MissingExtraError: if starlette or uvicorn are not installed.
        OptionError: if the address cannot be used, or an option is out of range.
    """
    uvicorn = import_extra("uvicorn", extra="serve", why="a service")
    app = make_app(_load(pipe) if isinstance(pipe, str | PathLike) else pipe, **options)
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE,
        h11_max_incomplete_event_size=2**15,
        ws="none",
    )
    server: Any = uvicorn.Server(config)
    with listener, _set_up_log(log), _stop_on_signals(server):
        address = f"[{host}]" if ":" in host else host
        sys.stderr.write(f"serving on http://{address}:{listener.getsockname()[1]} (stop with Ctrl + C)\n")
        sys.stderr.flush()
        server.run(sockets=[listener])


def _load(folder: str | PathLike[str]) -> StreamChain[Any, Any]:
    from pipeline.saving.load import load  # noqa: PLC0415 - not needed for a pipe in memory

    return load(folder)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= _LAST_PORT:
        msg = f"port must be a number from 0 to {_LAST_PORT}, got {port}."
        raise OptionError(msg, port=port)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        msg = f"port {port} of {host!r} cannot be used: {reason}; choose another address or port."
        raise OptionError(msg, host=host, port=port) from error


@contextmanager
def _set_up_log(log: bool) -> Generator[None]:
    """Write the access log to standard output, and errors to standard error."""
    handlers = {
        "pipeline.serving": (logging.StreamHandler(sys.stderr), logging.WARNING),
        # A warning for everything that is no HTTP would let strangers fill the log.
        "uvicorn": (logging.StreamHandler(sys.stderr), logging.ERROR),
    }
    if log:
        handlers["pipeline.serving.access"] = (logging.StreamHandler(sys.stdout), logging.INFO)
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name in handlers}
    for name, (handler, level) in handlers.items():
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    try:
        yield
    finally:
        for name, (handler, _) in handlers.items():
            logger = logging.getLogger(name)
            logger.removeHandler(handler)
            logger.level, logger.propagate = before[name]


@contextmanager
def _stop_on_signals(server: Any) -> Generator[None]:  # noqa: ANN401 - a server of uvicorn
    """Stop the server at a signal, also before it listens to signals itself.

    It raises the signal again after it has stopped, which would end the process with an error.
    """

    def stop(_: int, __: FrameType | None) -> None:
        server.should_exit = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
