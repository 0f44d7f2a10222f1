"""A HorizontalPodAutoscaler of the API as facts: limits, state, who owns its minimum.

Read-only: of behaviour only how fast it scales up, and of metrics only what a request means to them, with the entry as
it is written for a patch that people apply; nothing of either is ever written back. An HPA that belongs to another
controller (KEDA's ScaledObject, a KServe service) says so in `controller_owner`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from optiinfra.cluster.client import FIELD_MANAGER
from optiinfra.cluster.document import JsonObject, Key, integer, integer_or_none, key_of, mapping, objects, text
from optiinfra.cluster.pods import controller_of
from optiinfra.cluster.quantities import quantity_in
from optiinfra.domain.scale_up_rules import USUAL_RULES, RateKind, RatePolicy, ScaleUpRules, Select
from optiinfra.domain.units import Seconds
from optiinfra.domain.workload import ScalerFacts, ScalerMetric

GROUP = "optiinfra.io"
HELD_LABEL = "optiinfra.io/held"
ORIGINAL_ANNOTATION = "optiinfra.io/original"
RELEASE_STEP_ANNOTATION = "optiinfra.io/release-step"
"""Replicas by which the floor goes back at a time, so that it does so too when its object is gone; 0: at once."""
OUR_MANAGER = (FIELD_MANAGER, "Apply")
BEFORE_FIRST_APPLY = ("before-first-apply", "Update")
DEFAULT_TOLERANCE = 0.1
"""What the HPA controller uses when behavior has no tolerance, or the server is too old to know it."""
METRIC_LIMIT: Final = 2048
"""Bytes of one metric as written; a longer one (selectors are free text) is left out of a patch, which then says so."""
_MOST_METRICS: Final = 32
_MOST_POLICIES: Final = 32
_RATE_KINDS: Final = frozenset(str(kind) for kind in RateKind)
_SELECTS: Final = frozenset(str(select) for select in Select)
DEFAULT_MINIMUM = 1
"""What the API server uses when minReplicas is absent."""


@dataclass(frozen=True, slots=True)
class ScalerRecord:
    """A scaler's facts, and which workload it drives."""

    key: Key
    facts: ScalerFacts
    target_kind: str
    target_name: str


def hpa_path(namespace: str, name: str = "") -> str:
    """Return the path of one HPA, or of a namespace's, or of all."""
    base = "/apis/autoscaling/v2"
    collection = (
        f"{base}/namespaces/{namespace}/horizontalpodautoscalers" if namespace else f"{base}/horizontalpodautoscalers"
    )
    return f"{collection}/{name}" if name else collection


def parse_scaler(document: JsonObject) -> ScalerRecord:
    """Parse an autoscaling/v2 HorizontalPodAutoscaler."""
    key = key_of(document)
    active, reason = _scaling_active(document)
    owner = _foreign_controller(document)
    labels = mapping(document, "metadata", "labels")
    minimum = integer_or_none(document, "spec", "minReplicas")
    managers = field_managers(document, "spec", "minReplicas")
    facts = ScalerFacts(
        name=key.name,
        uid=text(document, "metadata", "uid"),
        resource_version=text(document, "metadata", "resourceVersion"),
        min_replicas=DEFAULT_MINIMUM if minimum is None else minimum,
        max_replicas=integer(document, "spec", "maxReplicas"),
        current_replicas=integer(document, "status", "currentReplicas"),
        desired_replicas=integer(document, "status", "desiredReplicas"),
        scaling_active=active,
        scaling_active_reason=reason,
        owned_by_us=owned_by_us(document),
        controller_owner=owner,
        min_replicas_managers=managers,
        # A tool may take the label off and leave the floor; what is ours alone is held all the same.
        held=HELD_LABEL in labels or (managers == (OUR_MANAGER,) and not owned_by_us(document)),
        original_min_replicas=_count(document, ORIGINAL_ANNOTATION),
        tolerance_up=_tolerance(document, "scaleUp"),
        tolerance_down=_tolerance(document, "scaleDown"),
        metrics=tuple(_metric(entry) for entry in objects(document, "spec", "metrics")[:_MOST_METRICS]),
        scale_up=_scale_up(document),
        release_step=_count(document, RELEASE_STEP_ANNOTATION),
        floor_lost=HELD_LABEL in labels and any(manager != OUR_MANAGER for manager in managers),
    )
    return ScalerRecord(
        key,
        facts,
        target_kind=text(document, "spec", "scaleTargetRef", "kind"),
        target_name=text(document, "spec", "scaleTargetRef", "name"),
    )


def _scaling_active(document: JsonObject) -> tuple[bool | None, str]:
    for condition in objects(document, "status", "conditions"):
        if text(condition, "type") == "ScalingActive":
            status = text(condition, "status")
            return {"True": True, "False": False}.get(status), text(condition, "reason")
    return None, ""


def _metric(entry: JsonObject) -> ScalerMetric:
    kind = text(entry, "type")
    source = {"Resource": "resource", "ContainerResource": "containerResource"}.get(kind, "")
    written = orjson.dumps(entry)
    return ScalerMetric(
        type=kind,
        resource=text(entry, source, "name") if source else "",
        container=text(entry, source, "container") if source else "",
        utilization=integer_or_none(entry, source, "target", "averageUtilization") if source else None,
        written=written.decode() if len(written) <= METRIC_LIMIT else "",
    )


def _tolerance(document: JsonObject, direction: str) -> float:
    # A quantity ("0", "50m"); the API server has refused anything else. The cluster's default may be set otherwise by
    # a flag that nobody can read.
    written = quantity_in(mapping(document, "spec", "behavior", direction), "tolerance")
    return DEFAULT_TOLERANCE if written is None else written


def owned_by_us(document: Mapping[str, Any]) -> bool:
    """Tell whether one of our objects controls this one."""
    return any(
        text(owner, "apiVersion").startswith(f"{GROUP}/") and owner.get("controller") is True
        for owner in objects(document, "metadata", "ownerReferences")
    )


def _foreign_controller(document: JsonObject) -> str:
    kind, name = controller_of(document)
    return f"{kind}/{name}" if kind and not owned_by_us(document) else ""


def _scale_up(document: JsonObject) -> ScaleUpRules:
    """Read behavior.scaleUp; what it leaves out is as Kubernetes has it, even where a server does not fill it in."""
    written = mapping(document, "spec", "behavior", "scaleUp")
    usual = USUAL_RULES
    policies = tuple(
        RatePolicy(RateKind(kind), integer(entry, "value"), Seconds(float(integer(entry, "periodSeconds"))))
        for entry in objects(written, "policies")[:_MOST_POLICIES]
        if (kind := text(entry, "type")) in _RATE_KINDS
    )
    select = text(written, "selectPolicy")
    return ScaleUpRules(
        policies=policies or usual.policies,
        select=Select(select) if select in _SELECTS else usual.select,
        stabilization=Seconds(float(integer_or_none(written, "stabilizationWindowSeconds") or 0)),
    )


def _count(document: JsonObject, annotation: str) -> int | None:
    written = mapping(document, "metadata", "annotations").get(annotation)
    return (
        int(written)
        if isinstance(written, str) and written.isascii() and written.isdigit() and len(written) < 10
        else None
    )


def field_managers(document: Mapping[str, Any], *path: str) -> tuple[tuple[str, str], ...]:
    """Return (manager, operation) of everybody whose managedFields entry holds the field; subresources excluded.

    An object without any entry (they were wiped) belongs to `before-first-apply`: the server makes that manager the
    owner of every field when it is next applied to.
    """
    entries = [entry for entry in objects(document, "metadata", "managedFields") if entry]
    if not entries:
        return (BEFORE_FIRST_APPLY,)
    found: list[tuple[str, str]] = []
    for entry in entries:
        if text(entry, "subresource"):
            continue
        owned: Any = entry.get("fieldsV1")
        for step in path:
            owned = owned.get(f"f:{step}") if isinstance(owned, Mapping) else None
        if owned is not None:
            found.append((text(entry, "manager"), text(entry, "operation")))
    return tuple(found)
