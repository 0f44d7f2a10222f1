"""Where a Prometheus-compatible server is, how to be let in, and what of that must never stand in a message.

A bearer token or a user with a password, each from a file; a client certificate; a tenant; any further header. Files
of tokens and passwords are read anew for each call, because they rotate. What contradicts itself is told before
anything is sent. Nothing here is taken from the environment, and certificates are always checked.
"""

import base64
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from yarl import URL

from optiinfra.cluster.errors import ClusterError, Unconfigured, error_of

_LEAST_REDACTED: Final = 4
_LONGEST_SECRET: Final = 16_384
_TENANT_HEADERS: Final = ("X-Scope-OrgID", "THANOS-TENANT")
"""Of Mimir, Cortex and Loki's family, and of Thanos: a server that knows only one ignores the other."""
_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
"""Name of a header (RFC 9110, section 5.6.2)."""
_NO_ADDRESS: Final = "not an address: write it like http://prometheus:9090"


@dataclass(frozen=True, slots=True)
class PrometheusServer:
    """Where it is and how to be let in."""

    url: URL
    """Base address, with a path where the server lives under one (Mimir: /prometheus)."""
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with every call; values are kept out of messages."""
    token_file: Path | None = None
    """Bearer token, read anew for each call because it rotates."""
    authority_file: Path | None = None
    """CA that signs the server's certificate; None: those that the system trusts."""
    user: str = ""
    """For basic authentication, with `password_file`."""
    password_file: Path | None = None
    """Its first line, read anew for each call."""
    certificate_file: Path | None = None
    """Client certificate in PEM, for servers that ask for one (mTLS)."""
    key_file: Path | None = None
    """Key of the client certificate; None: it is in the same file."""
    tenant: str = ""
    """Of a server that keeps several apart: sent to Mimir and Thanos as a header, to VictoriaMetrics in the path."""
    page: URL | None = None
    """Where people reach the server's own pages, if not at `url` (a port-forward, a Service): for links only."""

    @property
    def shown(self) -> str:
        """The address without what may be secret in it."""
        if not self.url.absolute:
            return "the server"
        return str(self.url.with_user(None).with_query(None).with_fragment(None)).rstrip("/")

    def error(
        self, kind: type[ClusterError] | None, text: str, *, code: int = 0, retry_after_s: float | None = None
    ) -> ClusterError:
        """Build an error that names the server; `kind` None: by its HTTP code."""
        if kind is None:
            return error_of(verb="ask", path=self.shown, code=code, status=None, text=text, retry_after_s=retry_after_s)
        return kind(text, verb="ask", path=self.shown, code=code, retry_after_s=retry_after_s)


class Access:
    """The headers and the TLS context of a server's calls, and what to keep out of messages."""

    def __init__(self, server: PrometheusServer) -> None:
        self._server = server
        self._secrets: tuple[str, ...] = ()
        self.tls: ssl.SSLContext | bool = True

    def open(self) -> None:
        """Read what is needed once, so that a wrong file is told before anything is asked. Raises `Unconfigured`."""
        self._check()
        self.headers()
        if self._server.url.scheme == "https":
            self.tls = self._tls()

    def headers(self) -> dict[str, str]:
        """Headers of the next call, with the token or password as its file holds it now. Raises `Unconfigured`."""
        server = self._server
        headers = dict.fromkeys(_TENANT_HEADERS, server.tenant) if server.tenant else {}
        headers |= dict(server.headers)
        secrets = [value for _, value in server.headers] + [server.url.password or ""]
        if server.token_file is not None:
            token = self._secret(server.token_file, "token").strip()
            if not token or not token.isascii() or not token.isprintable() or " " in token:
                raise self._unconfigured(f"token file {server.token_file} does not hold one token")
            headers["Authorization"] = f"Bearer {token}"
            secrets.append(token)
        if server.password_file is not None:
            password = self._secret(server.password_file, "password").split("\n", 1)[0].rstrip("\r")
            encoded = base64.b64encode(f"{server.user}:{password}".encode()).decode()
            headers["Authorization"] = f"Basic {encoded}"
            secrets += [password, encoded]
        self._secrets = tuple(sorted((one for one in secrets if len(one) >= _LEAST_REDACTED), key=len, reverse=True))
        return headers

    def redacted(self, text: str) -> str:
        """Return the text without the secrets of the last call."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _check(self) -> None:
        server = self._server
        headers = (*server.headers, ("X-Scope-OrgID", server.tenant))
        authorised = [
            what
            for what, given in (
                ("a token file", server.token_file is not None),
                ("a password file", server.password_file is not None),
                ("a user in the address", server.url.user is not None),
                ("a header Authorization", any(name.lower() == "authorization" for name, _ in server.headers)),
            )
            if given
        ]
        odd = next((n for n, v in headers if not _TOKEN.fullmatch(n) or any(c in "\r\n\0" for c in v)), None)
        wrong = {
            _NO_ADDRESS: server.url.scheme not in {"http", "https"} or not server.url.host,
            f"{' and '.join(authorised)}: give one of them": len(authorised) > 1,
            "a user needs a password file, and a password file a user": bool(server.user) != bool(server.password_file),
            "a user name cannot hold a colon": ":" in server.user,
            "the key of a client certificate without the certificate: give both": server.key_file is not None
            and server.certificate_file is None,
            "a client certificate needs an address that begins with https://": server.certificate_file is not None
            and server.url.scheme != "https",
            f"the header {(odd or '')[:64]!r} cannot be sent: write 'Name: value'": odd is not None,
        }
        for text, is_so in wrong.items():
            if is_so:
                raise self._unconfigured(text)

    def _tls(self) -> ssl.SSLContext:
        server = self._server
        try:
            context = ssl.create_default_context(cafile=server.authority_file)
        except (OSError, ssl.SSLError) as error:
            raise self._unconfigured(f"CA file {server.authority_file} is not usable: {error}") from error
        if server.certificate_file is not None:
            try:
                # A key with a passphrase would else ask for it on the terminal.
                context.load_cert_chain(server.certificate_file, server.key_file, password="")
            except (OSError, ssl.SSLError) as error:
                names = f"{server.certificate_file}{f' with {server.key_file}' if server.key_file else ''}"
                raise self._unconfigured(f"client certificate {names} is not usable: {error}") from error
        return context

    def _secret(self, path: Path, what: str) -> str:
        try:
            with path.open(encoding="utf-8") as file:
                return file.read(_LONGEST_SECRET)
        except (OSError, UnicodeDecodeError) as error:
            raise self._unconfigured(f"{what} file {path} is not readable: {type(error).__name__}") from error

    def _unconfigured(self, text: str) -> ClusterError:
        return self._server.error(Unconfigured, self.redacted(text))
