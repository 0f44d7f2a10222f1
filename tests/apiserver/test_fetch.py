"""Pages over TLS, with certificates as clusters make them."""

import asyncio
import contextlib
import ssl

import pytest

from optiinfra.cluster.errors import FetchError
from optiinfra.cluster.fetch import Fetcher, Transport, page_url
from optiinfra.domain.readings import UnknownReason


@contextlib.asynccontextmanager
async def serving_tls(pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    async def answer(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\na 1\n")
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def read(port, authority_file):
    url = page_url(host="127.0.0.1", port=port, path="/metrics", scheme="https")
    transport = Transport(scheme="https", authority_file=authority_file)
    async with Fetcher() as fetcher:
        return (await fetcher.fetch(url, timeout_s=5.0, limit_bytes=1000, transport=transport)).body


async def test_a_certificate_of_the_given_authority_is_enough_whatever_its_name(apiserver):
    async with serving_tls(apiserver.serving_certificate("llama.inference.svc")) as port:
        assert await read(port, apiserver.ca) == b"a 1\n"
        assert await read(port, None) == b"a 1\n"


async def test_a_certificate_of_another_authority_is_refused(apiserver):
    async with serving_tls(apiserver.serving_certificate("llama.inference.svc")) as port:
        with pytest.raises(FetchError) as caught:
            await read(port, apiserver.front_proxy_ca)
    assert caught.value.unknown.reason is UnknownReason.UNREACHABLE
    assert "ertificate" in caught.value.unknown.detail


async def test_an_authority_file_that_is_missing_or_broken_is_a_matter_of_configuration(tmp_path):
    broken = tmp_path / "ca.crt"
    broken.write_text("not a certificate")
    for path in (broken, tmp_path / "missing"):
        with pytest.raises(FetchError) as caught:
            await read(1, path)
        assert caught.value.unknown.reason is UnknownReason.NOT_CONFIGURED
