"""Which source's price counts for which node: the first in the order of precedence that has one, and no mixture.

The order is `PriceSource`'s. A source that is configured and fails makes the prices below it unusable for the nodes
that nobody above prices: falling through would show other people's prices as if they were the user's. A currency other
than the object's is never converted. A list price is a price on demand: for a spot node it needs a factor. GPUs have no
default price; OpenCost's 0.95 an hour is off by a factor of ten for the GPUs that serve language models.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from optiinfra.domain import list_prices
from optiinfra.domain.list_prices import list_price
from optiinfra.domain.node_market import Market, market_of
from optiinfra.domain.price_split import UNSAID, Capacity, Parts, UnitPrices, split
from optiinfra.domain.price_table import Described, PriceTable
from optiinfra.domain.prices import MOST_HOUR, NO_TERMS, NodePrice, Origin, PriceFault, PriceSource, Terms
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.scaler.variant import CapacityType
from optiinfra.domain.workload import NodeFacts

_REMEDY: Final = "set prices of its pool, or add it to the table of node prices"
_DEVICES: Final = "nvidia.com/gpu.count"
_MOST_DEVICES: Final = 64


@dataclass(frozen=True, slots=True)
class LiveNode:
    """What a cost system says of one node; a price that it does not say is None."""

    hour: float
    """The whole node, with spot and negotiated prices in it."""
    units: UnitPrices = UNSAID


@dataclass(frozen=True, slots=True)
class LivePrices:
    """One answer of OpenCost, or of a server that has its metrics."""

    source: PriceSource
    detail: str
    currency: str
    as_of: str
    nodes: Mapping[str, LiveNode | Unknown]
    """By node name."""


@dataclass(frozen=True, slots=True)
class PoolPrices:
    """What the object says of one pool; a price that it does not say is None."""

    units: UnitPrices = UNSAID
    where: str = ""
    """The field, for people: "spec.pools[h100].prices"."""
    terms: Terms = NO_TERMS


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Every source of prices."""

    currency: str = list_prices.CURRENCY
    pools: Mapping[str, PoolPrices] = field(default_factory=dict)
    """By pool name; "" for nodes of no pool and for pools that are not listed."""
    table: PriceTable | Unknown | None = None
    """The table of node prices; None where none is configured."""
    live: tuple[LivePrices | Unknown, ...] = ()
    """OpenCost's and Prometheus' answers, in the order of precedence; only those that are configured."""
    list_prices: bool = True
    """Whether the shipped list prices may be used."""

    def pool(self, name: str) -> PoolPrices:
        """Return what the object says of a pool."""
        return self.pools.get(name) or self.pools.get("", PoolPrices())


@dataclass(frozen=True, slots=True)
class _Quote:
    """What one source says of one node; either the whole node or parts of it."""

    origin: Origin
    currency: str
    hour: float | None = None
    units: UnitPrices = UNSAID
    final: bool = False
    """Spot, commitments and discounts are in it already."""


@dataclass(frozen=True, slots=True)
class _Refused:
    fault: PriceFault
    reason: UnknownReason
    text: str
    origin: Origin


def price_nodes(nodes: Iterable[NodeFacts], book: PriceBook) -> dict[str, NodePrice]:
    """Return the price of every node, by name."""
    listed = [(node, market_of(node.labels)) for node in nodes]
    firm: dict[str, float] = {}
    for node, market in listed:
        if market.capacity is CapacityType.ON_DEMAND:
            # Commitments are counted in real GPUs, not in what time-slicing or MIG makes of them.
            firm[node.pool] = firm.get(node.pool, 0.0) + (_capacity(node).devices or node.gpus)
    return {node.name: _price(node, market, book, firm_gpus=firm.get(node.pool, 0.0)) for node, market in listed}


def _price(node: NodeFacts, market: Market, book: PriceBook, *, firm_gpus: float) -> NodePrice:
    pool = book.pool(node.pool)
    capacity = _capacity(node)
    quote = _quote(node, market, book, pool)
    if isinstance(quote, _Quote):
        parts = _parts(quote, capacity, market, book, pool)
        if isinstance(parts, Parts):
            return _node_price(node, market, capacity, parts, quote, pool.terms, firm_gpus=firm_gpus)
        quote = parts
    unknown = Unknown(quote.reason, f"node {node.name}: {quote.text}")
    return NodePrice(
        node=node.name,
        hour=unknown,
        marginal_hour=unknown,
        gpu_hour=unknown,
        cpu_core_hour=unknown,
        memory_gib_hour=unknown,
        origin=quote.origin,
        currency=book.currency,
        capacity=market.capacity,
        fault=quote.fault,
        gpus=node.gpus,
        cpu_cores=node.cpu_cores,
    )


def _node_price(
    node: NodeFacts,
    market: Market,
    capacity: Capacity,
    parts: Parts,
    quote: _Quote,
    terms: Terms,
    *,
    firm_gpus: float,
) -> NodePrice:
    """Apply what the pool has committed to. What OpenCost says has its discounts in it."""
    kind = market.capacity
    share = {CapacityType.SPOT: 0.0, CapacityType.RESERVED: 1.0}.get(kind, terms.share(gpus=firm_gpus))
    mean = 1.0 if quote.final else 1.0 - share * (1.0 - terms.committed_factor)
    whole = parts.total(capacity)
    none = Unknown(UnknownReason.UNSUPPORTED, f"node {node.name} has no GPU")
    return NodePrice(
        node=node.name,
        hour=whole * mean,
        marginal_hour=0.0 if kind is CapacityType.RESERVED else whole,
        gpu_hour=parts.gpu * mean if node.gpus > 0.0 else none,
        cpu_core_hour=parts.cpu_core * mean,
        memory_gib_hour=parts.memory_gib * mean,
        origin=quote.origin,
        currency=quote.currency,
        capacity=kind,
        committed_share=share,
        gpus=node.gpus,
        cpu_cores=node.cpu_cores,
    )


def _capacity(node: NodeFacts) -> Capacity:
    written = node.labels.get(_DEVICES, "")
    devices = float(written) if written.isascii() and written.isdigit() and len(written) < 4 else 0.0
    return Capacity(
        gpus=node.gpus,
        gpu_model=node.gpu_model,
        cpu_cores=node.cpu_cores,
        memory_bytes=node.memory_bytes,
        devices=devices if 0.0 < devices <= _MOST_DEVICES else 0.0,
    )


def _quote(node: NodeFacts, market: Market, book: PriceBook, pool: PoolPrices) -> _Quote | _Refused:
    """Ask the sources in their order; the first that knows the node, or that should and fails, has the word."""
    # An object's price of the dearest part decides for the node; without it, it only takes part in the split.
    units = pool.units
    own = units.gpu is not None if node.gpus > 0.0 else units.cpu_core is not None or units.memory_gib is not None
    if own:
        return _Quote(Origin(PriceSource.OBJECT, pool.where), book.currency, units=units)
    found = _from_table(node, market, book)
    for live in book.live:
        found = found or _from_live(node, live)
    found = found or (_from_list(market) if book.list_prices else None)
    if found is not None:
        return found
    if node.gpus <= 0.0:
        return _default(market, pool.terms)
    what = market.instance_type or node.gpu_model or "its GPUs"
    text = f"nobody says what {what} costs: {_REMEDY}"
    if book.list_prices and market.instance_type and list_prices.is_listed(market.instance_type):
        text = f"there is no list price of {what} in region {market.region or '(no label)'}: {_REMEDY}"
    return _Refused(PriceFault.MISSING, UnknownReason.NOT_CONFIGURED, text, Origin(PriceSource.DEFAULT))


def _from_table(node: NodeFacts, market: Market, book: PriceBook) -> _Quote | _Refused | None:
    if book.table is None:
        return None
    origin = Origin(PriceSource.CONFIG_MAP)
    if isinstance(book.table, Unknown):
        return _Refused(PriceFault.SOURCE, book.table.reason, book.table.detail, origin)
    row = book.table.row_for(Described(node.name, node.pool, node.gpu_model, node.labels, market))
    if row is None:
        return None
    return _Quote(
        origin=Origin(PriceSource.CONFIG_MAP, f"{book.table.name}, row {row.number}", row.as_of),
        currency=row.currency,
        hour=row.node_hour,
        units=UnitPrices(row.gpu_hour, row.cpu_core_hour, row.memory_gib_hour),
        final=row.names_capacity,
    )


def _from_live(node: NodeFacts, live: LivePrices | Unknown) -> _Quote | _Refused | None:
    if isinstance(live, Unknown):
        return _Refused(PriceFault.SOURCE, live.reason, live.detail, Origin(PriceSource.OPENCOST))
    known = live.nodes.get(node.name)
    if known is None:
        return None
    origin = Origin(live.source, live.detail, live.as_of)
    if isinstance(known, Unknown):
        return _Refused(PriceFault.INVALID, known.reason, known.detail, origin)
    return _Quote(origin, live.currency, hour=known.hour, units=known.units, final=True)


def _from_list(market: Market) -> _Quote | None:
    row = list_price(market.instance_type, market.region)
    if row is None:
        return None
    where = f"{row.cloud} {row.region} {row.instance_type}, on demand"
    return _Quote(Origin(PriceSource.LIST_PRICE, where, row.as_of), list_prices.CURRENCY, hour=row.hour)


def _default(market: Market, terms: Terms) -> _Quote:
    """Return OpenCost's defaults, for nodes without GPUs alone; those of spot where nobody gives a factor."""
    spot = market.capacity is CapacityType.SPOT and terms.spot_factor is None
    units = (
        UnitPrices(None, list_prices.OPENCOST_SPOT_CPU_CORE_HOUR, list_prices.OPENCOST_SPOT_MEMORY_GIB_HOUR)
        if spot
        else UnitPrices(None, list_prices.OPENCOST_CPU_CORE_HOUR, list_prices.OPENCOST_MEMORY_GIB_HOUR)
    )
    origin = Origin(PriceSource.DEFAULT, "OpenCost's CPU and memory", list_prices.OPENCOST_AS_OF)
    return _Quote(origin, list_prices.CURRENCY, units=units, final=spot)


def _parts(quote: _Quote, capacity: Capacity, market: Market, book: PriceBook, pool: PoolPrices) -> Parts | _Refused:
    """Check a quote, bring it to the node's capacity type, and cut it into parts."""
    origin = quote.origin
    if quote.currency != book.currency:
        text = (
            f"its price is in {quote.currency} ({origin}) and the object's currency is {book.currency}: give prices in "
            f"{book.currency}; nothing is converted"
        )
        return _Refused(PriceFault.CURRENCY, UnknownReason.INVALID, text, origin)
    written = [price for price in (quote.hour, quote.units.gpu, quote.units.cpu_core, quote.units.memory_gib) if price]
    if not written or not all(0.0 < price <= MOST_HOUR for price in written) or _has_zero(quote):
        text = f"a price of zero, below it or above {MOST_HOUR:g} ({origin}): give what it costs, or leave it out"
        return _Refused(PriceFault.INVALID, UnknownReason.INVALID, text, origin)
    factor = 1.0
    if market.capacity is CapacityType.SPOT and not quote.final:
        if pool.terms.spot_factor is None and origin.source is PriceSource.LIST_PRICE:
            text = f"it is spot and the list price is on demand: set prices.spotFactor of its pool, or {_REMEDY}"
            return _Refused(PriceFault.MISSING, UnknownReason.NOT_CONFIGURED, text, origin)
        factor = pool.terms.spot_factor or 1.0
    parts = _cut(quote, capacity, book, pool)
    if isinstance(parts, Unknown):
        return _Refused(PriceFault.INVALID, parts.reason, f"{parts.detail} ({origin})", origin)
    if isinstance(parts, _Refused):
        return parts
    return replace(
        parts, gpu=parts.gpu * factor, cpu_core=parts.cpu_core * factor, memory_gib=parts.memory_gib * factor
    )


def _has_zero(quote: _Quote) -> bool:
    return any(price == 0.0 for price in (quote.hour, quote.units.gpu, quote.units.cpu_core, quote.units.memory_gib))


def _cut(quote: _Quote, capacity: Capacity, book: PriceBook, pool: PoolPrices) -> Parts | Unknown | _Refused:
    units = _per_offered(quote.units, capacity)
    if quote.hour is not None:
        return _cut_whole(quote, units, capacity, pool)
    # What a source leaves out of its parts is OpenCost's default, where that is in the object's currency.
    core, gib = units.cpu_core, units.memory_gib
    if core is None or gib is None:
        if book.currency != list_prices.CURRENCY:
            text = (
                f"CPU and memory have default prices in {list_prices.CURRENCY} only: set prices.cpuCoreHour and "
                f"prices.memoryGiBHour in {book.currency}"
            )
            return _Refused(PriceFault.CURRENCY, UnknownReason.INVALID, text, quote.origin)
        core = list_prices.OPENCOST_CPU_CORE_HOUR if core is None else core
        gib = list_prices.OPENCOST_MEMORY_GIB_HOUR if gib is None else gib
    if units.gpu is None and capacity.gpus > 0.0:
        return Unknown(UnknownReason.NOT_CONFIGURED, "CPU and memory have a price, its GPUs have none")
    return Parts(units.gpu or 0.0, core, gib)


def _cut_whole(quote: _Quote, units: UnitPrices, capacity: Capacity, pool: PoolPrices) -> Parts | Unknown:
    """Cut a node's price by the source's own parts, where they come to the whole, else by weights."""
    assert quote.hour is not None
    told = (units.gpu if capacity.gpus > 0.0 else 0.0, units.cpu_core, units.memory_gib)
    if quote.final and None not in told:
        parts = Parts(units.gpu or 0.0, units.cpu_core or 0.0, units.memory_gib or 0.0)
        total = parts.total(capacity)
        # The system counts what the machine has, the kubelet what pods may have: a little more or less is the same.
        if total > 0.0 and abs(total / quote.hour - 1.0) <= 0.1:
            scale = quote.hour / total
            return Parts(parts.gpu * scale, parts.cpu_core * scale, parts.memory_gib * scale)
    given = UnitPrices(None, pool.units.cpu_core, pool.units.memory_gib) if capacity.gpus > 0.0 else UNSAID
    return split(quote.hour, capacity, given)


def _per_offered(units: UnitPrices, capacity: Capacity) -> UnitPrices:
    """Bring the price of a GPU to what pods ask for: a tenth of it where ten share one."""
    if units.gpu is None or capacity.offered_per_device == 1.0:
        return units
    return replace(units, gpu=units.gpu / capacity.offered_per_device)
