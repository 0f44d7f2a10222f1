"""The proxy itself: a listener on loopback in a thread of its own, one connection upstream for each one downstream.

Beside the rules it has three states of the network: open, black hole (nothing is answered and nothing is closed, what
was sent is kept and goes on when the hole closes, as packets do), and refusing (connections are reset and none taken).
`counts` and `writes` are read by tests while it runs; they only grow.
"""

import asyncio
import collections
import contextlib
import json
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import yaml

from hack.cluster.certificates import Authority
from hack.fault_proxy import messages, watches
from hack.fault_proxy.calls import Call
from hack.fault_proxy.messages import Head
from hack.fault_proxy.rules import (
    Crash,
    Cut,
    Fault,
    Hang,
    Hold,
    Refuse,
    Rule,
    Slow,
    Stale,
    Unheard,
    WatchFault,
    name_of,
)

_REMEMBERED = 64
"""Answers kept of one address, for stale reads."""
_REASONS = {
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
_HOP = frozenset({"connection", "keep-alive", "host"})
T = TypeVar("T")


class Upstream(Protocol):
    """The API server; `hack.cluster.Cluster` is one."""

    @property
    def url(self) -> str:
        """Its address."""

    @property
    def ca(self) -> Path:
        """The authority of its certificate."""


@dataclass(frozen=True, slots=True)
class WriteSeen:
    """A call that changes something, and what the server said to it (0: it was not asked)."""

    at: float
    """Monotonic seconds."""
    call: Call
    code: int
    held: bool = False
    """Kept by the network for a while before it reached the server."""


class _Reset(Exception):  # noqa: N818  it is no error of ours
    """End this connection with a reset."""


class FaultProxy:
    """Use as a context manager; its attributes may be changed at any time from any thread."""

    def __init__(self, upstream: Upstream, *, folder: Path) -> None:
        self.rules: Sequence[Rule] = ()
        """Replace the list to change them; an empty one ends all faults but what hangs already."""
        self.kill: Callable[[], None] = _nobody
        """Kills the operator, for `Crash`; called in a thread."""
        self.counts: collections.Counter[str] = collections.Counter()
        """Faults injected, by name."""
        self.calls: collections.Counter[str] = collections.Counter()
        """Calls taken, by verb."""
        self.writes: list[WriteSeen] = []
        self.port = 0
        self._upstream = upstream
        self._folder = folder / f"fault-proxy-{os.getpid()}-{id(self):x}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._released = asyncio.Event()
        self._refusing = False
        self._connections: set[asyncio.Task[None]] = set()
        self._watching: set[_Link] = set()
        self._memory: dict[str, collections.deque[tuple[float, bytes]]] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(mode=0o700)
        authority = Authority(self._folder, "fault-proxy-ca")
        serving = authority.issue("fault-proxy", "fault-proxy", serves=("127.0.0.1", "localhost"))
        self._ca = authority.pair.certificate
        self._inside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._inside.load_cert_chain(serving.certificate, serving.key)
        self._outside = ssl.create_default_context(cafile=str(self._upstream.ca))
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # what a test does with it

    @property
    def url(self) -> str:
        """The address at which it poses as the API server."""
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, original: Path) -> Path:
        """Write a kubeconfig like this one that leads through the proxy."""
        content = yaml.safe_load(original.read_text(encoding="utf-8"))
        for entry in content["clusters"]:
            entry["cluster"] = {"server": self.url, "certificate-authority": str(self._ca)}
        path = self._folder / original.name
        path.touch(mode=0o600)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    def black_hole(self) -> None:
        """From now on nothing passes, either way; connections stay open."""
        self.counts["black hole"] += 1
        self._loop.call_soon_threadsafe(self._open.clear)

    def refuse(self) -> None:
        """From now on connections are reset and none is taken."""
        self.counts["connections refused"] += 1
        self._run(self._refuse())

    def heal(self) -> None:
        """Let everything pass again, what was on its way included."""
        self._run(self._heal())

    def end_watches(self) -> None:
        """Break off every watch that is open, so that new ones are opened under the rules of now."""

        async def end() -> None:
            for link in tuple(self._watching):
                link.abort()

        self._run(end())

    def let_go(self) -> None:
        """Let calls that `Hold` keeps now reach the server; those that it takes afterwards are kept again."""

        def release() -> None:
            held, self._released = self._released, asyncio.Event()
            held.set()

        self._loop.call_soon_threadsafe(release)

    def calm(self) -> None:
        """End all faults."""
        self.rules = ()
        self.let_go()
        self.heal()

    # inside

    def _run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(20)

    async def _start(self) -> None:
        self._open.set()
        self._server = await asyncio.start_server(
            self._connection, "127.0.0.1", self.port, ssl=self._inside, limit=messages.HEAD_LIMIT
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in tuple(self._connections):
            task.cancel()

    async def _heal(self) -> None:
        self._open.set()
        if self._server is None:
            await self._start()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        link = _Link(reader, writer)
        try:
            while await self._exchange(link):
                pass
        except (OSError, _Reset, messages.BrokenMessageError, asyncio.IncompleteReadError, ValueError):
            link.abort()
        except asyncio.CancelledError:  # the proxy refuses or ends; a handler of a server must not be seen cancelled
            link.abort()
        finally:
            self._connections.discard(task)
            link.close()

    async def _exchange(self, link: "_Link") -> bool:
        """Take one call through; False when the connection is at its end."""
        head = await messages.read_head(link.reader)
        if head is None:
            return False
        body = await messages.read_body(link.reader, head)
        await self._passage()
        call = Call.of(head.first[0], head.first[1])
        self.calls[call.verb] += 1
        fault = next((rule.fault for rule in self.rules if rule.takes(call)), None)
        if fault is not None:
            self.counts[name_of(fault)] += 1
            if await self._before(link, call, fault):
                return True
        await self._forward(link, head, body)
        upstream = link.upstream
        assert upstream is not None
        response = await messages.read_head(upstream[0])
        if response is None:
            raise _Reset
        if call.verb == "watch" and response.first[1] == "200":
            await self._watch(link, call, response, fault if isinstance(fault, WatchFault) else None)
            return False
        content = b"" if messages.bodiless(response) else await messages.read_body(upstream[0], response)
        if call.write:
            held = isinstance(fault, Hold)
            self.writes.append(WriteSeen(time.monotonic(), call, int(response.first[1]), held=held))
        elif call.verb in {"get", "list"} and response.first[1] == "200":
            self._remember(call, content)
        if fault is not None:
            content = await self._after(link, call, fault, content)
        await self._passage()
        await link.send(response, content)
        return True

    async def _passage(self) -> None:
        await self._open.wait()

    async def _before(self, link: "_Link", call: Call, fault: Fault) -> bool:
        """Do what happens before the server is asked; True when the call is answered without it."""
        match fault:
            case Crash(after=False):
                self.writes.append(WriteSeen(time.monotonic(), call, 0))
                await asyncio.to_thread(self.kill)
                raise _Reset
            case Cut(after=False):
                raise _Reset
            case Hang():
                await link.silence()
            case Hold():
                await self._released.wait()
            case Refuse(code, retry_after):
                extra = (("retry-after", str(retry_after)),) if retry_after is not None else ()
                link.writer.write(messages.answer(code, _reason(code), _status(code), extra=extra))
                await link.writer.drain()
                return True
            case Stale(seconds):
                known = [
                    content for at, content in self._memory.get(_address(call), ()) if at <= time.monotonic() - seconds
                ]
                if known:
                    link.writer.write(messages.answer(200, "OK", known[-1]))
                    await link.writer.drain()
                    return True
        return False

    async def _after(self, link: "_Link", call: Call, fault: Fault, content: bytes) -> bytes:
        """Do what happens once the server has answered; returns the answer's content."""
        match fault:
            case Crash(after=True):
                await asyncio.to_thread(self.kill)
                raise _Reset
            case Cut(after=True):
                raise _Reset
            case Unheard(0):
                await link.silence()
            case Unheard(code):
                link.writer.write(messages.answer(code, _reason(code), _status(code)))
                await link.writer.drain()
                raise _Reset
            case Slow(seconds):
                await asyncio.sleep(seconds)
        del call
        return content

    async def _forward(self, link: "_Link", head: Head, body: bytes) -> None:
        where = urlsplit(self._upstream.url)
        if link.upstream is None:
            link.upstream = await asyncio.open_connection(
                where.hostname, where.port, ssl=self._outside, limit=messages.HEAD_LIMIT
            )
        _, writer = link.upstream
        without = _HOP | {"transfer-encoding", "content-length"}
        extra = (("host", where.netloc), ("content-length", str(len(body)))) if body else (("host", where.netloc),)
        writer.write(head.encode(without=without, extra=extra) + body)
        await writer.drain()

    async def _watch(self, link: "_Link", call: Call, response: Head, fault: WatchFault | None) -> None:
        assert link.upstream is not None
        events = self._counted(watches.lines(link.upstream[0]), call)
        if fault is not None:
            rules = self.rules
            events = watches.altered(
                events,
                fault,
                active=lambda: self.rules is rules,
                seed=self.calls["watch"],
                lost=lambda number: self.counts.update({"watch events lost": number}),
            )
        link.writer.write(response.encode())
        self._watching.add(link)
        relay = asyncio.create_task(self._relay(link, events))
        ended = asyncio.create_task(link.reader.read(1))
        try:
            await asyncio.wait({relay, ended}, return_when=asyncio.FIRST_COMPLETED)
            if relay.done():
                relay.result()
        finally:
            self._watching.discard(link)
            for task in (relay, ended):
                task.cancel()
            await asyncio.gather(relay, ended, return_exceptions=True)

    async def _relay(self, link: "_Link", events: AsyncIterator[bytes]) -> None:
        await self._passage()
        await link.writer.drain()
        async for event in events:
            await self._passage()
            link.writer.write(messages.chunk(event + b"\n"))
            await link.writer.drain()
        await self._passage()
        link.writer.write(messages.chunk(b""))
        await link.writer.drain()

    async def _counted(self, events: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for event in events:
            self.calls[f"events of {call.resource}"] += 1
            yield event

    def _remember(self, call: Call, content: bytes) -> None:
        kept = self._memory.setdefault(_address(call), collections.deque(maxlen=_REMEMBERED))
        kept.append((time.monotonic(), content))


class _Link:
    """One connection of a client, and the one upstream that belongs to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, head: Head, content: bytes) -> None:
        """Write a whole answer."""
        without = frozenset({"transfer-encoding", "content-length"})
        extra = () if messages.bodiless(head) else (("content-length", str(len(content))),)
        self.writer.write(head.encode(without=without, extra=extra) + content)
        await self.writer.drain()

    async def silence(self) -> None:
        """Never answer; ends when the client closes."""
        await self.reader.read(1)
        raise _Reset

    def abort(self) -> None:
        """End it with a reset."""
        self.writer.transport.abort()

    def close(self) -> None:
        """End both sides."""
        with contextlib.suppress(OSError, RuntimeError):
            self.writer.close()
        if self.upstream is not None:
            self.upstream[1].transport.abort()


def _address(call: Call) -> str:
    return f"{call.path}?{call.query}"


def _reason(code: int) -> str:
    return _REASONS.get(code, "Unknown")


def _status(code: int) -> bytes:
    body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    body |= {"message": "by the fault proxy", "reason": _reason(code), "code": code}
    return json.dumps(body).encode()


def _nobody() -> None:
    raise RuntimeError("FaultProxy.kill is not set, so nobody can crash")
