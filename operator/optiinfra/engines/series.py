"""What a metrics server keeps of an engine's page: which sample names to ask for, and whose labels are whose.

A server stores a page's samples one series each, all of one scrape with one time, and adds labels of its own to them
(job, instance, pod ...). The samples of one time, without those labels, are the page again: `page.read_series` reads
them by the same tables. An engine's presence shows in one small family first, so that only families of engines that
are there are asked for, each for many pods at once.

It asks nothing itself and refuses to guess: which labels are the server's is told by the series `up` of the same
target, and where there is none by the names that service discoveries use.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Final

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines import lmcache
from optiinfra.engines.alias import Kind, Table
from optiinfra.engines.page import tables
from optiinfra.engines.text import Labels, Part

UP: Final = "up"
"""1 while a target is scraped, 0 when it could not be; its labels are the target's."""
NAME: Final = "__name__"
_EXPORTED: Final = "exported_"
"""What a label of the page is called where the target has one of its name."""
TARGET_LABELS: Final = frozenset(
    {
        "app",
        "cluster",
        "container",
        "endpoint",
        "instance",
        "job",
        "namespace",
        "node",
        "pod",
        "prometheus",
        "prometheus_replica",
        "receive",
        "replica",
        "service",
        "tenant_id",
    }
)
"""What operators of Prometheus, its agents and its long-term stores add, where no `up` tells."""


@cache
def witnesses(kind: EngineKind | None = None) -> tuple[str, ...]:
    """Return the sample names of which an engine always has one: they say that it is there, and when it was read."""
    return tuple(dict.fromkeys(name for table in tables(kind) for name in _witnesses_of(table)))


@cache
def _witnesses_of(table: Table) -> tuple[str, ...]:
    running = [one for one in table.aliases if one.signal is Signal.REQUESTS_RUNNING]
    chosen = running or [one for one in table.aliases if one.kind is not Kind.HISTOGRAM]
    return tuple(table.full(name) for one in chosen for name in one.names)


def seen(names: Collection[str], kind: EngineKind | None = None) -> tuple[Table, ...]:
    """Return the tables of the engines whose witnesses are among the names."""
    return tuple(table for table in tables(kind) if any(name in names for name in _witnesses_of(table)))


@cache
def single_names(table: Table) -> tuple[str, ...]:
    """Return the names of all samples that are no part of a histogram, those of a KV cache beside it included."""
    found: dict[str, None] = {}
    for one in (table, *lmcache.GUESTS):
        found |= dict.fromkeys(name for name, (_, part) in one.wanted.items() if part is Part.VALUE)
    return tuple(found)


@cache
def histogram_names(table: Table) -> tuple[str, ...]:
    """Return the names of its histograms' families; their samples end in _bucket, _sum and _count."""
    found: dict[str, None] = {}
    for one in (table, *lmcache.GUESTS):
        found |= dict.fromkeys(family for family, part in one.wanted.values() if part is Part.BUCKET)
    return tuple(found)


def selector(names: Iterable[str], *, histograms: bool = False, matchers: str) -> str:
    """Return a selector of all series of these names; `matchers` follow the name, and may be empty."""
    either = "|".join(names)
    if histograms:
        either = f"({either})_(bucket|sum|count)"
    return f'{{{NAME}=~"{either}"{"," if matchers else ""}{matchers}}}'


def one_of(label: str, values: Iterable[str]) -> str:
    """Return a matcher for one of these values, which are names of Kubernetes objects."""
    either = "|".join(value.replace(".", "[.]") for value in values)
    return f'{label}=~"{either}"'


def own_labels(labels: Labels, target: Mapping[str, str] | None) -> Labels:
    """Return the page's labels of a series: those that the target does not have, under their names on the page.

    `target` are the labels of its `up`; None where there is none, and the usual names are taken for the target's.
    """
    kept: list[tuple[str, str]] = []
    for name, value in labels:
        if name == NAME or (name in TARGET_LABELS if target is None else target.get(name) == value):
            continue
        own = name.removeprefix(_EXPORTED)
        clashed = own != name and (own in TARGET_LABELS if target is None else own in target)
        kept.append((own if clashed else name, value))
    return tuple(sorted(kept))
