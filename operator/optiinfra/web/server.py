"""Runs the HTTP application inside the operator's own event loop.

uvicorn would install signal handlers of its own; signals belong to the operator, which gives the Lease back before
anything else stops. Connections are bounded in number and time.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI

from optiinfra.errors import OptiInfraError


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
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        limit_concurrency=512,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
        server_header=False,
        lifespan="off",
        ws="none",
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(), name="http")
    try:
        async with asyncio.timeout(10):
            while not server.started:
                if task.done():
                    raise ServerError(f"HTTP server on {host}:{port} did not start: is the port taken?")
                await asyncio.sleep(0.02)
        yield server.servers[0].sockets[0].getsockname()[1]
    except TimeoutError as error:
        raise ServerError(f"HTTP server on {host}:{port} did not start within 10 s") from error
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError, SystemExit):  # uvicorn exits when its port is taken
            await task
