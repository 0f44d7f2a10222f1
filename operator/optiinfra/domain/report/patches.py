"""Files that carry a proposal out: one each, valid YAML, with the evidence as a comment on top.

Names and values come from labels of a metrics server and are written as JSON strings, which are YAML strings; in
comments every control character is a space. Nothing is written that would replace a list of which only a part is
known: arguments of an engine are appended (both vLLM and SGLang take the last one), and only where the pod has one
container, because which one is the engine's would be a guess.
"""

import json
import re
from collections.abc import Sequence
from typing import Final

from optiinfra.domain.engine_flags import line
from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.manifests import patch as variable_patch
from optiinfra.domain.readings import EngineKind, Unknown
from optiinfra.domain.report.cases import ModelCase
from optiinfra.domain.report.drafts import Draft
from optiinfra.domain.report.history import ModelHistory
from optiinfra.domain.report.report import Replay

_API: Final = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1",
}
"""Kinds whose scale subresource an autoscaler can drive."""
_TEMPLATES: Final = frozenset({"Deployment", "StatefulSet"})
"""Kinds whose pod template lies at spec.template and is patched so."""
_APPENDS: Final = frozenset({EngineKind.VLLM, EngineKind.SGLANG})
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_WIDTH: Final = 116
_LONGEST_WORD: Final = 400


def plain(text: str) -> str:
    """Return text on one line without control characters, for a comment."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def comment(draft: Draft) -> str:
    """Return the evidence as lines of a comment."""
    facts = [
        f"{one.signal} = {_value(one.value)} {one.unit}".rstrip() + f" ({one.statistic}, {one.source})"
        for one in draft.evidence
    ]
    parts = [draft.title, draft.message, *(f"Worse: {one}" for one in draft.worse), f"Risk: {draft.risk}"]
    parts += [f"Verify: {draft.verification}", f"Undo: {draft.undo}", *facts]
    if draft.sources:
        parts.append("Queries: " + ", ".join(draft.sources))
    return "".join(f"# {row}\n" for part in parts if part for row in _wrapped(plain(part)))


def file_name(draft: Draft) -> str:
    """Return a name that is safe in every file system."""
    words = {
        RecommendationType.REPLICAS: "scaling",
        RecommendationType.HPA_TARGET: "autoscaler",
        RecommendationType.RESOURCES: "requests",
        RecommendationType.IDLE_GPU: "idle",
    }
    kind = words.get(draft.type, "engine")
    detail = "" if kind in {"scaling", "autoscaler", "idle"} else f"-{draft.setting}"
    slug = re.sub(r"[^a-z0-9]+", "-", f"{draft.subject}-{kind}{detail}".lower()).strip("-")
    return f"{slug[:120]}.yaml"


def scaling_patch(one: ModelCase, replay: Replay, *, late_share: float, queue_delay_s: float) -> str:
    """Return a ResourceOptimization that runs this project's scaler; it recommends until its mode is changed."""
    model = one.model
    if model.kind not in _API or not _named(model):
        return ""
    return "\n".join(
        [
            "apiVersion: optiinfra.io/v1alpha1",
            "kind: ResourceOptimization",
            *_metadata(model, model.workload),
            "spec:",
            *_target("targetRef", model),
            "  mode: Recommend",
            f"  objectives: {{queueDelay: {queue_delay_s:g}s, lateShare: {json.dumps(f'{late_share:g}')}}}",
            "  scaling:",
            f"    minReplicas: {replay.minimum}",
            f"    maxReplicas: {replay.maximum}",
            f"    startupTime: {replay.start_up_s:g}s",
            "",
        ]
    )


def scaler_patch(one: ModelCase, replay: Replay, *, target: float, query: str, server: str) -> str:
    """Return a ScaledObject on the rate of work, or the HPA's patch where an HPA without KEDA drives the workload."""
    model = one.model
    if model.kind not in _API or not _named(model) or not query:
        return ""
    scaler = model.scaler
    if not isinstance(scaler, Unknown) and not scaler.keda and _NAME.fullmatch(scaler.name):
        return _hpa(model, scaler.name, replay, target=target)
    name = model.workload if isinstance(scaler, Unknown) else scaler.keda or model.workload
    return "\n".join(
        [
            "apiVersion: keda.sh/v1alpha1",
            "kind: ScaledObject",
            *_metadata(model, name),
            "spec:",
            *_target("scaleTargetRef", model),
            f"  minReplicaCount: {replay.minimum}",
            f"  maxReplicaCount: {replay.maximum}",
            "  triggers:",
            "  - type: prometheus",
            "    metricType: AverageValue",
            "    metadata:",
            f"      serverAddress: {json.dumps(server)}",
            f"      query: {json.dumps(query)}",
            f"      threshold: {json.dumps(f'{target:g}')}",
            "",
        ]
    )


def _hpa(model: ModelHistory, name: str, replay: Replay, *, target: float) -> str:
    return "\n".join(
        [
            "# Needs a metrics adapter that serves the external metric optiinfra_work_rate: prompt tokens + 4 x",
            "# generated tokens a second, summed over the workload's pods.",
            "apiVersion: autoscaling/v2",
            "kind: HorizontalPodAutoscaler",
            *_metadata(model, name),
            "spec:",
            *_target("scaleTargetRef", model),
            f"  minReplicas: {replay.minimum}",
            f"  maxReplicas: {replay.maximum}",
            "  metrics:",
            "  - type: External",
            "    external:",
            "      metric:",
            "        name: optiinfra_work_rate",
            f"        selector: {{matchLabels: {{workload: {json.dumps(model.workload[:63])}}}}}",
            f"      target: {{type: AverageValue, averageValue: {json.dumps(_quantity(target))}}}",
            "",
        ]
    )


def silent_patch(one: ModelCase) -> str:
    """Return a patch that sets the replicas to none; empty where an autoscaler would set them again."""
    model = one.model
    if model.kind not in _API or not _named(model) or not isinstance(model.scaler, Unknown):
        return ""
    head = [f"apiVersion: {_API[model.kind]}", f"kind: {model.kind}", *_metadata(model, model.workload)]
    return "\n".join([*head, "spec:", "  replicas: 0", ""])


def engine_patch(one: ModelCase, *, setting: str, value: str) -> str:
    """Return a patch of one engine setting: a variable, or an argument that is appended (kubectl patch --type json)."""
    model = one.model
    engine = one.settings.engine
    if len(model.containers) != 1 or model.kind not in _TEMPLATES or not _named(model) or not value:
        return ""
    container = model.containers[0]
    body = variable_patch(setting, value, container=container)
    if body:
        head = [f"apiVersion: {_API[model.kind]}", f"kind: {model.kind}", *_metadata(model, model.workload), ""]
        return "\n".join(head) + body
    if isinstance(engine, Unknown) or engine not in _APPENDS or not setting.startswith("--"):
        return ""
    where = f"kubectl -n {model.namespace} patch {model.kind.lower()} {model.workload} --type json --patch-file FILE"
    return (
        f"# {where}\n# It needs args in the manifest of container {plain(container)}; the last one of a name counts.\n"
        f"- op: add\n  path: /spec/template/spec/containers/0/args/-\n  value: {json.dumps(line(setting, value))}\n"
    )


def _named(model: ModelHistory) -> bool:
    return bool(_NAME.fullmatch(model.workload)) and bool(_NAME.fullmatch(model.namespace))


def _metadata(model: ModelHistory, name: str) -> list[str]:
    return ["metadata:", f"  name: {json.dumps(name)}", f"  namespace: {json.dumps(model.namespace)}"]


def _target(field: str, model: ModelHistory) -> list[str]:
    return [
        f"  {field}:",
        f"    apiVersion: {_API[model.kind]}",
        f"    kind: {model.kind}",
        f"    name: {json.dumps(model.workload)}",
    ]


def _quantity(value: float) -> str:
    """Return a quantity of the API server's grammar."""
    return f"{value:.0f}" if value >= 100.0 else f"{value * 1000.0:.0f}m"


def _value(value: float | Unknown) -> str:
    return str(value) if isinstance(value, Unknown) else f"{value:.6g}"


def _wrapped(text: str) -> Sequence[str]:
    rows, row = list[str](), ""
    for word in text[: _LONGEST_WORD * 10].split(" "):
        if row and len(row) + 1 + len(word) > _WIDTH:
            rows.append(row)
            row = ""
        row = f"{row} {word}" if row else word
    return [*rows, row] if row else rows
