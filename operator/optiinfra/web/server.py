"""Runs the HTTP application inside the operator's own event loop.

uvicorn would install signal handlers of its own; signals belong to the operator, which gives the Lease back before
anything else stops. Connections are bounded in number and time.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI

from optiinfra.errors import OptiInfraError
from optiinfra.web.bounded import BoundedProtocol

_HEADERS_BYTES = 32 * 1024
"""A token of a ServiceAccount has one to two KiB; the API server's own limit for headers is 1 MiB."""


class ServerError(OptiInfraError):
    """The HTTP server could not start."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN202  signature of the base class
        yield


@contextlib.asynccontextmanager
async def serving(app: FastAPI, *, host: str, port: int) -> AsyncIterator[int]:
    """Serve `app` while the context is open; yields the port really used (0 asks for a free one).

    Raises:
        ServerError: the port is taken, or the server did not start within ten seconds.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=BoundedProtocol,
        h11_max_incomplete_event_size=_HEADERS_BYTES,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
        server_header=False,
        lifespan="off",
        ws="none",
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        await _started(server, task)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    # Not left to uvicorn: when the port is taken it ends the whole process from inside a task, without our one line.
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServerError(f"HTTP server on {host}:{port} did not start: {error.strerror or error}") from error


async def _started(server: uvicorn.Server, task: "asyncio.Task[None]") -> None:
    try:
        async with asyncio.timeout(10):
            while not server.started and not task.done():  # noqa: ASYNC110  uvicorn tells by a flag alone
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise ServerError("the HTTP server did not start within 10 s") from error
    if not server.started:
        raise ServerError("the HTTP server ended before it had started")
