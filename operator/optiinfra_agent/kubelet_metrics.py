"""CPU and working set of containers from the kubelet's `/metrics/resource`, where the agent may not see cgroups.

For tier 0, whose profile forbids host folders: the kubelet serves the same two figures over HTTP to who may `get`
`nodes/metrics`. Off by default, because it needs a token of the API server on every node, and a node that is taken
gives it away; the token opens nothing but metrics if the role says no more. The kubelet names namespace, pod and
container here and no uid. It has no memory besides the working set.

Bounded: bytes, containers, one deadline for the whole answer. Certificates are always verified: kubelets that serve
a self-signed one need it named as CA.
"""

import http.client
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from optiinfra_agent import __version__
from optiinfra_agent.errors import SourceDeniedError, SourceFailedError, SourceStuckError, SourceUnavailableError
from optiinfra_agent.snapshot import Measured, NamedContainer, Reason, Unknown

PATH = "/metrics/resource"
LIMIT_BYTES = 16 << 20
MAX_CONTAINERS = 4096
_CHUNK = 65_536
_TOKEN_LIMIT = 8192
_CPU = "container_cpu_usage_seconds_total"
_WORKING_SET = "container_memory_working_set_bytes"
_SAMPLE = re.compile(rf"({_CPU}|{_WORKING_SET})\{{([^}}]*)\}} ([0-9.eE+-]{{1,32}})(?: [0-9]{{1,16}})?")
_LABEL = re.compile(r'(container|namespace|pod)="([a-z0-9.-]{1,253})"')
_MAX_BYTES = float(1 << 50)
_MAX_SECONDS = 1e11


class KubeletMetrics:
    """Reads one kubelet."""

    def __init__(self, url: str, *, token_file: Path | None, ca_file: Path | None, deadline_s: float) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._secure = parts.hostname or "", parts.port, parts.scheme == "https"
        self._token_file = token_file
        self._ca_file = ca_file
        self._deadline_s = deadline_s

    def collect(self) -> tuple[NamedContainer, ...]:
        """Return one reading for each container, or raise the SourceError of the whole source."""
        text = self._fetch().decode("utf-8", "replace")
        found = parse_resource_metrics(text)
        if not found:
            raise SourceFailedError(f"the kubelet's {PATH} names no container")
        return found

    def _fetch(self) -> bytes:
        end = time.monotonic() + self._deadline_s
        connection = self._connection()
        try:
            connection.request("GET", PATH, headers=self._headers())
            answer = connection.getresponse()
            if answer.status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
                raise SourceDeniedError(f"the kubelet refuses {PATH} ({answer.status}): allow `get` of nodes/metrics")
            if answer.status != http.HTTPStatus.OK:
                raise SourceFailedError(f"the kubelet answers {PATH} with {answer.status}")
            return self._read(answer, end)
        except TimeoutError as error:
            raise SourceStuckError(f"no answer of the kubelet within {self._deadline_s:g} s") from error
        except ConnectionRefusedError as error:
            raise SourceUnavailableError("the kubelet does not listen there") from error
        except (OSError, http.client.HTTPException) as error:
            raise SourceFailedError(f"the kubelet cannot be read: {type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def _read(self, answer: http.client.HTTPResponse, end: float) -> bytes:
        body = bytearray()
        while chunk := answer.read1(_CHUNK):
            body += chunk
            if len(body) > LIMIT_BYTES:
                raise SourceFailedError(f"the kubelet's {PATH} is larger than {LIMIT_BYTES} bytes")
            if time.monotonic() > end:
                raise SourceStuckError(f"no whole answer of the kubelet within {self._deadline_s:g} s")
        return bytes(body)

    def _connection(self) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._deadline_s)
        try:
            context = ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))
        except OSError as error:
            raise SourceFailedError(f"{self._ca_file} is no CA: {error}") from error
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._deadline_s, context=context)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "text/plain", "User-Agent": f"optiinfra-agent/{__version__}", "Connection": "close"}
        if self._token_file is None:
            return headers
        try:
            with self._token_file.open("rb") as file:
                token = file.read(_TOKEN_LIMIT + 1).strip()
        except OSError as error:
            raise SourceDeniedError(f"{self._token_file} cannot be read: {error.strerror}") from error
        if not token or len(token) > _TOKEN_LIMIT or not token.isascii():
            raise SourceDeniedError(f"{self._token_file} holds no token")
        return {**headers, "Authorization": f"Bearer {token.decode()}"}


def parse_resource_metrics(text: str) -> tuple[NamedContainer, ...]:
    """Return every container that a page of `/metrics/resource` names; lines of other families are skipped."""
    found: dict[tuple[str, str, str], dict[str, Measured]] = {}
    for family, names, value in _samples(text):
        found.setdefault(names, {})[family] = value
        if len(found) > MAX_CONTAINERS:
            raise SourceFailedError(f"more than {MAX_CONTAINERS} containers are not believed")
    missing = Unknown(Reason.UNAVAILABLE)
    return tuple(
        NamedContainer(*names, values.get(_CPU, missing), values.get(_WORKING_SET, missing))
        for names, values in sorted(found.items())
    )


def _samples(text: str) -> Iterator[tuple[str, tuple[str, str, str], Measured]]:
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line.rstrip())
        if sample is None:
            continue
        labels = dict(_LABEL.findall(sample[2]))
        if labels.keys() != {"container", "namespace", "pod"}:
            continue
        names = (labels["namespace"], labels["pod"], labels["container"])
        yield sample[1], names, _value(sample[3], limit=_MAX_SECONDS if sample[1] == _CPU else _MAX_BYTES)


def _value(text: str, *, limit: float) -> Measured:
    try:
        value = float(text)
    except ValueError:
        return Unknown(Reason.FAILED)
    return value if 0.0 <= value < limit else Unknown(Reason.FAILED)
