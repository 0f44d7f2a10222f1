"""Addresses that show a query in the server's own pages, so that every number of a report can be looked up.

Prometheus and Thanos keep a query in the address of `/graph`, VictoriaMetrics in that of `vmui`. Mimir has no page for
queries, and a server that could not be recognised may have none: there is no link then. Neither user nor password of an
address gets into a link.
"""

from datetime import UTC, datetime
from urllib.parse import quote

from yarl import URL

from optiinfra.cluster.prometheus_grid import TimeGrid
from optiinfra.cluster.prometheus_recognise import ServerFacts, ServerKind

_LONGEST = 8_000
"""Browsers and proxies cut or refuse longer addresses."""


def query_link(facts: ServerFacts, query: str, grid: TimeGrid, *, page: URL | None = None) -> str:
    """Return the address of a graph of the query over the range; "" where there is none. `page`: where people reach it.

    Sources: `web/ui` of Prometheus (g0.expr, g0.range_input, g0.end_input, g0.step_input), vmui of VictoriaMetrics.
    """
    given = page or facts.base
    root = str(given.with_user(None).with_query(None).with_fragment(None)).rstrip("/")
    hours = max(1, -(-round(grid.points * grid.step) // 3600))
    end = datetime.fromtimestamp(grid.end, tz=UTC)
    if facts.kind in {ServerKind.PROMETHEUS, ServerKind.THANOS}:
        told = {"expr": query, "tab": "0", "range_input": f"{hours}h", "end_input": f"{end:%Y-%m-%d %H:%M:%S}"}
        told["step_input"] = f"{grid.step:.0f}"
        link = f"{root}/graph?{_joined(told)}"
    elif facts.kind is ServerKind.VICTORIA_METRICS:
        told = {"expr": query, "range_input": f"{hours}h", "end_input": f"{end:%Y-%m-%dT%H:%M:%S}"}
        told["step_input"] = f"{grid.step:.0f}s"
        # Of a cluster the page is a sibling of the API: /select/0/vmui beside /select/0/prometheus.
        root = root.removesuffix("/prometheus")
        link = f"{root}/vmui/?#/?{_joined(told)}"
    else:
        return ""
    return link if len(link) <= _LONGEST else ""


def _joined(told: dict[str, str]) -> str:
    return "&".join(f"g0.{name}={quote(value, safe='')}" for name, value in told.items())
