"""Who held which GPU and when: by the exporters' labels, by the agent, or by being the only GPU pod of a node.

An exporter that does not ask the kubelet names no pod; the labels `pod` and `namespace` of its series are then its own,
written there by the scrape. Such a holder is none: pods of a DaemonSet that request no GPU, as far as
kube-state-metrics tells, and those that are called like exporters. Where nobody names a holder, requests still settle
two cases, as on a live node (`domain.gpus`): a workload that requests all GPUs of its node holds them, and the only one
that requests any holds those with filled memory if they are as many. Anything else is not known, which is not nobody.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from optiinfra.domain.gpus import EMPTY_BYTES
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import BoolArray, HolderSource, Holding
from optiinfra.domain.report.joining_found import Found, container_of, namespace_of
from optiinfra.domain.report.joining_frames import Answers, added, present
from optiinfra.domain.report.joining_owners import Owner, Owners

_EXPORTERS: Final = ("dcgm", "gpu-operator", "gpu-exporter", "nvidia-smi", "gpu-metrics", "gpu-feature-discovery")
GpuKey = tuple[str, str]
WholeKey = tuple[str, str]
"""Namespace and workload."""


@dataclass(frozen=True, slots=True)
class Requests:
    """GPUs that workloads requested."""

    by_workload: Mapping[WholeKey, FloatArray]
    by_node: Mapping[str, Mapping[WholeKey, FloatArray]]
    told: bool


@dataclass(slots=True)
class Holders:
    """Who held each GPU."""

    holdings: dict[GpuKey, tuple[Holding, ...]] = field(default_factory=dict)
    sources: dict[GpuKey, HolderSource] = field(default_factory=dict)
    otherwise: HolderSource = HolderSource.NOBODY
    """Of GPUs without a holding."""

    def of(self, key: GpuKey) -> tuple[tuple[Holding, ...], HolderSource]:
        """Return the holdings of a GPU and how they are known."""
        return self.holdings.get(key, ()), self.sources.get(key, self.otherwise)


def requests(answers: Answers, owners: Owners) -> Requests:
    """Read who requested GPUs, over time and where. Pods that wait for a node hold none."""
    placed = any(labels["node"] for labels, _, _ in answers.each("state.gpu_requests"))
    whole: dict[WholeKey, FloatArray] = {}
    nodes: dict[str, dict[WholeKey, FloatArray]] = {}
    for labels, values, _ in answers.each("state.gpu_requests"):
        if placed and not labels["node"]:
            continue
        key = owners.of(labels["namespace"], labels["workload"]).key
        whole[key] = added(whole.get(key, answers.unknown()), values)
        if labels["node"]:
            here = nodes.setdefault(labels["node"], {})
            here[key] = added(here.get(key, answers.unknown()), values)
    return Requests(whole, nodes, told=answers.has("state.gpu_requests"))


def told_holders(
    answers: Answers,
    owners: Owners,
    found: Found,
    wanted: Requests,
    gpu_of: Callable[[Mapping[str, str]], GpuKey | None],
) -> Holders:
    """Read what exporters say; `gpu_of` tells the GPU of a row from its labels."""
    holders = Holders()
    # Where the exporter's namespace stands beside a holder's, it is no holder's where it stands alone.
    own = {labels.get("namespace") for labels, _, _ in answers.each("dcgm.holders") if labels.get("exported_namespace")}
    exported = any(label.startswith("exported_") for label in found.gpus.pod)
    for question, by in (
        ("dcgm.holders", HolderSource.EXPORTED if exported else HolderSource.EXPORTER),
        ("agent.holders", HolderSource.AGENT),
    ):
        rows: dict[GpuKey, dict[tuple[str, str, str], BoolArray]] = {}
        named = False
        for labels, values, _ in answers.each(question):
            owner = owners.of(namespace_of(labels), labels["workload"])
            if not labels["workload"] or _is_exporter(owner, labels["workload"], wanted, question):
                continue
            if labels.get("namespace") in own and not labels.get("exported_namespace"):
                continue
            named = True
            gpu = gpu_of(labels)
            if gpu is None:
                continue
            who = (*owner.key, container_of(labels))
            here = rows.setdefault(gpu, {})
            here[who] = here.get(who, answers.never()) | present(values)
        for gpu, held in rows.items():
            if gpu not in holders.holdings:
                holders.holdings[gpu] = tuple(Holding(*who, when) for who, when in sorted(held.items()))
                holders.sources[gpu] = by
        if named and holders.otherwise is HolderSource.NOBODY:
            holders.otherwise = by
    return holders


def by_requests(
    answers: Answers, wanted: Requests, gpus_of: Mapping[str, Iterable[tuple[GpuKey, FloatArray | None]]]
) -> Holders:
    """Tell from requests who held GPUs; `gpus_of` gives each node's GPUs with the memory used of each."""
    holders = Holders()
    for node, gpus in gpus_of.items():
        listed = list(gpus)
        workloads = wanted.by_node.get(node, {})
        counts = {key: np.nan_to_num(values) for key, values in workloads.items()}
        number = sum((count > 0.0).astype(np.int64) for count in counts.values()) if counts else 0
        filled = _filled(answers, listed)
        for gpu, memory in listed:
            held: list[Holding] = []
            known = answers.never()
            for key, count in sorted(counts.items()):
                alone = (number == 1) & (count > 0.0)
                whole = alone & (count >= len(listed))
                some = alone & ~whole & (filled == count)
                full = np.zeros_like(alone) if memory is None else np.nan_to_num(memory) > EMPTY_BYTES
                mask = whole | (some & full)
                known = known | whole | some
                if mask.any():
                    held.append(Holding(*key, "", mask))
            if held or known.any():
                holders.holdings[gpu] = tuple(held)
                holders.sources[gpu] = HolderSource.NODE
            elif not counts and node:
                holders.sources[gpu] = HolderSource.NODE
    return holders


def with_silent(
    told: Holders, silent: Mapping[str, Sequence[tuple[GpuKey, FloatArray | None]]], settled: Holders | None
) -> Holders:
    """Add the nodes whose exporters never named a holder: what requests settle there, else what memory gives away.

    Elsewhere a GPU without a holder is free. There nobody asked the kubelet, or nothing was held: without requests only
    an empty GPU passes for free.
    """
    for gpus in silent.values():
        for key, memory in gpus:
            if settled is not None:
                told.holdings[key], told.sources[key] = settled.of(key)
            elif memory is not None and bool((np.nan_to_num(memory) > EMPTY_BYTES).any()):
                told.sources[key] = HolderSource.NOBODY
    return told


def _filled(answers: Answers, listed: list[tuple[GpuKey, FloatArray | None]]) -> FloatArray:
    """Return how many GPUs are filled; NaN where the memory of one is not known."""
    total = np.zeros(answers.points)
    for _, memory in listed:
        total = total + (np.nan if memory is None else np.where(np.isnan(memory), np.nan, memory > EMPTY_BYTES))
    return total


def _is_exporter(owner: Owner, stem: str, wanted: Requests, question: str) -> bool:
    if question.startswith("agent."):
        return False
    if any(word in stem for word in _EXPORTERS):
        return True
    return owner.kind == "DaemonSet" and wanted.told and owner.key not in wanted.by_workload
