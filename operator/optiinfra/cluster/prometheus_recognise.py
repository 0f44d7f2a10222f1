"""What answers at an address: which server, where below it, and how its clock differs from ours.

People give the address of a page they look at, of a gateway, of Grafana or of a login. The places where the known
servers keep their API are tried, and what answers with something else is told in one line with what to do. The clock is
the server's header `Date`, or its `time()`: a machine whose clock is off would ask for hours that are not there yet.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson
from yarl import URL

from optiinfra.cluster.errors import ClusterError, Denied, Invalid, Malformed, Unavailable, Unconfigured
from optiinfra.cluster.prometheus_answer import read_document
from optiinfra.cluster.prometheus_call import Caller
from optiinfra.cluster.prometheus_http import PrometheusHttp, Reply

_QUERY: Final = "api/v1/query"
_BUILD: Final = "api/v1/status/buildinfo"
_STORES: Final = "api/v1/stores"
_PAGES: Final = re.compile(
    r"/(graph|query|vmui|targets|alerts|rules|config|flags|status|tsdb-status|stores|classic|metrics|"
    r"api(/v1(/[a-z_/]*)?)?)/*$"
)
"""What people copy from a browser, or from an example, behind the address itself."""
_TENANT: Final = re.compile(r"[0-9]+(:[0-9]+)?")
CLOCK_SLACK_S: Final = 30.0
"""Less than this is not told: headers count whole seconds, and answers take time."""


class ServerKind(StrEnum):
    """Who answers, as far as it can be told."""

    PROMETHEUS = "Prometheus"
    THANOS = "Thanos"
    MIMIR = "Mimir"
    VICTORIA_METRICS = "VictoriaMetrics"
    COMPATIBLE = "a Prometheus-compatible server"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What was found at an address."""

    kind: ServerKind
    version: str
    """As it tells it; "" where it does not."""
    base: URL
    """Where its API is: the address that was given, or a place below it."""
    clock_ahead_s: float | None
    """By how much the server's clock is ahead of ours (negative: behind); None where it does not tell."""

    @property
    def clock_note(self) -> str:
        """Say that the clocks differ; "" where they do not, or where it is not known."""
        ahead = self.clock_ahead_s
        if ahead is None or abs(ahead) <= CLOCK_SLACK_S:
            return ""
        side = "ahead of" if ahead > 0 else "behind"
        return (
            f"the server's clock is {abs(ahead):.0f} s {side} this machine's: times are the server's; "
            "set both clocks by NTP"
        )


async def recognise(caller: Caller, *, clock: Callable[[], float] = time.time) -> ServerFacts:
    """Find the API below an address and point the session there; a server that is only busy is asked again.

    Raises:
        ClusterError: Denied, Unavailable, Unconfigured, or Invalid where nothing of the kind answers; one line with
            what to do.
    """
    http = caller.http
    first: ClusterError | None = None
    for base in _places(http.server.url, http.server.tenant):
        http.base = base
        try:
            reply = await caller.call(_QUERY, {"query": "time()"})
            now = clock()
            document = _answer(http, reply)
        except (Denied, Unavailable, Unconfigured):
            raise
        except ClusterError as error:
            first = first or error
            continue
        kind, version = await _kind(http, document)
        return ServerFacts(kind, version, base, _ahead(document, reply, now))
    assert first is not None
    raise first


def _ahead(document: dict[str, Any], reply: Reply, now: float) -> float | None:
    """Compare the clocks: by the header `Date`, which gateways may leave out, else by what `time()` gave."""
    there = None if reply.server_time is None else reply.server_time + 0.5
    if there is None:
        result = document["data"].get("result")
        # A scalar is one pair; VictoriaMetrics answers a vector of one.
        pair: Any = result
        if isinstance(result, list) and result and isinstance(result[0], dict):
            pair = result[0].get("value")
        try:
            there = float(pair[1])
        except (TypeError, ValueError, IndexError):
            return None
    return there - (now - 0.5 * reply.seconds) if math.isfinite(there) else None


def _places(url: URL, tenant: str) -> list[URL]:
    """Return where the API may be, the likeliest first."""
    url = url.with_query(None).with_fragment(None)
    path = url.path.rstrip("/")
    short = _PAGES.sub("", path)
    account = tenant if _TENANT.fullmatch(tenant) else "0"
    below = [f"{short}/prometheus", f"{short}/select/{account}/prometheus", f"{short}/api/prom"]
    if short.endswith("/prometheus"):
        below = []
    return [url.with_path(one or "/") for one in dict.fromkeys([path, short, *below])]


def _answer(http: PrometheusHttp, reply: Reply) -> dict[str, Any]:
    try:
        document = read_document(reply.body)
    except Malformed as error:
        raise http.error(Invalid, _other(reply.body) or error.message) from error
    if document.get("status") != "success" or not isinstance(document.get("data"), dict):
        raise http.error(Invalid, "it answers JSON of another kind: name the address of the metrics server itself")
    return document


def _other(body: bytes) -> str:
    """Say what a page is instead of an answer."""
    text = body[:20_000].decode("utf-8", errors="replace").lower()
    if "<html" not in text and "<!doctype" not in text:
        return ""
    if "grafana" in text:
        return "this is Grafana, not the metrics server: name the address of its Prometheus data source"
    if any(word in text for word in ("login", "log in", "sign in", "sso", "oauth", "password")):
        return "it answers with a login page: name the address behind the login, or give a token or a password file"
    return "it answers with a web page: name the address of the metrics server itself, without a page's path"


async def _kind(http: PrometheusHttp, document: dict[str, Any]) -> tuple[ServerKind, str]:
    """Tell the server by what only it says; a gateway may hide all of it."""
    stats = document.get("stats")
    victoria = "isPartial" in document or (isinstance(stats, dict) and "seriesFetched" in stats)
    told = await _asked(http, _BUILD)
    application, version = str(told.get("application", "")).lower(), str(told.get("version", ""))[:64]
    if victoria:
        # Its answer for the sake of other programs is the version of a Prometheus that it stands in for.
        return ServerKind.VICTORIA_METRICS, ""
    if "mimir" in application or "cortex" in application:
        return ServerKind.MIMIR, version
    if await _asked(http, _STORES):
        return ServerKind.THANOS, version
    return (ServerKind.PROMETHEUS if version else ServerKind.COMPATIBLE), version


async def _asked(http: PrometheusHttp, path: str) -> dict[str, Any]:
    """Return the data of a small answer; {} without one: it only names the server."""
    try:
        document = orjson.loads((await http.call(path, {})).body)
    except (ClusterError, orjson.JSONDecodeError):
        return {}
    data = document.get("data") if isinstance(document, dict) else None
    return data if isinstance(data, dict) else {}
