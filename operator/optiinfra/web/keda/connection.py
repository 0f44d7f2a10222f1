"""One HTTP/2 connection of a gRPC client, with a bound on everything that the other side chooses.

`h2` keeps the protocol's state; what is here reads, answers and counts. A message is bounded before it is complete, an
incomplete request has a deadline, answers wait for the peer's windows and no longer than a deadline, a peer that stops
reading stops being read, one that only opens and resets is sent away, and one that is silent is asked whether it lives.
A connection that has grown old ends between two calls, so that renewed certificates and new replicas are noticed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from optiinfra import metrics
from optiinfra.errors import OptiInfraError
from optiinfra.web.keda.framing import CONTENT_TYPE, PREFIX, closing, opening, pack, seconds_allowed, unpack
from optiinfra.web.keda.status import CallError, Code

_LOG = logging.getLogger(__name__)
_READ = 65_536
_PING = b"optiinfr"

Unary = Callable[[bytes], Awaitable[bytes]]
Streaming = Callable[[bytes], AsyncGenerator[bytes]]


class PeerGoneError(OptiInfraError):
    """The other side has left, or does not read what it asked for."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is served, by path: calls with one answer, and calls with a stream of them."""

    unary: Mapping[str, Unary]
    streaming: Mapping[str, Streaming]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a connection."""

    connections: int = 64
    streams: int = 1024
    """Open calls of one connection; a pushed ScaledObject holds one for good."""
    message_bytes: int = 16_384
    """Largest request: a trigger's metadata."""
    unread_bytes: int = 1 << 20
    """Bytes of unfinished requests of one connection."""
    header_bytes: int = 16_384
    call_seconds: float = 10.0
    """Longest time for a request to be complete, and then for its answer."""
    stream_seconds: float = 600.0
    """A pushed stream ends after so long with OK; KEDA opens another one."""
    age_seconds: float = 600.0
    """From then on a connection ends as soon as no call is open."""
    silence_seconds: float = 60.0
    """A peer that says nothing for so long is pinged, and left after as long again."""
    handshake_seconds: float = 5.0
    resets: int = 200
    """Calls that a peer may abandon before it has to be more than half of its calls to be sent away."""


@dataclass(slots=True)
class _Call:
    path: str
    seconds: float
    body: bytearray = field(default_factory=bytearray)
    task: "asyncio.Task[None] | None" = None
    late: asyncio.TimerHandle | None = None


class Connection:
    """One connection; `run` serves it until it ends."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, service: Service, limits: Limits
    ) -> None:
        self._reader, self._writer = reader, writer
        self._service, self._limits = service, limits
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self._calls: dict[int, _Call] = {}
        self._windows = asyncio.Event()
        self._born = time.monotonic()
        self._opened = self._abandoned = 0
        self._pinged = self._ended = self._left = False

    async def run(self) -> None:
        """Serve until the peer leaves, breaks a rule, or the connection is old enough."""
        try:
            self._http.initiate_connection()
            self._http.update_settings(
                {
                    h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self._limits.streams,
                    h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: self._limits.header_bytes,
                    h2.settings.SettingCodes.ENABLE_PUSH: 0,
                }
            )
            await self._flush()
            while not self._ended:
                await self._turn()
        except (OSError, PeerGoneError) as error:
            _LOG.debug("KEDA connection ended", extra={"error": f"{type(error).__name__}: {error}"})
        finally:
            await self._end()

    def leave(self) -> None:
        """End at once: `run` returns."""
        self._ended = self._left = True
        self._writer.transport.abort()

    async def _turn(self) -> None:
        data = await self._read()
        if data is None:
            return
        if not data:
            self._ended = self._left = True
            return
        self._pinged = False
        try:
            for event in self._http.receive_data(data):
                self._take(event)
        except h2.exceptions.ProtocolError as error:
            _LOG.warning("KEDA connection breaks HTTP/2", extra={"error": str(error)[:200]})
            self._ended = True  # h2 has put the GOAWAY with its reason into what is sent now
        await self._flush()
        self._retire()

    async def _read(self) -> bytes | None:
        """Next bytes; None when the peer was silent, and was pinged or is left."""
        try:
            async with asyncio.timeout(self._limits.silence_seconds):
                return await self._reader.read(_READ)
        except TimeoutError:
            if self._pinged:
                self._ended = True
                return None
            self._pinged = True
            self._retire()
            if not self._ended:
                self._http.ping(_PING)
                await self._flush()
            return None

    def _retire(self) -> None:
        if not self._calls and not self._ended and time.monotonic() - self._born > self._limits.age_seconds:
            self._goodbye(h2.errors.ErrorCodes.NO_ERROR)

    def _goodbye(self, code: h2.errors.ErrorCodes) -> None:
        self._ended = True
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._http.close_connection(code)

    async def _flush(self) -> None:
        data = self._http.data_to_send()
        if data:
            self._writer.write(data)
        # A peer that does not read what it asked for is not read either, and not for ever.
        try:
            async with asyncio.timeout(self._limits.call_seconds):
                await self._writer.drain()
        except OSError as error:  # TimeoutError is one
            raise PeerGoneError(f"{type(error).__name__}: {error}") from error

    async def _end(self) -> None:
        for call in self._calls.values():
            if call.late is not None:
                call.late.cancel()
            if call.task is not None:
                call.task.cancel()
        tasks = [call.task for call in self._calls.values() if call.task is not None]
        self._calls.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            if data := self._http.data_to_send():
                self._writer.write(data)
            self._writer.close()
            if not self._left:  # else it would wait for a farewell of TLS that many clients never say
                async with asyncio.timeout(1.0):
                    await self._writer.wait_closed()
        self._writer.transport.abort()

    # what the peer does

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._begin(event)
        elif isinstance(event, h2.events.DataReceived):
            self._append(event)
        elif isinstance(event, h2.events.StreamEnded):
            self._complete(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self._abandon(event.stream_id)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._windows.set()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._ended = self._left = True

    def _begin(self, event: h2.events.RequestReceived) -> None:
        stream = event.stream_id
        self._opened += 1
        headers = {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in event.headers}
        path = headers.get(":path", "")
        known = path in self._service.unary or path in self._service.streaming
        call = self._calls[stream] = _Call(path if known else "", self._limits.call_seconds)
        if headers.get(":method") != "POST" or not headers.get("content-type", "").startswith(CONTENT_TYPE):
            self._calls.pop(stream)
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self._http.send_headers(stream, [(":status", "415")], end_stream=True)
            return
        try:
            call.seconds = self._allowed(path, headers.get("grpc-timeout"), known=known)
        except CallError as error:
            self._refuse(stream, error)
            return
        late = CallError(Code.DEADLINE_EXCEEDED, "the request was not complete in time")
        call.late = asyncio.get_running_loop().call_later(self._limits.call_seconds, self._too_late, stream, late)

    def _allowed(self, path: str, timeout: str | None, *, known: bool) -> float:
        if not known:
            raise CallError(Code.UNIMPLEMENTED, f"{path[:120]} is not served")
        return seconds_allowed(timeout, most=self._limits.call_seconds)

    def _append(self, event: h2.events.DataReceived) -> None:
        stream = event.stream_id
        self._http.acknowledge_received_data(event.flow_controlled_length or 0, stream)
        call = self._calls.get(stream)
        if call is None or call.task is not None:
            return  # refused already
        call.body += event.data or b""
        if len(call.body) > self._limits.message_bytes + PREFIX:
            text = f"a request has at most {self._limits.message_bytes} bytes"
            self._refuse(stream, CallError(Code.RESOURCE_EXHAUSTED, text))
        elif sum(len(each.body) for each in self._calls.values()) > self._limits.unread_bytes:
            self._goodbye(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)

    def _complete(self, stream: int) -> None:
        call = self._calls.get(stream)
        if call is None or call.task is not None:
            return
        if call.late is not None:
            call.late.cancel()
        call.task = asyncio.create_task(self._answer(stream, call), name="keda-call")

    def _abandon(self, stream: int) -> None:
        self._abandoned += 1
        self._forget(stream)
        self._windows.set()
        if self._abandoned > self._limits.resets and 2 * self._abandoned > self._opened:
            self._goodbye(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)

    def _forget(self, stream: int) -> None:
        call = self._calls.pop(stream, None)
        if call is None:
            return
        if call.late is not None:
            call.late.cancel()
        if call.task is not None and call.task is not asyncio.current_task():
            call.task.cancel()

    def _too_late(self, stream: int, error: CallError) -> None:
        self._refuse(stream, error)
        if data := self._http.data_to_send():
            self._writer.write(data)

    # what we answer

    def _refuse(self, stream: int, error: CallError) -> None:
        """End a call without any message; whatever else comes for it is dropped."""
        call = self._calls.get(stream)
        metrics.KEDA_CALLS.labels(_method(call.path if call else ""), error.code.name).inc()
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._http.send_headers(stream, [*opening(), *closing(error.code, str(error))], end_stream=True)
            self._http.reset_stream(stream, h2.errors.ErrorCodes.NO_ERROR)  # the rest of the request is not wanted
        self._forget(stream)

    async def _answer(self, stream: int, call: _Call) -> None:
        code = Code.CANCELLED
        try:
            code = await self._respond(stream, call)
            await self._flush()
        except (PeerGoneError, h2.exceptions.ProtocolError) as error:
            # Not the call has failed but the one who asked; if it is the whole connection, its reader notices.
            code = Code.CANCELLED
            with contextlib.suppress(h2.exceptions.ProtocolError, PeerGoneError):
                self._http.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
                await self._flush()
            _LOG.debug("KEDA call not answered", extra={"error": f"{type(error).__name__}: {error}"})
        finally:
            metrics.KEDA_CALLS.labels(_method(call.path), code.name).inc()
            self._forget(stream)

    async def _respond(self, stream: int, call: _Call) -> Code:
        """Run a call and send all of its answer; returns its status."""
        begun: list[bool] = []
        try:
            message = unpack(bytes(call.body))
            call.body.clear()
            if call.path in self._service.unary:
                async with asyncio.timeout(call.seconds):
                    answer = await self._service.unary[call.path](message)
                await self._send(stream, answer, begun)
            else:
                await self._stream(stream, call, message, begun)
        except CallError as error:
            return self._close(stream, error.code, str(error), begun)
        except TimeoutError:
            return self._close(stream, Code.DEADLINE_EXCEEDED, f"no answer within {call.seconds:g} s", begun)
        except (PeerGoneError, h2.exceptions.ProtocolError):
            raise
        except Exception:  # noqa: BLE001  one call must not end the others; it is logged with its traceback
            _LOG.exception("a KEDA call failed", extra={"method": _method(call.path)})
            return self._close(stream, Code.INTERNAL, "failed; the operator's log says why", begun)
        return self._close(stream, Code.OK, "", begun)

    async def _stream(self, stream: int, call: _Call, message: bytes, begun: list[bool]) -> None:
        """Send every answer of a stream until it ends, or has lasted long enough."""
        answers = self._service.streaming[call.path](message)
        async with contextlib.aclosing(answers):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.stream_seconds):
                    async for answer in answers:
                        await self._send(stream, answer, begun)

    def _close(self, stream: int, code: Code, text: str, begun: list[bool]) -> Code:
        self._http.send_headers(stream, [*([] if begun else opening()), *closing(code, text)], end_stream=True)
        return code

    async def _send(self, stream: int, message: bytes, begun: list[bool]) -> None:
        """Send one message as soon as the peer has room for it: ours are far smaller than a frame."""
        if not begun:
            self._http.send_headers(stream, opening())
            begun.append(True)
        body = pack(message)
        try:
            async with asyncio.timeout(self._limits.call_seconds):
                while self._http.local_flow_control_window(stream) < len(body):
                    self._windows.clear()
                    await self._windows.wait()
        except TimeoutError as error:
            raise PeerGoneError("the peer opens no window") from error
        self._http.send_data(stream, body)
        await self._flush()


def _method(path: str) -> str:
    return path.rpartition("/")[2] or "unknown"
