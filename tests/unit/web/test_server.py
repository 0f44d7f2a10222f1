"""The HTTP server inside the operator's own loop: a port that is known, a clear error, signals left alone."""

import asyncio
import contextlib
import signal
import socket

import httpx
import pytest

from optiinfra.web.app import create_app
from optiinfra.web.bounded import BoundedProtocol
from optiinfra.web.server import ServerError, serving
from tests.unit.web.outside import View


def app():
    return create_app(operator=View(), reviewer=None, forwarder=None)


async def test_it_serves_on_a_free_port_and_stops_when_the_context_ends():
    before = signal.getsignal(signal.SIGTERM)
    async with serving(app(), host="127.0.0.1", port=0) as port, httpx.AsyncClient(trust_env=False) as client:
        assert signal.getsignal(signal.SIGTERM) is before, "signals belong to the operator"
        assert (await client.get(f"http://127.0.0.1:{port}/health/live")).status_code == 200
        answer = await client.get(f"http://127.0.0.1:{port}/health/live")
        assert "server" not in answer.headers
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_taken_port_is_one_error_that_names_it_and_not_the_end_of_the_process():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"127\.0\.0\.1:{port}.*in use"):
            async with serving(app(), host="127.0.0.1", port=port):
                pytest.fail("it must not start")


async def test_an_address_that_is_not_ours_is_the_same_error():
    with pytest.raises(ServerError, match=r"192\.0\.2\.1"):
        async with serving(app(), host="192.0.2.1", port=0):
            pytest.fail("it must not start")


async def test_a_time_out_inside_the_context_stays_what_it_is():
    with pytest.raises(TimeoutError, match="mine"):
        async with serving(app(), host="127.0.0.1", port=0):
            raise TimeoutError("mine")


async def test_a_chunked_body_is_refused_by_the_real_server_too():
    async def chunks():
        yield b"{}"

    async with serving(app(), host="127.0.0.1", port=0) as port, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/api/v1/agents/register", content=chunks())
        assert answer.status_code == 413
        raw_reader, raw_writer = await asyncio.open_connection("127.0.0.1", port)
        raw_writer.write(b"POST /api/v1/agents/register HTTP/1.1\r\nHost: x\r\nContent-Length: \xb2\r\n\r\n")
        assert b" 400 " in await raw_reader.readline()
        raw_writer.close()
        await raw_writer.wait_closed()


async def test_a_flood_of_silent_connections_locks_nobody_out(monkeypatch):
    monkeypatch.setattr(BoundedProtocol, "most", 8)
    async with serving(app(), host="127.0.0.1", port=0) as port, httpx.AsyncClient(trust_env=False) as client:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
        for number, (_, writer) in enumerate(silent):
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Slow: "[: number % 40])
        assert (await client.get(f"http://127.0.0.1:{port}/health/live")).status_code == 200
        cut = 0
        for reader, writer in silent:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    cut += await reader.read(1) == b"" or reader.at_eof()
            writer.close()
        assert cut >= 50 - 8


async def test_a_client_that_never_ends_its_request_is_cut(monkeypatch):
    monkeypatch.setattr(BoundedProtocol, "request_seconds", 0.2)
    async with serving(app(), host="127.0.0.1", port=0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost:")
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_headers_without_end_are_refused():
    async with serving(app(), host="127.0.0.1", port=0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 70_000)
        assert b" 400 " in await reader.readline()
        writer.close()
