"""A peer that keeps no rule of HTTP/2 or gRPC: each is answered or left, and the next caller is served as before."""

import asyncio
import contextlib

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest

from optiinfra.web.keda.connection import Limits
from optiinfra.web.keda.framing import closing, pack, seconds_allowed, unpack
from optiinfra.web.keda.status import CallError, Code
from tests.unit.web.certificates import client_context

IS_ACTIVE = "/externalscaler.ExternalScaler/IsActive"
SECONDS = 30.0


class Peer:
    """An HTTP/2 client that does as the test says."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.stream = -1

    async def open(self, *changes, end=False):
        headers = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "optiinfra",
            ":path": IS_ACTIVE,
            "content-type": "application/grpc",
            "te": "trailers",
        } | dict(changes)
        self.stream += 2
        self.http.send_headers(self.stream, list(headers.items()), end_stream=end)
        await self.flush()
        return self.stream

    async def flush(self):
        self.writer.write(self.http.data_to_send())
        await self.writer.drain()

    async def send(self, stream, data, *, end=True):
        self.http.send_data(stream, data, end_stream=end)
        await self.flush()

    async def until(self, wanted):
        """Read until an event of this kind has come; None when the connection has ended without it."""
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    data = await self.reader.read(65_536)
                except ConnectionError:
                    return None
                if not data:
                    return None
                for event in self.http.receive_data(data):
                    if isinstance(event, wanted):
                        return event
                with contextlib.suppress(ConnectionError):
                    await self.flush()

    async def status(self):
        event = await self.until((h2.events.TrailersReceived, h2.events.ResponseReceived))
        assert event is not None
        return dict(event.headers)


@contextlib.asynccontextmanager
async def peer(scene, *, alpn="h2"):
    context = client_context(scene.world.serving_authority, None)
    context.set_alpn_protocols([alpn])
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.port, ssl=context, server_hostname="127.0.0.1")
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


async def healthy(scene):
    async with peer(scene) as other:
        await other.send(await other.open(), pack(b""))
        assert (await other.status())["grpc-status"] == str(int(Code.INVALID_ARGUMENT))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", Code.INVALID_ARGUMENT),
        (b"\0\0\0\0\x05ab", Code.INVALID_ARGUMENT),
        (b"\x01" + pack(b"")[1:], Code.UNIMPLEMENTED),
        (pack(b"\xff"), Code.INVALID_ARGUMENT),
        (pack(b"a") + pack(b"b"), Code.INVALID_ARGUMENT),
    ],
)
async def test_what_is_no_message_is_refused(scene, body, code):
    async with scene.serve(), peer(scene) as one:
        await one.send(await one.open(), body)
        assert (await one.status())["grpc-status"] == str(int(code))
        await healthy(scene)


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ((":path", "/externalscaler.ExternalScaler/Delete"), "grpc-status", "12"),
        ((":path", "/../metrics"), "grpc-status", "12"),
        (("grpc-timeout", "soon"), "grpc-status", "3"),
        (("content-type", "application/json"), ":status", "415"),
        ((":method", "GET"), ":status", "415"),
    ],
)
async def test_another_call_is_refused_before_its_body(scene, change, name, value):
    async with scene.serve(), peer(scene) as one:
        await one.open(change, end=True)
        assert (await one.status())[name] == value
        await healthy(scene)


async def test_a_request_that_never_ends_has_a_deadline(scene):
    scene.limits = Limits(call_seconds=0.2)
    async with scene.serve(), peer(scene) as one:
        await one.send(await one.open(), b"\0\0", end=False)
        assert (await one.status())["grpc-status"] == str(int(Code.DEADLINE_EXCEEDED))


async def test_many_unfinished_requests_end_the_connection(scene):
    scene.limits = Limits(unread_bytes=20_000)
    async with scene.serve():
        async with peer(scene) as one:
            with contextlib.suppress(ConnectionError, h2.exceptions.ProtocolError):
                for _ in range(4):
                    await one.send(await one.open(), b"x" * 8_000, end=False)
            event = await one.until(h2.events.ConnectionTerminated)
            assert event is None or event.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        await healthy(scene)


async def test_who_only_opens_and_resets_is_sent_away(scene):
    scene.limits = Limits(resets=20)
    async with scene.serve():
        async with peer(scene) as one:
            with contextlib.suppress(ConnectionError):
                for _ in range(60):
                    one.http.reset_stream(await one.open(), h2.errors.ErrorCodes.CANCEL)
                    await one.flush()
            event = await one.until(h2.events.ConnectionTerminated)
            assert event is None or event.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        await healthy(scene)


async def test_a_silent_peer_is_pinged_and_then_left(scene):
    scene.limits = Limits(silence_seconds=0.2)
    async with scene.serve(), peer(scene) as one:
        await one.flush()
        seen = b""
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    data = await one.reader.read(65_536)
                except ConnectionError:
                    break
                seen += data
                if not data:
                    break
        assert b"optiinfr" in seen, "a PING came before the end"


async def test_noise_is_no_http2(scene):
    async with scene.serve():
        async with peer(scene) as one:
            one.writer.write(b"GET /metrics HTTP/1.1\r\nHost: optiinfra\r\n\r\n" * 10)
            await one.writer.drain()
            with contextlib.suppress(ConnectionError):
                assert b"HTTP/1.1 200" not in await asyncio.wait_for(one.reader.read(), SECONDS)
        await healthy(scene)


async def test_who_does_not_speak_http2_is_not_served(scene):
    async with scene.serve():
        async with peer(scene, alpn="http/1.1") as one:
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(one.reader.read(), SECONDS) == b""
        await healthy(scene)


async def test_a_peer_without_room_for_an_answer_gets_none_and_holds_nobody_up(scene):
    scene.limits = Limits(call_seconds=0.3)
    async with scene.serve(), peer(scene) as one:
        one.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        await one.flush()
        reference = b"\x12\x09inference\x1a\x1c\x0a\x14resourceOptimization\x12\x04chat"
        await one.send(await one.open(), pack(reference))
        assert await one.until(h2.events.StreamReset) is not None
        await healthy(scene)


def test_a_time_out_is_read_in_all_units_and_never_beyond_ours():
    assert seconds_allowed(None, most=10.0) == 10.0
    assert [seconds_allowed(text, most=10.0) for text in ("1H", "2S", "500m", "3u", "4n")] == [
        10.0,
        2.0,
        0.5,
        pytest.approx(3e-6),
        pytest.approx(4e-9),
    ]
    for wrong in ("", "1", "S", "123456789S", "1s", "-1S", "1.5S"):
        with pytest.raises(CallError):
            seconds_allowed(wrong, most=10.0)


def test_a_message_of_a_status_is_printable_and_bounded():
    trailers = dict(closing(Code.INTERNAL, "50 % of ü\n" + "x" * 5_000))
    assert trailers["grpc-message"].startswith("50 %25 of %C3%BC%0A")
    assert len(trailers["grpc-message"]) < 1_200
    assert unpack(pack(b"abc")) == b"abc"
