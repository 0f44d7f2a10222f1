"""No connection outlives its client, however it was broken off: servers that never say goodbye, over real TLS."""

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
import warnings
from collections.abc import Callable

import aiohttp
import pytest

from hack.cluster.certificates import Authority
from optiinfra.cluster import connections as connections_module
from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.connections import Connections
from optiinfra.cluster.errors import FetchError, Unavailable
from optiinfra.cluster.fetch import Fetcher, Transport, page_url
from optiinfra.cluster.proxy import LeaderProxy

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'c\r\n{"type":"x"}\r\n'
LARGE = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return Authority(folder, "ca"), folder


class Rude:
    """A server that accepts, may shake hands, reads one request, says its words, and then only waits for the end.

    Its TLS layer is never asked to read again, so no goodbye is answered.
    """

    def __init__(self, pair, words, *, handshake=True):
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if pair else None
        if self._context:
            self._context.load_cert_chain(pair.certificate, pair.key)
        self._words = words
        self._handshake = handshake
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._over = threading.Event()
        self._threads = []
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *_):
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, work, *arguments):
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self):
        while not self._over.is_set():
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, accepted)

    def _serve(self, accepted):
        accepted.settimeout(10)
        with accepted, contextlib.suppress(OSError):
            if self._context is not None and self._handshake:
                with self._context.wrap_socket(accepted, server_side=True) as wrapped:
                    wrapped.recv(65536)
                    wrapped.sendall(self._words)
                    self._over.wait(10)
            else:
                self._over.wait(10)


def unclosed(work: Callable[[], object]) -> list[str]:
    """Run `work` in an event loop of its own and return what the garbage collector then finds open."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(work())
        gc.collect()
    return [str(each.message) for each in caught]


def kubeconfig(folder, port):
    path = folder / f"kubeconfig-{port}"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
        f"clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}',"
        f" certificate-authority: '{folder / 'ca.crt'}'}}}}]\n"
        "users: [{name: u, user: {token: t}}]\n"
    )
    return str(path)


@pytest.mark.parametrize("words", [HEAD + EVENT, HEAD + LARGE], ids=["event", "flood"])
def test_a_watch_that_is_cancelled_leaves_nothing_open(authority, words):
    issuer, folder = authority
    with Rude(issuer.issue("server", "server", serves=("127.0.0.1",)), words) as server:

        async def work():
            async with KubernetesClient.from_environment(kubeconfig(folder, server.port)) as client:
                heard = asyncio.Event()

                async def watch():
                    async with client.stream("/api/v1/pods", query={}, timeout_s=10.0, idle_s=10.0) as chunks:
                        async for _ in chunks:
                            heard.set()

                task = asyncio.create_task(watch())
                await heard.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        assert unclosed(work) == []


@pytest.mark.parametrize("handshake", [True, False])
def test_a_call_that_ran_out_of_time_leaves_nothing_open(authority, handshake):
    issuer, folder = authority
    with Rude(issuer.issue("server", "server", serves=("127.0.0.1",)), b"", handshake=handshake) as server:

        async def work():
            async with KubernetesClient.from_environment(kubeconfig(folder, server.port)) as client:
                with pytest.raises(Unavailable):
                    await client.get("/api/v1/pods", timeout_s=0.3, urgent=True)

        assert unclosed(work) == []


def test_a_page_that_was_too_slow_leaves_nothing_open(authority):
    issuer, folder = authority
    with Rude(issuer.issue("server", "server", serves=("127.0.0.1",)), HEAD + EVENT) as server:

        async def work():
            async with Fetcher() as fetcher:
                with pytest.raises(FetchError):
                    await fetcher.fetch(
                        page_url(host="127.0.0.1", port=server.port, path="/metrics", scheme="https"),
                        timeout_s=0.3,
                        limit_bytes=65536,
                        transport=Transport(scheme="https", authority_file=folder / "ca.crt"),
                    )

        assert unclosed(work) == []


def test_a_leader_that_never_answers_leaves_nothing_open():
    with Rude(None, b"") as server:

        async def work():
            async with LeaderProxy(timeout_s=0.2) as proxy:
                with pytest.raises(FetchError):
                    await proxy.forward("POST", f"127.0.0.1:{server.port}", "/x", headers={}, body=b"x" * 1_000_000)

        assert unclosed(work) == []


async def test_a_connection_that_will_not_end_is_counted_and_told(monkeypatch, caplog):
    monkeypatch.setattr(connections_module, "END_SECONDS", 0.05)
    books = Connections()
    with books.open((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))) as held:
        assert books.count == 1
        await books.end()
        assert "1 connections stay open" in caplog.text
        assert held.fileno() >= 0
    assert books.count == 0
    caplog.clear()
    await books.end()
    assert caplog.text == ""


async def test_a_refused_connection_is_not_counted():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    books = Connections()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=books.open)) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://127.0.0.1:{port}/")
        assert books.count == 0
