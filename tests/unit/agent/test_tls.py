"""The agent's pages over TLS: with a certificate that changes, to clients that show one, and read by the operator."""

import logging
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from optiinfra.cluster.agents import read_snapshot
from optiinfra.cluster.errors import FetchError
from optiinfra.cluster.fetch import Fetcher, Transport
from optiinfra.domain.readings import UnknownReason
from optiinfra_agent.errors import SettingsError
from optiinfra_agent.settings import read_settings
from optiinfra_agent.tls import Tls
from tests.unit.agent.conftest import Agent, eventually, run_agent
from tests.unit.web.certificates import Authority, Pair, client_context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority("agents", tmp_path)
    (tmp_path / "ca.crt").write_text(made.pem)
    return made


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.sign("optiinfra-agent", server=True)


def settings_of(pair: Pair, **others: str) -> dict[str, str]:
    return {
        "OPTIINFRA_AGENT_TLS_CERTIFICATE_FILE": str(pair.certificate),
        "OPTIINFRA_AGENT_TLS_KEY_FILE": str(pair.key),
        **others,
    }


def ask(agent: Agent, path: str, context: ssl.SSLContext) -> int:
    with (
        socket.create_connection(("127.0.0.1", agent.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        return int(tls.recv(64).split()[1])


def test_pages_over_tls(start: Callable[..., Agent], authority: Authority, pair: Pair) -> None:
    agent = start(**settings_of(pair))
    context = client_context(authority, None)
    eventually(lambda: ask(agent, "/v1/snapshot", context) == 200)
    assert ask(agent, "/health/live", context) == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(agent, "/health/live", ssl.create_default_context())
    with socket.create_connection(("127.0.0.1", agent.port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not plain.recv(64).startswith(b"HTTP/1.1 200")


def test_with_a_client_ca_only_health_is_open_to_who_shows_no_certificate(
    start: Callable[..., Agent], authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    agent = start(**settings_of(pair, OPTIINFRA_AGENT_TLS_CLIENT_CA_FILE=str(tmp_path / "ca.crt")))
    nobody = client_context(authority, None)
    reader = client_context(authority, authority.sign("operator"))
    eventually(lambda: ask(agent, "/v1/snapshot", reader) == 200)
    assert ask(agent, "/metrics", nobody) == 403
    assert ask(agent, "/v1/snapshot", nobody) == 403
    assert ask(agent, "/nowhere", nobody) == 403
    assert ask(agent, "/health/ready", nobody) == 200
    other = Authority("others", tmp_path)
    stranger = client_context(authority, other.sign("stranger"))
    # TLS 1.3 tells a client after its handshake that its certificate was refused.
    with pytest.raises((ssl.SSLError, ConnectionError, IndexError)):
        ask(agent, "/health/ready", stranger)


async def test_the_operator_reads_it_with_a_certificate(
    start: Callable[..., Agent], authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    agent = start(**settings_of(pair, OPTIINFRA_AGENT_TLS_CLIENT_CA_FILE=str(tmp_path / "ca.crt")))
    own = authority.sign("operator")
    eventually(lambda: ask(agent, "/health/ready", client_context(authority, None)) == 200)
    plain = Transport(scheme="https", authority_file=tmp_path / "ca.crt", accept="application/json")
    shown = Transport(
        scheme="https",
        authority_file=tmp_path / "ca.crt",
        certificate_file=own.certificate,
        key_file=own.key,
        accept="application/json",
    )
    missing = Transport(scheme="https", authority_file=tmp_path / "ca.crt", certificate_file=tmp_path / "none")
    async with Fetcher() as fetcher:
        where = {"host": "127.0.0.1", "port": agent.port, "timeout_s": 5.0}
        assert (await read_snapshot(fetcher, transport=shown, **where)).node == "node-a"
        with pytest.raises(FetchError) as refused:
            await read_snapshot(fetcher, transport=plain, **where)
        assert refused.value.unknown.reason is UnknownReason.REFUSED
        with pytest.raises(FetchError, match="do not load") as unconfigured:
            await read_snapshot(fetcher, transport=missing, **where)
        assert unconfigured.value.unknown.reason is UnknownReason.NOT_CONFIGURED


def test_a_new_certificate_is_taken_over_and_a_broken_one_is_not(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    first, second = authority.sign("first", server=True), authority.sign("second", server=True)
    used = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")

    def put(certificate: bytes, key: bytes) -> None:
        for path, content in ((used.certificate, certificate), (used.key, key)):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(content)
            os.utime(fresh, (now[0], now[0]))
            fresh.replace(path)

    def shown() -> str:
        reader = client_context(authority, None)
        reader.check_hostname = False
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        answering = tls.context.wrap_bio(outgoing, incoming, server_side=True)
        asking = reader.wrap_bio(incoming, outgoing)
        for _ in range(6):
            for side in (asking, answering):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        certificate = asking.getpeercert()
        assert certificate is not None
        return str(dict(part[0] for part in certificate["subject"])["commonName"])

    put(first.certificate.read_bytes(), first.key.read_bytes())
    tls = Tls(certificate=used.certificate, key=used.key, client_ca=None, clock=lambda: now[0])
    assert shown() == "first"
    put(second.certificate.read_bytes(), second.key.read_bytes())
    now[0] = 5.0
    tls.look()
    assert shown() == "first", "looked at again sooner than after ten seconds"
    now[0] = 11.0
    tls.look()
    assert shown() == "second"
    now[0] = 30.0
    put(first.certificate.read_bytes(), second.key.read_bytes())
    now[0] = 41.0
    with caplog.at_level(logging.ERROR):
        tls.look()
    assert shown() == "second"
    assert "do not load" in caplog.text


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("CERTIFICATE",), "belong together"),
        (("KEY",), "belong together"),
        (("CLIENT_CA",), "not usable without"),
    ],
)
def test_half_of_a_pair_is_one_clear_error(pair: Pair, names: tuple[str, ...], words: str) -> None:
    environment = {f"OPTIINFRA_AGENT_TLS_{name}_FILE": str(pair.certificate) for name in names}
    with pytest.raises(SettingsError, match=words):
        read_settings(environment)


def test_files_that_are_no_pair_end_the_start_with_one_line(tmp_path: Path, pair: Pair) -> None:
    (tmp_path / "nonsense").write_text("nonsense")
    done = run_agent(**settings_of(Pair(tmp_path / "nonsense", pair.key)))
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if not line.startswith("{")] == [
        line for line in done.stderr.splitlines() if line.startswith("optiinfra-agent: the TLS files do not load")
    ]
    assert "give a certificate" in done.stderr


def test_a_client_that_never_ends_its_handshake_keeps_nobody_out(
    start: Callable[..., Agent], authority: Authority, pair: Pair
) -> None:
    agent = start(**settings_of(pair))
    context = client_context(authority, None)
    eventually(lambda: ask(agent, "/health/ready", context) == 200)
    silent = [socket.create_connection(("127.0.0.1", agent.port), timeout=10) for _ in range(100)]
    try:
        assert ask(agent, "/health/ready", context) == 200
    finally:
        for one in silent:
            one.close()
