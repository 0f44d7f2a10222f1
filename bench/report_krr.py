"""KRR's queries, sent as KRR sends them, so that what a report costs a server stands beside what is known to kill one.

Its simple strategy asks four questions of every container of every workload: the 95th percentile of CPU, the largest
memory, and the count of points of each, as subqueries over 14 days at 1.25 minutes (which its code writes as `1m`), of
all the pods that the workload ever had, six at a time. Source: robusta-dev/krr, `robusta_krr/strategies/simple.py` and
`core/integrations/prometheus/metrics/{cpu,memory}.py`. KRR itself is not run: it needs an API server to list workloads.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from hack.prometheus.server import Memory, Server, ServerError, Watch
from optiinfra_sim.history_cluster import small_pods
from optiinfra_sim.history_fleet import Fleet

WORKERS: Final = 6
STEP: Final = "1m"
RATE: Final = "2m"
"""KRR's rate window is its step, in which a series that is scraped once a minute has one sample and no rate."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the queries took."""

    queries: int
    of: int
    """That KRR would ask about the whole fleet."""
    failed: int
    seconds: float
    samples: int
    """That the server read for them, by its own statistics."""
    growth: float
    """Of the server's own memory."""
    server_cpu_s: float


@dataclass(frozen=True, slots=True)
class _Object:
    namespace: str
    container: str
    pods: tuple[str, ...]


def ask_like_krr(server: Server, fleet: Fleet, *, before: Memory | None = None, most: int = 0) -> Asked:
    """Ask about every container of every workload of the fleet; `before`: the server's memory at rest.

    `most`: the four questions of so many containers only, spread over all of them; 0: of all.
    """
    duration = f"{round(len(fleet.times) / 60)}h"
    objects = _objects(fleet)
    chosen = objects[:: max(1, -(-len(objects) // most))] if most else objects
    queries = [query for one in chosen for query in _queries(one, duration=duration)]
    began, spent = time.monotonic(), server.cpu_s()
    with Watch(server, before=before) as watch, ThreadPoolExecutor(WORKERS) as pool:
        answers = list(pool.map(lambda query: _samples(server, query, at=float(fleet.times[-1])), queries))
    return Asked(
        queries=len(queries),
        of=4 * len(objects),
        failed=sum(one is None for one in answers),
        seconds=time.monotonic() - began,
        samples=sum(one or 0 for one in answers),
        growth=watch.growth,
        server_cpu_s=server.cpu_s() - spent,
    )


def _objects(fleet: Fleet) -> list[_Object]:
    found = []
    for model in fleet.models:
        pods = tuple(pod.name for pod in fleet.pods if pod.model is model)
        found.append(_Object(model.plan.namespace, model.plan.settings.kind.value, pods))
    smalls = sorted(small_pods(fleet), key=lambda one: (one.cluster, one.namespace, one.owner))
    for (_, namespace, owner), group in groupby(smalls, key=lambda one: (one.cluster, one.namespace, one.owner)):
        found.append(_Object(namespace, owner, tuple(one.name for one in group)))
    return found


def _queries(one: _Object, *, duration: str) -> tuple[str, ...]:
    matchers = f'namespace="{one.namespace}",pod=~"{"|".join(one.pods)}",container="{one.container}"'
    by = "by (container, pod, job)"
    cpu = f"container_cpu_usage_seconds_total{{{matchers}}}"
    memory = f"container_memory_working_set_bytes{{{matchers}}}"
    subquery = f"[{duration}:{STEP}]"
    return (
        f"quantile_over_time(0.95, max(rate({cpu}[{RATE}])) {by} {subquery})",
        f"max_over_time(max({memory}) {by} {subquery})",
        f"count_over_time(max({cpu}) {by} {subquery})",
        f"count_over_time(max({memory}) {by} {subquery})",
    )


def _samples(server: Server, query: str, *, at: float) -> int | None:
    """Return the samples that the server read for a query; None where it refused or broke."""
    try:
        data = server.ask("/api/v1/query", query=query, time=f"{at:.0f}", stats="true")
    except ServerError:
        return None
    told = data.get("stats", {}).get("samples", {})
    return int(told.get("totalQueryableSamples", 0))
