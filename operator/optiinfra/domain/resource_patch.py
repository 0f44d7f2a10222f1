"""What a changed request is written as: a patch of the workload, and of the HPA whose percentage it would change.

An HPA on utilisation divides use by requests: halve the request and the same target means half the load. So the two
are one change, and one text holds both documents: one id is approved, and nobody applies one half of it. Documents
name their object and can be applied together (`kubectl apply --server-side --force-conflicts -f -`) or one by one
(`kubectl patch --type strategic`). The operator applies neither. Where a document cannot be written (a kind whose
lists do not merge by name, an HPA that another controller owns, a metric too long to repeat), there is no patch at all
rather than half of one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from optiinfra.domain.pod_shape import PodShape, Resource, scaled_request
from optiinfra.domain.readings import Unknown
from optiinfra.domain.workload import Place, ScalerFacts, ScalerMetric

LENGTH_LIMIT: Final = 4096
"""Characters of a patch in a status; a longer one is left out."""
_TEMPLATES: Final = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "DaemonSet": "apps/v1",
}
"""Kinds whose pod template lies at spec.template and whose lists merge by name."""
_LEAST_PERCENT: Final = 1


@dataclass(frozen=True, slots=True)
class WorkloadName:
    """The object whose pod template is patched."""

    kind: str
    name: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class HpaPair:
    """One metric of an HPA, and the percentage that keeps its threshold when the request changes."""

    metric: ScalerMetric
    before: int
    """Percent."""
    after: int
    threshold_before: float
    """Cores or bytes a pod above which the HPA adds pods."""
    threshold_after: float
    """With the new request and percentage; they differ by the rounding to whole percents."""


def pairs_of(
    metrics: Sequence[ScalerMetric],
    *,
    before: PodShape,
    after: PodShape,
    resource: Resource,
    container: str,
) -> tuple[HpaPair, ...] | Unknown:
    """Return the metrics whose meaning a change of one container's request would shift.

    Unknown where such a metric exists and its threshold cannot be computed, because a request is missing.
    """
    found: list[HpaPair] = []
    for metric in metrics:
        if metric.utilization is None or metric.resource != resource or metric.container not in {"", container}:
            continue
        old = scaled_request(before, resource, container=metric.container)
        new = scaled_request(after, resource, container=metric.container)
        if isinstance(old, Unknown):
            return old
        if isinstance(new, Unknown):
            return new
        if old == new or new <= 0.0:
            continue
        threshold = metric.utilization / 100.0 * old
        percent = max(_LEAST_PERCENT, round(100.0 * threshold / new))
        found.append(HpaPair(metric, metric.utilization, percent, threshold, percent / 100.0 * new))
    return tuple(found)


def workload_document(
    workload: WorkloadName, *, container: str, place: Place, resources: Mapping[str, Mapping[str, str]]
) -> str:
    """Return the patch of one container's resources; empty for kinds whose lists a patch would replace.

    `resources` is {"requests": {"cpu": "250m"}, "limits": {...}}; a quantity "" takes the entry away.
    """
    if workload.kind not in _TEMPLATES:
        return ""
    containers = "containers" if place is Place.MAIN else "initContainers"
    lines = [
        *_head(_TEMPLATES[workload.kind], workload),
        "spec:",
        "  template:",
        "    spec:",
        f"      {containers}:",
        f"      - name: {json.dumps(container)}",
        "        resources:",
    ]
    for part, quantities in resources.items():
        if quantities:
            lines.append(f"          {part}:")
            lines += [
                f"            {name}: {json.dumps(quantity) if quantity else 'null'}"
                for name, quantity in quantities.items()
            ]
    return "\n".join(lines) + "\n"


def scaler_document(scaler: ScalerFacts, pairs: Sequence[HpaPair], *, namespace: str) -> str:
    """Return the patch of an HPA's metrics, all of them, because the list is replaced as a whole.

    Empty where the HPA is not its own master, or where a metric is too long to be repeated.
    """
    if scaler.controller_owner or scaler.owned_by_us or not all(metric.written for metric in scaler.metrics):
        return ""
    percents = {id(pair.metric): pair.after for pair in pairs}
    lines = [
        *_head("autoscaling/v2", WorkloadName("HorizontalPodAutoscaler", scaler.name, namespace)),
        "spec:",
        "  metrics:",
    ]
    lines += [f"  - {_entry(metric, percents.get(id(metric)))}" for metric in scaler.metrics]
    return "\n".join(lines) + "\n"


def joined(*documents: str) -> str:
    """Join documents into one patch; empty where one of them is missing or all of them are too long."""
    text = "---\n".join(documents)
    return text if all(documents) and len(text) <= LENGTH_LIMIT else ""


def _head(api_version: str, workload: WorkloadName) -> list[str]:
    lines = [
        f"apiVersion: {api_version}",
        f"kind: {workload.kind}",
        "metadata:",
        f"  name: {json.dumps(workload.name)}",
    ]
    return [*lines, f"  namespace: {json.dumps(workload.namespace)}"] if workload.namespace else lines


def _entry(metric: ScalerMetric, percent: int | None) -> str:
    """Repeat a metric as it is written, with another percentage where it has one; JSON is YAML."""
    if percent is None:
        return metric.written
    entry: dict[str, Any] = json.loads(metric.written)
    source = "resource" if metric.type == "Resource" else "containerResource"
    entry[source]["target"]["averageUtilization"] = percent
    return json.dumps(entry, separators=(",", ":"))
