"""Knows every socket that one HTTP session opens, so that closing the session closes all of them.

aiohttp forgets a connection that was broken off: a cancelled watch and a call that ran out of time are told to close,
which over TLS waits up to 30 s for the server's goodbye, and `ClientSession.close()` waits only for what is still in
its pool. A loop that ended in between left the socket to the garbage collector. Here nothing is closed early: while
the session lives, goodbyes take the time they take.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

import aiohttp

_LIVENESS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
)
"""A peer that vanished without a goodbye (its node died, a router forgot us) is noticed within half a minute, also by a
watch that only listens."""

END_SECONDS = 2.0
"""How long the event loop may need to let go of sockets that are shut down: a few turns, on any machine."""

_LOGGER = logging.getLogger(__name__)


class _Socket(socket.socket):
    """A socket that tells when it is closed."""

    def __init__(self, address: aiohttp.AddrInfoType, *, on_close: Callable[["_Socket"], None]) -> None:
        family, kind, protocol, _, _ = address
        self._on_close = on_close
        super().__init__(family=family, type=kind, proto=protocol)
        for level, name, value in _LIVENESS:
            self.setsockopt(level, name, value)

    def close(self) -> None:
        super().close()
        self._on_close(self)


class Connections:
    """The open sockets of one session: give `open` to its connector, and await `end` after closing it."""

    def __init__(self) -> None:
        self._open: set[_Socket] = set()
        self._all_closed = asyncio.Event()

    @property
    def count(self) -> int:
        """How many are open, those included that are being closed."""
        return len(self._open)

    def open(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Make a socket (the connector's `socket_factory`)."""
        opened = _Socket(address, on_close=self._closed)
        self._open.add(opened)
        self._all_closed.clear()
        return opened

    async def end(self) -> None:
        """Cut what is still open and wait until it is closed; what stays open after `END_SECONDS` is logged."""
        for each in tuple(self._open):
            # The transport above reads the end of the stream and closes: it is not closed under its feet.
            with contextlib.suppress(OSError):  # not connected (any more)
                each.shutdown(socket.SHUT_RDWR)
        if not self._open:
            return
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._all_closed.wait()
        except TimeoutError:
            _LOGGER.warning("%d connections stay open although their session was closed", len(self._open))

    def _closed(self, closed: _Socket) -> None:
        self._open.discard(closed)
        if not self._open:
            self._all_closed.set()
