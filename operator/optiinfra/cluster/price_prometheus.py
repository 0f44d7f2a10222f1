"""Node prices out of a Prometheus-compatible server that scrapes OpenCost: its newest word on each node.

OpenCost exports node_total_hourly_cost and the prices of a node's parts, with the label `node`. Four short queries over
the last five minutes, each bounded by `QueryLimits`; a node that was not heard of in that time has no price. The server
does not say the currency: the installation's settings do.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from yarl import URL

from optiinfra.cluster.errors import ClusterError, Denied, Invalid, Malformed, Unconfigured
from optiinfra.cluster.prometheus import Prometheus, PrometheusServer
from optiinfra.cluster.prometheus_range import QueryLimits, RangeQuery
from optiinfra.domain.price_resolution import LiveNode, LivePrices
from optiinfra.domain.price_split import UnitPrices
from optiinfra.domain.prices import PriceSource
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import Seconds, UnixTime

LIMITS: Final = QueryLimits(
    total_points=100, bytes=16 << 20, series=20_000, timeout_s=10.0, failures=2, connection_failures=1, longest_wait_s=1
)
_SPAN: Final = 300.0
_STEP: Final = Seconds(60.0)
_QUERY: Final = "max by (node) ({})"
_TOTAL, _GPU, _CPU, _MEMORY = (
    "node_total_hourly_cost",
    "node_gpu_hourly_cost",
    "node_cpu_hourly_cost",
    "node_ram_hourly_cost",
)


async def read_prometheus(
    url: str,
    *,
    token_file: Path | None,
    currency: str,
    as_of: str,
    now: UnixTime,
    limits: QueryLimits = LIMITS,
) -> LivePrices | Unknown:
    """Ask the server at `url` for OpenCost's metrics; never raises for an answer."""
    try:
        server = PrometheusServer(URL(url), token_file=token_file)
    except ValueError as error:
        return Unknown(UnknownReason.NOT_CONFIGURED, f"the Prometheus for prices: not a valid address: {error}"[:256])
    try:
        async with Prometheus(server, limits=limits) as prometheus:
            values = {name: await _newest(prometheus, name, now=now) for name in (_TOTAL, _GPU, _CPU, _MEMORY)}
    except ClusterError as error:
        return Unknown(_reason(error), f"the Prometheus for prices, {error}"[:256])
    if not values[_TOTAL]:
        text = f"{server.shown} has no {_TOTAL}: does it scrape OpenCost, and with honor_labels?"
        return Unknown(UnknownReason.NOT_MEASURED, text)
    nodes = {
        node: LiveNode(
            total,
            UnitPrices(
                _above_zero(values[_GPU], node), _above_zero(values[_CPU], node), _above_zero(values[_MEMORY], node)
            ),
        )
        for node, total in values[_TOTAL].items()
    }
    return LivePrices(PriceSource.PROMETHEUS, f"{_TOTAL} at {server.shown}", currency, as_of, nodes)


async def _newest(prometheus: Prometheus, metric: str, *, now: UnixTime) -> dict[str, float]:
    query = RangeQuery(_QUERY.format(metric), UnixTime(now - _SPAN), now, _STEP)
    answer = await prometheus.query_range(query)
    return {
        node: float(series.values[-1])
        for series in answer.series
        if len(series.values) and (node := dict(series.labels).get("node", ""))
    }


def _above_zero(values: Mapping[str, float], node: str) -> float | None:
    value = values.get(node)
    return value if value is not None and value > 0.0 and math.isfinite(value) else None


def _reason(error: ClusterError) -> UnknownReason:
    if isinstance(error, Denied):
        return UnknownReason.REFUSED
    if isinstance(error, Malformed | Invalid):
        return UnknownReason.INVALID
    return UnknownReason.NOT_CONFIGURED if isinstance(error, Unconfigured) else UnknownReason.UNREACHABLE
