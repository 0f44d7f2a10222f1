"""Whose GPUs they were: one account a holder and kind of GPU, and one a kind for GPUs that nobody held.

A model's GPUs over time come from its pods' requests, else from the exporter. Which kind they are is told by the GPUs
that it was seen to hold, else by the nodes of its pods; where neither tells and the fleet has several kinds, its
GPU-hours are counted and have no price. What the nodes had and nobody held makes the accounts of free GPUs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import FleetHistory
from optiinfra.domain.report.money import Account
from optiinfra.domain.report.pricing import PricedNode, Pricing, mean_price

FREE: Final = ""
"""Holder of what nobody holds."""
NO_KIND: Final = "kind not told"
_WHICH: Final = Unknown(
    UnknownReason.NOT_MEASURED,
    "which kind of GPU it holds is not told: let dcgm-exporter say which pod holds which GPU, or install "
    "kube-state-metrics",
)


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """All accounts of a fleet."""

    by_holder: Mapping[str, tuple[Account, ...]]
    free: Mapping[str, Account]
    """By kind of GPU."""
    total: FloatArray
    """(points,) GPUs that were there."""

    @property
    def all(self) -> tuple[Account, ...]:
        """Return every account."""
        return (*(one for accounts in self.by_holder.values() for one in accounts), *self.free.values())


def accounts_of(history: FleetHistory, pricing: Pricing) -> Held:
    """Open the accounts of a fleet."""
    points = len(history.times)
    homes = _homes(history, pricing)
    held: dict[str, FloatArray] = {}
    for model in history.models:
        if not isinstance(model.gpus_held, Unknown):
            held[model.key] = np.nan_to_num(model.gpus_held)
    counts, models = _slices(history), {model.key for model in history.models}
    for gpu in history.gpus:
        for one in gpu.holdings:
            if one.key not in models:
                held[one.key] = held.get(one.key, np.zeros(points)) + one.held / counts[gpu.uuid]
    by_holder = {
        key: _split(key, gpus, homes.get(key) or _only_kind(pricing)) for key, gpus in held.items() if gpus.any()
    }
    return _with_free(by_holder, pricing, points)


def slices_of(history: FleetHistory) -> Mapping[str, int]:
    """Return how many MIG instances each GPU was measured as; 1 for whole ones."""
    return _slices(history)


def _slices(history: FleetHistory) -> dict[str, int]:
    found: dict[str, int] = {}
    for gpu in history.gpus:
        found[gpu.uuid] = found.get(gpu.uuid, 0) + 1
    return found


def _homes(history: FleetHistory, pricing: Pricing) -> dict[str, dict[PricedNode, float]]:
    """Return for each holder how much of what it held was on which node."""
    seen: dict[str, dict[str, float]] = {}
    for gpu in history.gpus:
        for one in gpu.holdings:
            _add(seen, one.key, gpu.node, float(one.held.sum()))
    asked: dict[str, dict[str, float]] = {}
    for node in history.nodes:
        for pod in node.pods:
            _add(asked, f"{pod.namespace}/{pod.workload}", node.name, pod.gpus)
    found = {}
    for key in {*seen, *asked}:
        shares = seen.get(key) or asked.get(key, {})
        found[key] = {pricing.nodes[name]: weight for name, weight in shares.items() if name in pricing.nodes}
    return found


def _add(shares: dict[str, dict[str, float]], key: str, node: str, weight: float) -> None:
    if weight > 0.0:
        own = shares.setdefault(key, {})
        own[node] = own.get(node, 0.0) + weight


def _only_kind(pricing: Pricing) -> dict[PricedNode, float]:
    """Return all nodes where they are of one kind: then it does not matter which."""
    kinds = {node.gpu for node in pricing.nodes.values()}
    return {node: node.gpus for node in pricing.nodes.values()} if len(kinds) == 1 else {}


def _split(key: str, held: FloatArray, nodes: Mapping[PricedNode, float]) -> tuple[Account, ...]:
    """Return an account for each kind, by the share that was on nodes of it."""
    total = sum(nodes.values())
    if total <= 0.0:
        return (Account(key, NO_KIND, held, _WHICH, _WHICH),)
    accounts = []
    for kind in sorted({node.gpu for node in nodes}):
        own = {node: weight for node, weight in nodes.items() if node.gpu == kind}
        price, saved = mean_price(own), mean_price(own, saved=True)
        accounts.append(Account(key, kind, held * (sum(own.values()) / total), price, saved))
    return tuple(accounts)


def _with_free(by_holder: Mapping[str, tuple[Account, ...]], pricing: Pricing, points: int) -> Held:
    there: dict[str, FloatArray] = {}
    nodes: dict[str, list[PricedNode]] = {}
    for node in pricing.nodes.values():
        there[node.gpu] = there.get(node.gpu, np.zeros(points)) + node.gpus * node.present
        nodes.setdefault(node.gpu, []).append(node)
    used: dict[str, FloatArray] = {}
    for accounts in by_holder.values():
        for one in accounts:
            used[one.gpu] = used.get(one.gpu, np.zeros(points)) + one.held
    free = {
        kind: Account(
            FREE,
            kind,
            np.maximum(total - used.get(kind, 0.0), 0.0),
            mean_price(nodes[kind]),
            mean_price(nodes[kind], saved=True),
        )
        for kind, total in there.items()
    }
    # Pods may hold GPUs of nodes that nobody describes: they were there all the same.
    total: FloatArray = np.zeros(points)
    for kind in {*there, *used}:
        total = total + np.maximum(there.get(kind, np.zeros(points)), used.get(kind, np.zeros(points)))
    return Held(by_holder, free, total)
