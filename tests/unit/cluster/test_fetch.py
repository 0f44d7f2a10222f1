"""Pages from servers that misbehave, over real sockets."""

import asyncio
import gzip
import socket
import zlib
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from optiinfra.cluster.agents import read_snapshot
from optiinfra.cluster.errors import FetchError
from optiinfra.cluster.fetch import Fetcher, Transport, page_url
from optiinfra.cluster.proxy import LeaderProxy
from optiinfra.domain.readings import UnknownReason

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer, requests: list[bytes] | None = None):
    """A raw server: it reads a request's head and lets the test write whatever bytes it likes."""
    tasks: set[asyncio.Task] = set()

    async def handle(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if requests is not None:
                requests.append(head)
            await answer(writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(body: bytes, *, status: str = "200 OK", headers: str = "Content-Type: text/plain") -> Answer:
    async def answer(writer):
        writer.write(
            f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        )
        writer.write(body)

    return answer


async def fetch(port, *, timeout_s=5.0, limit_bytes=65536, transport=None, path="/metrics"):
    async with Fetcher() as fetcher:
        url = page_url(host="127.0.0.1", port=port, path=path)
        return await fetcher.fetch(url, timeout_s=timeout_s, limit_bytes=limit_bytes, transport=transport)


async def test_a_page_comes_back_as_bytes():
    requests: list[bytes] = []
    async with serving(says(b"vllm:num_requests_running 3\n"), requests) as port:
        page = await fetch(port, path="/metrics?format=text")
    assert page.body == b"vllm:num_requests_running 3\n"
    assert page.content_type == "text/plain"
    assert requests[0].startswith(b"GET /metrics?format=text HTTP/1.1\r\n")


async def endless(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def trickling(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def silent(writer):
    await asyncio.sleep(60)


async def closing(writer):
    return


async def cut_off(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nhalf")


async def long_header(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")


_BOMB = gzip.compress(b"\0" * (64 * 1024 * 1024))
_GZIP = "Content-Type: text/plain\r\nContent-Encoding: gzip"


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (says(b""), UnknownReason.INVALID, "empty"),
        (says(b" \n\n"), UnknownReason.INVALID, "empty"),
        (says(b"<html>", headers="Content-Type: text/html; charset=utf-8"), UnknownReason.INVALID, "HTML"),
        (says(b"x" * (100 * 1024 * 1024)), UnknownReason.INVALID, "more than 65536 bytes"),
        (endless, UnknownReason.INVALID, "more than 65536 bytes"),
        (trickling, UnknownReason.UNREACHABLE, "within 0.5 s"),
        (silent, UnknownReason.UNREACHABLE, "within 0.5 s"),
        (closing, UnknownReason.UNREACHABLE, "Disconnected"),
        (cut_off, UnknownReason.UNREACHABLE, "before the page ended"),
        (long_header, UnknownReason.INVALID, "not HTTP"),
        (
            says(b"", status="302 Found", headers="Location: http://169.254.169.254/"),
            UnknownReason.INVALID,
            "redirects",
        ),
        (says(b"no", status="401 Unauthorized"), UnknownReason.REFUSED, "permission"),
        (says(b"no", status="403 Forbidden"), UnknownReason.REFUSED, "permission"),
        (says(b"no", status="404 Not Found"), UnknownReason.INVALID, "not a page"),
        (says(b"no", status="500 Internal Server Error"), UnknownReason.INVALID, "not a page"),
        (says(b"no", status="503 Service Unavailable"), UnknownReason.UNREACHABLE, "not ready"),
        (says(_BOMB, headers=_GZIP), UnknownReason.INVALID, "more than 65536 bytes"),
        (says(b"not gzip", headers=_GZIP), UnknownReason.INVALID, "broken gzip"),
        (says(gzip.compress(b"a 1\n" * 1000)[:-20], headers=_GZIP), UnknownReason.INVALID, "cut off"),
        (says(b"x", headers="Content-Encoding: br"), UnknownReason.INVALID, "content encoding"),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else None,
)
async def test_every_misbehaviour_has_its_reason(answer, reason, words):
    async with serving(answer) as port:
        with pytest.raises(FetchError) as caught:
            await fetch(port, timeout_s=0.5 if reason is UnknownReason.UNREACHABLE else 20.0)
    assert caught.value.unknown.reason is reason, str(caught.value)
    assert words in caught.value.unknown.detail


async def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(FetchError) as caught:
        await fetch(port)
    assert caught.value.unknown.reason is UnknownReason.UNREACHABLE


@pytest.mark.parametrize(
    ("packed", "headers"),
    [
        (gzip.compress(b"a 1\n" * 9), _GZIP),
        (zlib.compress(b"a 1\n" * 9), "Content-Type: text/plain\r\nContent-Encoding: deflate"),
    ],
    ids=["gzip", "deflate"],
)
async def test_a_compressed_page_within_its_limit_is_read(packed, headers):
    async with serving(says(packed, headers=headers)) as port:
        assert (await fetch(port)).body == b"a 1\n" * 9


async def test_agents_may_pack_their_document_and_engines_are_spared_it():
    requests: list[bytes] = []
    packed = says(gzip.compress(b"{}"), headers="Content-Type: application/json\r\nContent-Encoding: gzip")
    async with serving(packed, requests) as port:
        page = await fetch(port, transport=Transport(accept="application/json"), path="/v1/snapshot")
        await fetch(port)
    assert page.body == b"{}"
    assert [b"Accept-Encoding: gzip\r\n" in head for head in requests] == [True, False]
    assert b"Accept-Encoding: identity\r\n" in requests[1]


async def test_the_environments_proxy_is_not_used(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(says(b"a 1\n")) as port:
        assert (await fetch(port)).body == b"a 1\n"


async def test_the_token_file_is_read_anew_each_time(tmp_path):
    token = tmp_path / "token"
    requests: list[bytes] = []
    transport = Transport(token_file=token)
    async with serving(says(b"a 1\n"), requests) as port:
        for written in ("first\n", "second\n"):
            token.write_text(written)
            await fetch(port, transport=transport)
    assert b"Authorization: Bearer first\r\n" in requests[0]
    assert b"Authorization: Bearer second\r\n" in requests[1]
    token.unlink()
    with pytest.raises(FetchError) as caught:
        await fetch(1, transport=transport)
    assert caught.value.unknown.reason is UnknownReason.NOT_CONFIGURED


@pytest.mark.parametrize("path", ["metrics", "//evil.example/metrics", "@evil.example/", "/" + "x" * 2000])
async def test_a_path_leads_to_no_other_host(path):
    if path.startswith("//"):
        url = page_url(host="10.0.0.1", port=8000, path=path)
        assert (url.host, url.port) == ("10.0.0.1", 8000)
        return
    with pytest.raises(FetchError) as caught:
        page_url(host="10.0.0.1", port=8000, path=path)
    assert caught.value.unknown.reason is UnknownReason.INVALID


async def test_concurrency_is_bounded():
    running = [0, 0]

    async def counting(writer):
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(0.05)
        running[0] -= 1
        await says(b"a 1\n")(writer)

    async with serving(counting) as port, Fetcher(concurrency=3) as fetcher:
        url = page_url(host="127.0.0.1", port=port, path="/")
        await asyncio.gather(*(fetcher.fetch(url, timeout_s=5.0, limit_bytes=100) for _ in range(12)))
    assert running[1] == 3


async def test_an_agent_that_answers_something_else_is_an_invalid_source():
    async with serving(says(b"[]", headers="Content-Type: application/json")) as port, Fetcher() as fetcher:
        with pytest.raises(FetchError) as caught:
            await read_snapshot(fetcher, host="127.0.0.1", port=port, timeout_s=5.0)
    assert caught.value.unknown.reason is UnknownReason.INVALID


async def test_a_request_is_passed_on_as_it_came_and_its_answer_comes_back():
    requests: list[bytes] = []
    answer = says(b'{"a": 1}', status="418 Teapot", headers="Content-Type: application/json")
    async with serving(answer, requests) as port, LeaderProxy() as proxy:
        result = await proxy.forward(
            "POST", f"127.0.0.1:{port}", "/api/v1/x%2Fy?a=%2B", headers={"Authorization": "Bearer t"}, body=b"{}"
        )
    assert result == (418, "application/json", b'{"a": 1}')
    assert requests[0].startswith(b"POST /api/v1/x%2Fy?a=%2B HTTP/1.1\r\n")
    assert b"Authorization: Bearer t\r\n" in requests[0]


@pytest.mark.parametrize("answer", [closing, silent, endless])
async def test_a_leader_that_misbehaves_is_an_error(answer):
    async with serving(answer) as port, LeaderProxy(timeout_s=0.5, limit_bytes=100_000) as proxy:
        with pytest.raises(FetchError):
            await proxy.forward("GET", f"127.0.0.1:{port}", "/", headers={}, body=b"")
