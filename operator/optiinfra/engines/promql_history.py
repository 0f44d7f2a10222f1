"""Queries for the past of many workloads at once: their load, one series a workload, and what their containers used.

Each is built from the engines' alias tables, newest name first, so that it reads what a page would have read. The
server adds pods up by workload, which is cut out of the pod's name, because two weeks have many pods and few workloads;
copies of one series (ranks of an engine, replicas of Prometheus, two monitors) become one before. Work is prompt tokens
and generated tokens, weighted as everywhere. Nothing is asked here.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final

from optiinfra.domain.aggregation import GENERATION_WEIGHT
from optiinfra.domain.readings import Signal
from optiinfra.engines import series
from optiinfra.engines.alias import Alias, Kind, Table

RATE_WINDOW: Final = "5m"
"""Two scrapes fall into it at every usual interval."""
WORKLOAD: Final = "workload"
_HASH: Final = "[b-df-hj-np-tv-z0-9]"
_COPIES: Final = ("prometheus", "prometheus_replica", "replica", "job", "instance", "endpoint", "service", "receive")
"""Labels in which copies of one series differ."""
_CPU: Final = "container_cpu_usage_seconds_total"
_MEMORY: Final = "container_memory_working_set_bytes"
_REAL: Final = 'container!="",container!="POD"'


class PastSignal(StrEnum):
    """What of a workload's load is asked for."""

    RUNNING = "running"
    WAITING = "waiting"
    SERVED = "served"
    """Work per second."""
    FINISHED = "finished"
    """Requests per second."""
    KV_CACHE = "kv_cache"
    """Mean share over pods."""
    READY = "ready"
    """Pods whose engine answered."""


class StartMoment(StrEnum):
    """What kube-state-metrics tells of a pod's start."""

    CREATED = "created"
    SCHEDULED = "scheduled"
    READY = "ready"
    RESTARTS = "restarts"
    """Not a moment: how often its containers began anew."""


def witness_query(matchers: str) -> str:
    """Return a query that tells which engines' names there are, by `__name__`."""
    return f"count by ({series.NAME}) ({series.selector(series.witnesses(), matchers=matchers)})"


def load_queries(
    tables: Sequence[Table], names: Iterable[str], *, matchers: str, namespace: str, pod: str
) -> Mapping[PastSignal, str]:
    """Return one query a signal, whose series have the labels `namespace` and `workload`.

    Args:
        tables: of the engines that are there.
        names: of the workloads, of all namespaces together.
        matchers: for every selector.
        namespace: label of the pod's namespace.
        pod: label of the pod's name.
    """
    known = "|".join(sorted(set(names), key=lambda name: (-len(name), name))).replace(".", "[.]")
    pattern = f"({known})-({_HASH}{{1,10}}-{_HASH}{{5}}|[0-9]+(-[0-9]+)?)"

    def by_workload(how: str, expression: str) -> str:
        cut = f'label_replace({expression}, "{WORKLOAD}", "$1", "{pod}", "{pattern}")'
        return f"{how} by ({namespace}, {WORKLOAD}) ({cut})"

    def now(signal: Signal) -> str:
        return _either(_copies_once(table, one) for table in tables for one in _selectors(table, signal, matchers))

    def rate(signal: Signal) -> str:
        found = ((table, one) for table in tables for one in _selectors(table, signal, matchers))
        return _either(_copies_once(table, f"rate({one}[{RATE_WINDOW}])") for table, one in found)

    expressions = {
        PastSignal.RUNNING: ("sum", now(Signal.REQUESTS_RUNNING)),
        PastSignal.WAITING: ("sum", now(Signal.REQUESTS_WAITING)),
        PastSignal.FINISHED: ("sum", rate(Signal.REQUESTS_FINISHED)),
        PastSignal.KV_CACHE: ("avg", now(Signal.KV_CACHE_USAGE)),
    }
    queries = {signal: by_workload(how, text) for signal, (how, text) in expressions.items() if text}
    prompt, generated = rate(Signal.PROMPT_TOKENS), rate(Signal.GENERATION_TOKENS)
    if prompt and generated:
        served = f"{by_workload('sum', prompt)} + {GENERATION_WEIGHT:g} * {by_workload('sum', generated)}"
        queries[PastSignal.SERVED] = served
    if running := now(Signal.REQUESTS_RUNNING):
        queries[PastSignal.READY] = by_workload("count", f"count by ({namespace}, {pod}) ({running})")
    return queries


def container_queries(*, matchers: str, step_s: float) -> tuple[str, str]:
    """Return the queries for CPU cores and memory bytes, by namespace, pod and container, over steps of `step_s`."""
    where = ",".join(part for part in (_REAL, matchers) if part)
    by = "max by (namespace, pod, container)"
    window = f"[{step_s:.0f}s]"
    return f"{by} (rate({_CPU}{{{where}}}{window}))", f"{by} (max_over_time({_MEMORY}{{{where}}}{window}))"


def start_queries(*, matchers: str, step_s: float) -> Mapping[StartMoment, str]:
    """Return the queries for the moments of pods' starts, Unix seconds, by namespace, pod and uid, over steps.

    Of the moment at which a pod became ready the earliest counts: one that was lost and found again is later.
    """
    by = "by (namespace, pod, uid)"
    window = f"[{step_s:.0f}s]"
    return {
        StartMoment.CREATED: f"max {by} (last_over_time(kube_pod_created{{{matchers}}}{window}))",
        StartMoment.SCHEDULED: f"max {by} (last_over_time(kube_pod_status_scheduled_time{{{matchers}}}{window}))",
        StartMoment.READY: f"min {by} (min_over_time(kube_pod_status_ready_time{{{matchers}}}{window}))",
        StartMoment.RESTARTS: (
            f"max {by} (max_over_time(kube_pod_container_status_restarts_total{{{matchers}}}{window}))"
        ),
    }


def _selectors(table: Table, signal: Signal, matchers: str) -> list[str]:
    alias = next((one for one in table.aliases if one.signal is signal), None)
    if alias is not None and alias.kind is not Kind.HISTOGRAM:
        return [_selector(table.full(name), name.only, matchers) for name in alias.names]
    # Engines without a counter count in a histogram.
    of, part = _BY_HISTOGRAM.get(signal, (None, ""))
    histogram: Alias | None = next((one for one in table.aliases if one.signal is of), None)
    if histogram is None or histogram.kind is not Kind.HISTOGRAM:
        return []
    return [_selector(table.full(name) + part, None, matchers) for name in histogram.names]


_BY_HISTOGRAM: Final = {
    Signal.PROMPT_TOKENS: (Signal.REQUEST_PROMPT_TOKENS, "_sum"),
    Signal.GENERATION_TOKENS: (Signal.REQUEST_GENERATION_TOKENS, "_sum"),
    Signal.REQUESTS_FINISHED: (Signal.REQUEST_PROMPT_TOKENS, "_count"),
}


def _selector(name: str, only: tuple[str, frozenset[str]] | None, matchers: str) -> str:
    alone = f'{only[0]}=~"{"|".join(sorted(only[1]))}"' if only is not None else ""
    return f"{name}{{{','.join(part for part in (alone, matchers) if part)}}}"


def _copies_once(table: Table, expression: str) -> str:
    return f"max without ({', '.join(sorted({*_COPIES, *table.ranks}))}) ({expression})"


def _either(expressions: Iterable[str]) -> str:
    listed = list(expressions)
    return listed[0] if len(listed) == 1 else f"({' or '.join(listed)})" if listed else ""
