"""The sources of prices, read in the background, and what they say of the nodes of one round.

The table in the ConfigMap is read every minute, OpenCost and Prometheus every ten. No round waits for them. That the
API server does not answer is no news: the table of before still stands. What a cost system said stands for a day while
it does not answer, with its date; prices do not change by the hour, and money that comes and goes with a restart helps
nobody. Everything else that is wrong makes the source's nodes unknown, never another source's.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from optiinfra import metrics
from optiinfra.api.v1alpha1 import Prices
from optiinfra.api.v1alpha1.cluster_resource_optimization import ClusterResourceOptimizationSpec
from optiinfra.domain import list_prices
from optiinfra.domain.cost import PriceList, pool_price_list
from optiinfra.domain.price_resolution import LivePrices, PoolPrices, PriceBook, price_nodes
from optiinfra.domain.price_split import UnitPrices
from optiinfra.domain.price_table import PriceTable
from optiinfra.domain.prices import NodePrice, PriceSource, Terms
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.workload import NodeFacts

_LOG = logging.getLogger(__name__)
TABLE_INTERVAL: Final = 60.0
LIVE_INTERVAL: Final = 600.0
RETRY_INTERVAL: Final = 60.0
KEEP_LIVE: Final = 24 * 3_600.0
_PAUSE: Final = 5.0

Answer = PriceTable | LivePrices | Unknown
ReadTable = Callable[[], Awaitable[PriceTable | Unknown]]
ReadLive = Callable[[], Awaitable[LivePrices | Unknown]]


@dataclass(slots=True)
class _Source:
    """One source and its last words."""

    source: PriceSource
    read: Callable[[], Awaitable[Answer]]
    interval: float
    keep: float
    """How long its prices stand while it does not answer."""
    only_unreachable: bool
    """Whether only silence is forgiven, or every failure."""
    answer: Answer
    due: float = float("-inf")
    good_at: float = float("-inf")
    told: str = ""


@dataclass(frozen=True, slots=True)
class PricedNodes:
    """The prices of one moment."""

    book: PriceBook
    nodes: Mapping[str, NodePrice] = field(default_factory=dict)
    """By node name."""
    pools: Mapping[str, PriceList] = field(default_factory=dict)
    """By pool name; "" for nodes of no pool."""


class PriceBoard:
    """Reads the sources that are configured, and prices nodes by what they said."""

    def __init__(
        self,
        *,
        table: ReadTable | None = None,
        live: Sequence[tuple[PriceSource, ReadLive]] = (),
        list_prices: bool = True,
        clock: Callable[[], float],
    ) -> None:
        """`live` in the order of precedence; `clock` gives monotonic seconds."""
        self.told = asyncio.Event()
        """Every source was asked once."""
        self._clock = clock
        self._list_prices = list_prices
        waiting = Unknown(UnknownReason.NOT_MEASURED, "the source of prices was not read yet")
        self._table = (
            None
            if table is None
            else _Source(
                PriceSource.CONFIG_MAP, table, TABLE_INTERVAL, float("inf"), only_unreachable=True, answer=waiting
            )
        )
        self._live = [
            _Source(source, read, LIVE_INTERVAL, KEEP_LIVE, only_unreachable=False, answer=waiting)
            for source, read in live
        ]
        self._last: tuple[dict[str, tuple[object, ...]], PricedNodes] | None = None
        """What was seen of the nodes, and the prices that it gave."""

    @property
    def configured(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._sources)

    @property
    def _sources(self) -> list[_Source]:
        return [*([self._table] if self._table else []), *self._live]

    async def run(self) -> None:
        """Read for ever; cancel to stop. Returns at once where nothing is configured."""
        while self.configured:
            await self.refresh()
            self.told.set()
            await asyncio.sleep(_PAUSE)

    async def refresh(self) -> None:
        """Read the sources that are due, at the same time."""
        now = self._clock()
        async with asyncio.TaskGroup() as group:
            for one in self._sources:
                if now >= one.due:
                    group.create_task(self._read(one), name=f"read prices {one.source}")

    async def _read(self, one: _Source) -> None:
        answer = await one.read()
        now = self._clock()
        failed = isinstance(answer, Unknown)
        one.due = now + (min(one.interval, RETRY_INTERVAL) if failed else one.interval)
        metrics.PRICE_SOURCE_UP.labels(str(one.source)).set(not failed)
        told = str(answer) if isinstance(answer, Unknown) else ""
        if told != one.told:
            level = logging.WARNING if failed else logging.INFO
            _LOG.log(level, "prices", extra={"source": str(one.source), "answer": told or "read"})
            one.told = told
        if isinstance(answer, Unknown):
            forgiven = answer.reason is UnknownReason.UNREACHABLE or not one.only_unreachable
            if forgiven and not isinstance(one.answer, Unknown) and now - one.good_at < one.keep:
                return
        else:
            one.good_at = now
        if answer != one.answer:
            one.answer = answer

    def _prices(
        self, nodes: Mapping[str, NodeFacts], book: PriceBook, seen: Mapping[str, tuple[object, ...]]
    ) -> dict[str, NodePrice]:
        """Price the nodes, those alone that are new or changed where nothing else is."""
        counted = any(pool.terms.committed_gpus is not None for pool in book.pools.values())
        if self._last is None or counted or self._last[1].book != book:
            return price_nodes(nodes.values(), book)
        before, known = self._last[0], self._last[1].nodes
        same = {name for name, one in seen.items() if before.get(name) == one}
        fresh = price_nodes((node for name, node in nodes.items() if name not in same), book)
        return {name: known[name] if name in same else fresh[name] for name in nodes}

    def book(self, spec: ClusterResourceOptimizationSpec | None) -> PriceBook:
        """Return every source as it stands, with what the object says above them."""
        table = self._table.answer if self._table is not None else None
        return PriceBook(
            currency=list_prices.CURRENCY if spec is None else str(spec.currency),
            pools={} if spec is None else object_prices(spec),
            table=None if isinstance(table, LivePrices) else table,
            live=tuple(one.answer for one in self._live if not isinstance(one.answer, PriceTable)),
            list_prices=self._list_prices,
        )

    def price(self, nodes: Mapping[str, NodeFacts], spec: ClusterResourceOptimizationSpec | None) -> PricedNodes:
        """Price the nodes of a round. The same nodes at the same prices are not worked out twice."""
        book = self.book(spec)
        seen: dict[str, tuple[object, ...]] = {
            name: (node.labels, node.pool, node.gpu_model, node.gpus, node.cpu_cores, node.memory_bytes)
            for name, node in nodes.items()
        }
        if self._last is not None and self._last[1].book == book and self._last[0] == seen:
            return self._last[1]
        prices = self._prices(nodes, book, seen)
        pools = ["", *(pool.name for pool in spec.pools)] if spec is not None else [""]
        by_pool: dict[str, list[NodeFacts]] = {}
        for node in nodes.values():
            by_pool.setdefault(node.pool, []).append(node)
        lists = {pool: pool_price_list(book, pool, by_pool.get(pool, ()), prices) for pool in map(str, pools)}
        priced = PricedNodes(book, prices, lists)
        self._last = (seen, priced)
        sources = Counter("None" if price.fault is not None else str(price.origin.source) for price in prices.values())
        metrics.PRICED_NODES.clear()
        for source, count in sources.items():
            metrics.PRICED_NODES.labels(source).set(count)
        return priced


def object_prices(spec: ClusterResourceOptimizationSpec) -> dict[str, PoolPrices]:
    """Return what the object says of each pool, and ("") of nodes of no pool: the pool's word over the object's."""
    whole = {"": _pool(spec.prices, spec.prices, "spec.prices")}
    return whole | {
        str(pool.name): _pool(pool.prices, spec.prices, f"spec.pools[{pool.name}].prices") for pool in spec.pools
    }


def _pool(own: Prices, above: Prices, where: str) -> PoolPrices:
    gpu = own.gpu_hour if own.gpu_hour is not None else above.gpu_hour
    core = own.cpu_core_hour if own.cpu_core_hour is not None else above.cpu_core_hour
    memory = own.memory_gib_hour if own.memory_gib_hour is not None else above.memory_gib_hour
    return PoolPrices(
        units=UnitPrices(
            gpu=None if gpu is None else float(gpu.money),
            cpu_core=None if core is None else float(core.money),
            memory_gib=None if memory is None else float(memory.money),
        ),
        where=where if own.gpu_hour is not None or own.cpu_core_hour is not None else "spec.prices",
        terms=_terms(own, above),
    )


def _terms(own: Prices, above: Prices) -> Terms:
    spot = own.spot_factor if own.spot_factor is not None else above.spot_factor
    mine, general = own.committed, above.committed
    share = mine.share if mine is not None else None
    gpus = mine.gpus if mine is not None else None
    if share is None and gpus is None and general is not None:
        # A number of GPUs for the whole object says nothing of one pool of several; a share does.
        share, gpus = general.share, general.gpus if own is above else None
    factor = mine.factor if mine is not None and mine.factor is not None else general.factor if general else None
    return Terms(
        spot_factor=None if spot is None else float(spot.ratio),
        committed_share=0.0 if share is None else float(share.ratio),
        committed_gpus=None if gpus is None else float(gpus),
        committed_factor=1.0 if factor is None else float(factor.ratio),
    )
