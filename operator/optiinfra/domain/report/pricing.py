"""What a GPU of each node costs an hour, with its share of the host, and what is no longer paid when it goes.

A price per GPU that somebody gives on the command line counts first and is taken whole: who rents GPUs by the hour
pays for no host beside them. Else the node's price counts (`price_resolution`: a table, then list prices by instance
type) and is divided by its GPUs, because a node's GPUs and its host come and go together. Nodes that only a GPU
exporter knows have no instance type and so no list price. Nothing is guessed: a GPU without a price is an Unknown.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from optiinfra.domain.cost import PriceList
from optiinfra.domain.price_resolution import PriceBook, price_nodes
from optiinfra.domain.price_table import squash
from optiinfra.domain.prices import Origin, PriceSource
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.history import BoolArray, FleetHistory, NodeHistory
from optiinfra.domain.report.report import Price
from optiinfra.domain.workload import NodeFacts

_SOURCES = {PriceSource.LIST_PRICE: "the cloud's list price", PriceSource.CONFIG_MAP: "the table of --prices"}
NO_PRICE = Unknown(UnknownReason.NOT_CONFIGURED, "no price: give --gpu-hour, or --prices with a table of node prices")
_CAPACITY_LABEL = "karpenter.sh/capacity-type"
_INSTANCE_LABEL = "node.kubernetes.io/instance-type"
_REGION_LABEL = "topology.kubernetes.io/region"


@dataclass(frozen=True, slots=True)
class Prices:
    """Everything that the user says of prices."""

    flat: PriceList = field(default_factory=PriceList)
    """Of single GPUs, the host included."""
    book: PriceBook = field(default_factory=PriceBook)
    """Of nodes."""
    reserved: Mapping[str, float] = field(default_factory=dict)
    """GPUs that are paid for whether they are used or not, by model or a part of its name; "" for any."""

    @property
    def currency(self) -> str:
        """Return the one currency."""
        return self.book.currency


@dataclass(frozen=True, slots=True, eq=False)
class PricedNode:
    """One node's GPUs and what they cost."""

    name: str
    gpu: str
    """Model; empty where it is not told."""
    gpus: float
    present: BoolArray
    """(points,)"""
    gpu_hour: Value
    saved_gpu_hour: Value
    origin: str


@dataclass(frozen=True, slots=True)
class Pricing:
    """All nodes with GPUs."""

    nodes: Mapping[str, PricedNode]
    reserved: Mapping[str, float]
    """By model, as nodes name it."""

    def kinds(self) -> tuple[Price, ...]:
        """Return what each model of GPU costs, the most frequent first."""
        found: dict[str, list[PricedNode]] = {}
        for node in self.nodes.values():
            found.setdefault(node.gpu, []).append(node)
        rows = [self._kind(gpu, nodes) for gpu, nodes in found.items()]
        return tuple(sorted(rows, key=lambda one: (-one.gpus, one.gpu)))

    def _kind(self, gpu: str, nodes: list[PricedNode]) -> Price:
        gpus = sum(node.gpus for node in nodes)
        origins = sorted({node.origin for node in nodes if not isinstance(node.gpu_hour, Unknown)})
        told = "; ".join(origins[:3]) + (f" and {len(origins) - 3} more" if len(origins) > 3 else "")
        return Price(gpu, gpus, mean_price(nodes), told or "nobody", self.reserved.get(gpu, 0.0))


def mean_price(nodes: Iterable[PricedNode], *, saved: bool = False) -> Value:
    """Return the mean price of a GPU over nodes, by their GPUs; unknown where one of them has none."""
    total = gpus = 0.0
    for node in nodes:
        price = node.saved_gpu_hour if saved else node.gpu_hour
        if isinstance(price, Unknown):
            return price
        total += price * node.gpus
        gpus += node.gpus
    return total / gpus if gpus > 0.0 else NO_PRICE


def price(history: FleetHistory, prices: Prices) -> Pricing:
    """Price every node that has GPUs."""
    facts = [_facts(node) for node in history.nodes]
    known = {node.name: node for node in history.nodes}
    resolved = price_nodes([one for one in facts if one.gpus > 0.0], prices.book)
    found: dict[str, PricedNode] = {}
    for one in facts:
        if one.gpus <= 0.0:
            continue
        flat = prices.flat.gpu_hour_of(one.gpu_model)
        node = resolved[one.name]
        hour: Value = _each(node.hour, one.gpus)
        saved: Value = _each(node.marginal_hour, one.gpus)
        origin = _said(node.origin)
        if not isinstance(flat, Unknown):
            hour = flat
            saved = 0.0 if not isinstance(saved, Unknown) and saved == 0.0 else flat
            origin = "--gpu-hour"
        found[one.name] = PricedNode(one.name, one.gpu_model, one.gpus, known[one.name].present, hour, saved, origin)
    for name, (model, gpus, present) in _only_exported(history, found).items():
        flat = prices.flat.gpu_hour_of(model)
        told = NO_PRICE if isinstance(flat, Unknown) else flat
        found[name] = PricedNode(name, model, gpus, present, told, told, "--gpu-hour")
    return Pricing(found, _reserved(found, prices.reserved))


def _said(origin: Origin) -> str:
    """Say for people who says what a price is."""
    source = _SOURCES.get(origin.source)
    return str(origin) if source is None else str(origin).replace(str(origin.source), source, 1)


def _each(hour: Value, gpus: float) -> Value:
    if isinstance(hour, Unknown):
        # The remedies of the operator's own objects do not help here.
        what = hour.detail.partition(":")[2].rpartition(":")[0].strip() or hour.detail
        return Unknown(hour.reason, f"{what}: give --gpu-hour, or --prices with a table of node prices")
    return hour / gpus


def _facts(node: NodeHistory) -> NodeFacts:
    """Return a node as prices look at it."""
    labels = dict(node.labels)
    told = ((_INSTANCE_LABEL, node.instance_type), (_REGION_LABEL, node.region), (_CAPACITY_LABEL, node.capacity_type))
    for label, value in told:
        if value:
            labels.setdefault(label, value)
    return NodeFacts(
        name=node.name,
        pool=node.pool,
        gpu_model=node.gpu_model,
        gpus=_or_zero(node.gpus),
        cpu_cores=_or_zero(node.cpu_cores),
        memory_bytes=_or_zero(node.memory_bytes),
        ready=node.ready is not False,
        unschedulable=node.unschedulable is True,
        labels=labels,
    )


def _or_zero(value: Value) -> float:
    """A node of whose size nothing is told has no part of that price."""
    return 0.0 if isinstance(value, Unknown) else value


def _only_exported(history: FleetHistory, known: Mapping[str, PricedNode]) -> dict[str, tuple[str, float, BoolArray]]:
    """Return (model, GPUs, when) of nodes that only GPU metrics know; a sliced GPU counts once."""
    found: dict[str, tuple[str, set[str], BoolArray]] = {}
    for gpu in history.gpus:
        if gpu.node in known:
            continue
        model, uuids, present = found.get(gpu.node, (gpu.model, set(), np.zeros(len(history.times), dtype=np.bool_)))
        found[gpu.node] = (model or gpu.model, uuids | {gpu.uuid}, present | gpu.present)
    return {name: (model, float(len(uuids)), present) for name, (model, uuids, present) in found.items()}


def _reserved(nodes: Mapping[str, PricedNode], given: Mapping[str, float]) -> dict[str, float]:
    """Spread reservations over the models that they name: those of any kind go to the most frequent ones."""
    counts: dict[str, float] = {}
    for node in nodes.values():
        counts[node.gpu] = counts.get(node.gpu, 0.0) + node.gpus
    left = dict(counts)
    found: dict[str, float] = {}
    for name, said in sorted(given.items(), key=lambda one: -len(one[0])):
        wanted, number = squash(name), said
        for gpu in sorted(counts, key=lambda one: (-counts[one], one)):
            if number <= 0.0:
                break
            if wanted and wanted not in squash(gpu):
                continue
            taken = min(number, left[gpu])
            found[gpu] = found.get(gpu, 0.0) + taken
            left[gpu] -= taken
            number -= taken
    return found
