"""Node prices out of OpenCost's own API: what each node cost an hour over the last day, or why there is no answer.

One call, `GET /assets?window=24h&filter=assetType:"node"`, which every OpenCost serves on port 9003 (Kubecost under
/model). A node's cost over its own minutes is its price an hour, with spot prices, discounts and reconciliation in it.
Bounded in time, bytes and nodes; no redirects, no proxies from the environment, no cookies. OpenCost does not say its
currency: the installation's settings do. A node whose numbers cannot be is an Unknown of its own.
"""

import asyncio
import math
from typing import Any, Final

import aiohttp
import orjson
from yarl import URL

from optiinfra.cluster.connections import Connections
from optiinfra.domain.price_resolution import LiveNode, LivePrices
from optiinfra.domain.price_split import UnitPrices
from optiinfra.domain.prices import GIB, PriceSource
from optiinfra.domain.readings import Unknown, UnknownReason

TIMEOUT_S: Final = 15.0
LIMIT_BYTES: Final = 32 * 1024 * 1024
MOST_NODES: Final = 20_000
_LEAST_MINUTES: Final = 5.0
"""A node that is known for less has no price yet: its cost over so short a time is rounded to nothing."""


class _NoAnswer(Exception):  # noqa: N818  a state, named as people say it
    """There are no prices, and why."""

    def __init__(self, reason: UnknownReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


async def read_opencost(
    url: str, *, currency: str, as_of: str, timeout_s: float = TIMEOUT_S, limit_bytes: int = LIMIT_BYTES
) -> LivePrices | Unknown:
    """Ask OpenCost at `url` (http or https, with an optional path) for its nodes; never raises for an answer."""
    shown = "OpenCost"
    connections = Connections()
    try:
        base = _base(url)
        shown = f"OpenCost at {base.with_user(None)}"
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1, socket_factory=connections.open),
                trust_env=False,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "optiinfra"},
            ) as session,
        ):
            document = await _call(session, base, limit_bytes)
        nodes = _nodes(document)
    except _NoAnswer as error:
        return Unknown(error.reason, f"{shown}: {error.detail}"[:256])
    except TimeoutError:
        return Unknown(UnknownReason.UNREACHABLE, f"{shown}: no complete answer within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return Unknown(UnknownReason.UNREACHABLE, f"{shown}: {type(error).__name__}: {error}"[:256])
    finally:
        await connections.end()
    return LivePrices(PriceSource.OPENCOST, str(base.with_user(None)), currency, as_of, nodes)


def _base(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError as error:
        raise _NoAnswer(UnknownReason.NOT_CONFIGURED, f"not a valid address: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host or len(text) > 1024:
        raise _NoAnswer(UnknownReason.NOT_CONFIGURED, "not an http or https address")
    return url.with_query(None).with_fragment(None)


async def _call(session: aiohttp.ClientSession, base: URL, limit_bytes: int) -> dict[str, Any]:
    asked = {"window": "24h", "filter": 'assetType:"node"'}
    async with session.get(base / "assets", params=asked, allow_redirects=False) as response:
        if response.status in {401, 403}:
            raise _NoAnswer(UnknownReason.REFUSED, f"it asks for permission (HTTP {response.status})")
        if response.status == 404:
            raise _NoAnswer(
                UnknownReason.INVALID, "it has no /assets: name its API, port 9003, or .../model of Kubecost"
            )
        if response.status != 200:
            raise _NoAnswer(UnknownReason.INVALID, f"it answered HTTP {response.status}")
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
            raise _NoAnswer(UnknownReason.INVALID, "it answered in an encoding that was not asked for")
        content = bytearray()
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > limit_bytes:
                # Else the connection would be drained to be used again.
                response.close()
                raise _NoAnswer(UnknownReason.INVALID, f"it answered more than {limit_bytes} bytes")
    try:
        document = orjson.loads(bytes(content))
    except orjson.JSONDecodeError as error:
        raise _NoAnswer(UnknownReason.INVALID, "it answered something else than JSON") from error
    if not isinstance(document, dict):
        raise _NoAnswer(UnknownReason.INVALID, "it answered no JSON object")
    return document


def _nodes(document: dict[str, Any]) -> dict[str, LiveNode | Unknown]:
    """Read the assets: one mapping in OpenCost, a list of mappings, one a step of time, in Kubecost.

    Of several steps the latest that knows a price counts. A name that two clusters have in one step is no node of ours.
    """
    data = document.get("data")
    steps = data if isinstance(data, list) else [data]
    found: dict[str, LiveNode | Unknown] = {}
    for step in steps:
        if not isinstance(step, dict):
            raise _NoAnswer(UnknownReason.INVALID, "its answer has no assets in data")
        clusters: dict[str, object] = {}
        twice: set[str] = set()
        for asset in step.values():
            properties = asset.get("properties") if isinstance(asset, dict) and asset.get("type") == "Node" else None
            name = properties.get("name") if isinstance(properties, dict) else None
            if properties is None or not isinstance(name, str) or not 0 < len(name) <= 253:
                continue
            if name in twice or clusters.setdefault(name, properties.get("cluster")) != properties.get("cluster"):
                twice.add(name)
                text = f"OpenCost knows a node {name[:64]} in two clusters; ask an OpenCost of this cluster alone"
                found[name] = Unknown(UnknownReason.INVALID, text)
                continue
            known = _node(name, asset)
            if not isinstance(known, Unknown) or name not in found:
                found[name] = known
            if len(found) > MOST_NODES:
                raise _NoAnswer(UnknownReason.INVALID, f"it answered more than {MOST_NODES} nodes")
    if not found:
        raise _NoAnswer(UnknownReason.TOO_FEW_SAMPLES, "it knows no node yet")
    return found


def _node(name: str, asset: dict[str, Any]) -> LiveNode | Unknown:
    minutes, total = _number(asset, "minutes"), _number(asset, "totalCost")
    if minutes is None or total is None:
        return Unknown(UnknownReason.INVALID, f"OpenCost's node {name[:64]} has no minutes or no totalCost")
    if minutes < _LEAST_MINUTES:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, f"OpenCost knows node {name[:64]} for less than five minutes")
    hours = minutes / 60.0
    return LiveNode(
        hour=total / hours,
        units=UnitPrices(
            gpu=_unit(asset, "gpuCost", "gpuCount", hours=hours),
            cpu_core=_unit(asset, "cpuCost", "cpuCores", hours=hours),
            memory_gib=_unit(asset, "ramCost", "ramBytes", hours=hours, size=GIB),
        ),
    )


def _unit(asset: dict[str, Any], cost: str, amount: str, *, hours: float, size: float = 1.0) -> float | None:
    """Price of one unit an hour; None where it has none of them, or no sensible price."""
    money, count = _number(asset, cost), _number(asset, amount)
    if money is None or count is None or count <= 0.0 or money <= 0.0:
        return None
    return money / hours / (count / size)


def _number(asset: dict[str, Any], name: str) -> float | None:
    value = asset.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
