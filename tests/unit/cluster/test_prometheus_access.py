"""Being let in: tokens, passwords, client certificates, tenants; over real sockets, with TLS where it matters."""

import asyncio
import base64
import datetime as dt
import ssl
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yarl import URL

from optiinfra.cluster.errors import ClusterError, Denied, Unconfigured
from optiinfra.cluster.prometheus_ask import MetricsServer, PrometheusServer, TimeGrid
from optiinfra.domain.report.frames import Question
from tests.unit.prometheus_stub import prometheus
from tests.unit.promql_stub import series

END = 1_700_006_400.0
UP = Question("up", "max(up{$matchers})", (), ("up",))
FLEET = dict([series("up")])


async def ask(server):
    async with MetricsServer(server) as session:
        return await session.ask([UP], TimeGrid.ending(END, since=600, step=60))


async def test_a_user_and_a_password_that_rotates(tmp_path):
    file = tmp_path / "password"
    file.write_text("pass:wörd one\n")
    expected = "Basic " + base64.b64encode("me:pass:wörd one".encode()).decode()
    with prometheus(fleet=FLEET, user=expected) as stub:
        server = PrometheusServer(URL(stub.url), user="me", password_file=file)
        async with MetricsServer(server) as session:
            grid = TimeGrid.ending(END, since=600, step=60)
            assert len((await session.ask([UP], grid)).frames) == 1
            file.write_text("second-password")
            stub.user = "Basic " + base64.b64encode(b"me:second-password").decode()
            assert len((await session.ask([UP], grid)).frames) == 1
            file.write_text("third-password")
            with pytest.raises(Denied) as caught:
                await session.ask([UP], grid)
    assert "third-password" not in str(caught.value)
    assert f"the password of {file} is not accepted" in str(caught.value)


async def test_a_password_that_a_server_repeats_is_kept_out_of_messages(tmp_path):
    file = tmp_path / "password"
    file.write_text("open-sesame-77")
    encoded = base64.b64encode(b"me:open-sesame-77").decode()
    with prometheus(fleet=FLEET) as stub:
        stub.scripted = [web.Response(status=403, text=f"no me:open-sesame-77 and no {encoded}")]
        with pytest.raises(Denied) as caught:
            await ask(PrometheusServer(URL(stub.url), user="me", password_file=file))
    assert "open-sesame-77" not in str(caught.value)
    assert encoded not in str(caught.value)


async def test_a_tenant_is_told_in_the_headers_of_mimir_and_thanos():
    with prometheus(fleet=FLEET) as stub:
        await ask(PrometheusServer(URL(stub.url), tenant="team-a"))
        assert {one["X-Scope-OrgID"] for one in stub.headers} == {"team-a"}
        assert {one["THANOS-TENANT"] for one in stub.headers} == {"team-a"}
        stub.headers.clear()
        await ask(PrometheusServer(URL(stub.url)))
        assert not any("X-Scope-OrgID" in one for one in stub.headers)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"user": "me"}, "a user needs a password file"),
        ({"password_file": "good"}, "and a password file a user"),
        ({"user": "a:b", "password_file": "good"}, "a user name cannot hold a colon"),
        ({"user": "me", "password_file": "good", "token_file": "good"}, "a token file and a password file"),
        ({"user": "me", "password_file": "absent"}, "password file {folder}/absent is not readable"),
        ({"key_file": "good"}, "the key of a client certificate without the certificate"),
        ({"certificate_file": "good"}, "needs an address that begins with https://"),
        ({"tenant": "a\r\nb"}, "cannot be sent"),
        ({"url": "https://127.0.0.1:1", "certificate_file": "good"}, "client certificate {folder}/good is not usable"),
    ],
)
async def test_what_contradicts_itself_is_told_before_anything_is_asked(tmp_path, how, said):
    (tmp_path / "good").write_text("sesame-open")
    given = {name: tmp_path / value if name.endswith("_file") else value for name, value in how.items()}
    with prometheus(fleet=FLEET) as stub:
        url = URL(given.pop("url", stub.url))
        with pytest.raises(Unconfigured) as caught:
            await ask(PrometheusServer(url, **given))
        assert stub.asked == []
    assert said.format(folder=tmp_path) in str(caught.value)
    assert "sesame" not in str(caught.value)


class Authority:
    """A CA and certificates of it, for tests."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._certificate(name, self.key, authority=True)
        self.file = folder / f"{name}.crt"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _certificate(self, name, key, *, authority):
        import ipaddress

        now = dt.datetime.now(dt.UTC)
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if authority:
            names = (
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
            )
            names = dict.fromkeys((*names, "encipher_only", "decipher_only"), False)
            usage = x509.KeyUsage(**names, key_cert_sign=True, crl_sign=True)
            builder = builder.add_extension(usage, critical=True)
        else:
            host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([host]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name):
        """Return the files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        files = self.folder / f"{self.name}-{name}.crt", self.folder / f"{self.name}-{name}.key"
        certificate = self._certificate(name, key, authority=False)
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


@asynccontextmanager
async def tls_server(authority, *, clients=None):
    """Answer every query with an empty vector; ask for certificates of `clients`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("server"))
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.file)
    empty = {"status": "success", "data": {"resultType": "vector", "result": []}}

    async def answer(_):
        return web.json_response(empty)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield URL(f"https://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
        await asyncio.sleep(0)


async def facts(server):
    async with MetricsServer(server) as session:
        return await session.facts()


async def test_a_client_certificate_lets_in_and_one_of_another_authority_does_not(tmp_path):
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    certificate, key = ours.issue("client")
    foreign, foreign_key = theirs.issue("client")
    async with tls_server(ours, clients=ours) as url:
        server = PrometheusServer(url, authority_file=ours.file, certificate_file=certificate, key_file=key)
        assert (await facts(server)).base == url
        with pytest.raises(ClusterError, match=r"asks? for a client certificate"):
            await facts(PrometheusServer(url, authority_file=ours.file))
        other = PrometheusServer(url, authority_file=ours.file, certificate_file=foreign, key_file=foreign_key)
        with pytest.raises(ClusterError, match=r"accept the client certificate|accept this client certificate"):
            await facts(other)


async def test_a_server_of_an_unknown_authority_is_not_trusted(tmp_path):
    async with tls_server(Authority(tmp_path, "theirs")) as url:
        with pytest.raises(Unconfigured, match="not signed by a CA that is trusted here: name it with --ca-file"):
            await facts(PrometheusServer(url))


async def test_a_key_with_a_passphrase_does_not_ask_the_terminal(tmp_path):
    ours = Authority(tmp_path, "ours")
    certificate, key = ours.issue("client")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    server = PrometheusServer(URL("https://127.0.0.1:1"), certificate_file=certificate, key_file=key)
    with pytest.raises(Unconfigured, match="is not usable"):
        await facts(server)
