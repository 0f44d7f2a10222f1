"""Node prices out of OpenCost's own API: what each node cost an hour over the last day, or why there is no answer.

One call, `GET /assets?window=24h&filter=assetType:"node"`, which every OpenCost serves on port 9003 (Kubecost under
/model). A node's cost over its own minutes is its price an hour, with spot prices, discounts and reconciliation in it.
Bounded in time, bytes and nodes. OpenCost does not say its currency: the installation's settings do. A node whose
numbers cannot be is an Unknown of its own.
"""

import math
from typing import Any, Final

from optiinfra.cluster.json_service import NoAnswer, json_service, service_url
from optiinfra.domain.price_resolution import LiveNode, LivePrices
from optiinfra.domain.price_split import UnitPrices
from optiinfra.domain.prices import GIB, PriceSource
from optiinfra.domain.readings import Unknown, UnknownReason

TIMEOUT_S: Final = 15.0
LIMIT_BYTES: Final = 32 * 1024 * 1024
MOST_NODES: Final = 20_000
_ASKED: Final = {"window": "24h", "filter": 'assetType:"node"'}
_NO_ASSETS: Final = "it has no /assets: name its API, port 9003, or .../model of Kubecost"
_LEAST_MINUTES: Final = 5.0
"""A node that is known for less has no price yet: its cost over so short a time is rounded to nothing."""


async def read_opencost(
    url: str, *, currency: str, as_of: str, timeout_s: float = TIMEOUT_S, limit_bytes: int = LIMIT_BYTES
) -> LivePrices | Unknown:
    """Ask OpenCost at `url` (http or https, with an optional path) for its nodes; never raises for an answer."""
    shown = "OpenCost"
    try:
        base = service_url(url)
        shown = f"OpenCost at {base.with_user(None)}"
        async with json_service(timeout_s=timeout_s, limit_bytes=limit_bytes) as service:
            document = await service.call("GET", base / "assets", query=_ASKED, remedies={404: _NO_ASSETS})
        nodes = _nodes(document)
    except NoAnswer as error:
        return Unknown(error.reason, f"{shown}: {error.detail}"[:256])
    return LivePrices(PriceSource.OPENCOST, str(base.with_user(None)), currency, as_of, nodes)


def _nodes(document: dict[str, Any]) -> dict[str, LiveNode | Unknown]:
    """Read the assets: one mapping in OpenCost, a list of mappings, one a step of time, in Kubecost.

    Of several steps the latest that knows a price counts. A name that two clusters have in one step is no node of ours.
    """
    data = document.get("data")
    steps = data if isinstance(data, list) else [data]
    found: dict[str, LiveNode | Unknown] = {}
    for step in steps:
        if not isinstance(step, dict):
            raise NoAnswer(UnknownReason.INVALID, "its answer has no assets in data")
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
                raise NoAnswer(UnknownReason.INVALID, f"it answered more than {MOST_NODES} nodes")
    if not found:
        raise NoAnswer(UnknownReason.TOO_FEW_SAMPLES, "it knows no node yet")
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
