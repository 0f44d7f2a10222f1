"""TLS of the agent's pages: its certificate, and optionally a CA whose clients alone may read them.

Certificates are replaced while a process runs (cert-manager, a mounted Secret), so the files are looked at again with a
new connection, at most every ten seconds, and what comes next gets the new pair. A pair that does not load leaves the
old one in place and is logged: an agent that forgets its certificate over a half-written file is of no use.

With a client CA a certificate is asked for and checked, but a client without one is not turned away by the handshake:
the kubelet's probes have none. The application refuses such a client everything but the health pages.
"""

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from optiinfra_agent.errors import SettingsError
from optiinfra_agent.settings import Settings

log = logging.getLogger(__name__)

_LOOK_S = 10.0


class Tls:
    """The server's side of TLS, with a certificate that may change."""

    def __init__(
        self, *, certificate: Path, key: Path, client_ca: Path | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._clock = clock
        self._looked = clock()
        self._seen = self._state()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self.context.load_cert_chain(certificate, key)
            if client_ca is not None:
                self.context.verify_mode = ssl.CERT_OPTIONAL
                self.context.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"the TLS files do not load: {error}; give a certificate, its key and a CA, each in PEM"
            ) from error

    @classmethod
    def of(cls, settings: Settings) -> "Tls | None":
        """Return the TLS that the settings ask for; None for plain HTTP."""
        if settings.tls_certificate_file is None or settings.tls_key_file is None:
            return None
        return cls(
            certificate=settings.tls_certificate_file,
            key=settings.tls_key_file,
            client_ca=settings.tls_client_ca_file,
        )

    def look(self) -> None:
        """Take a new certificate over, if there is one."""
        now = self._clock()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        seen = self._state()
        if seen == self._seen:
            return
        try:
            # Into a context of its own first: a key that does not fit its certificate would spoil the one in use.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            self.context.load_cert_chain(self._certificate, self._key)
        except (OSError, ValueError) as error:
            log.exception("the new TLS files do not load", extra={"fields": {"error": type(error).__name__}})
            return
        self._seen = seen
        log.info("a new TLS certificate is in use")

    def _state(self) -> tuple[tuple[int, int], ...] | None:
        try:
            states = [path.stat() for path in (self._certificate, self._key)]
        except OSError:
            return None
        return tuple((state.st_ino, state.st_mtime_ns) for state in states)
