"""The moments of a pod's start, as its status tells them: scheduled, sandbox, init containers, started, ready.

They are the conditions' transition times and the start of one container, which the API server has anyway: no Event is
read and nothing is asked. The API writes whole seconds, and an older kubelet leaves moments out (the sandbox is
KEP-3085's PodReadyToStartContainers). A condition that says False is no moment, except for PodScheduled: since then
the scheduler has found no room.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from optiinfra.cluster.document import JsonObject, mapping, objects, text, time_of
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import ContainerFacts, PodFacts

_CONDITIONS: Final = frozenset(
    {"PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"},
)
_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
_IMAGE_LENGTH_LIMIT: Final = 512
_WORDS_LIMIT: Final = 256


def with_moments(facts: PodFacts, document: JsonObject) -> PodFacts:
    """Return the facts with what the pod's status says about its start."""
    status = mapping(document, "status")
    conditions = {
        kind: condition
        for condition in objects(status, "conditions")
        if (kind := text(condition, "type")) in _CONDITIONS
    }
    started, image_id = _container_of(status, model_container(facts.containers, document))
    return replace(
        facts,
        scheduled=_since(conditions, "PodScheduled"),
        unschedulable_since=_since(conditions, "PodScheduled", status="False", reason="Unschedulable"),
        unschedulable=_unschedulable(conditions),
        sandbox=_since(conditions, "PodReadyToStartContainers"),
        initialised=_since(conditions, "Initialized"),
        started=started,
        containers_ready=_since(conditions, "ContainersReady"),
        lost_readiness=_lost(_since(conditions, "Ready", status="False"), started=started),
        image_id=image_id,
    )


def _unschedulable(conditions: Mapping[str, JsonObject]) -> str:
    """Return why no node takes the pod, in the scheduler's words; thousands of pods of one fleet share the text."""
    if _since(conditions, "PodScheduled", status="False", reason="Unschedulable") is None:
        return ""
    return sys.intern(text(conditions["PodScheduled"], "message")[:_WORDS_LIMIT])


def model_container(containers: tuple[ContainerFacts, ...], document: JsonObject) -> str:
    """Return the name of the container that serves the model: with GPUs, else kubectl's default, else the first.

    Sidecars that are injected (a mesh's proxy) may stand before it; they have neither.
    """
    on_gpus = next((container.name for container in containers if container.gpus), "")
    default = text(mapping(document, "metadata", "annotations"), _DEFAULT_CONTAINER)
    known = default if any(container.name == default for container in containers) else ""
    return on_gpus or known or (containers[0].name if containers else "")


def _container_of(status: JsonObject, name: str) -> tuple[UnixTime | None, str]:
    for entry in objects(status, "containerStatuses"):
        if text(entry, "name") == name:
            image_id = sys.intern(text(entry, "imageID")[:_IMAGE_LENGTH_LIMIT])
            return time_of(entry, "state", "running", "startedAt"), image_id
    return None, ""


def _since(
    conditions: Mapping[str, JsonObject], kind: str, *, status: str = "True", reason: str = ""
) -> UnixTime | None:
    condition = conditions.get(kind)
    if condition is None or text(condition, "status") != status or (reason and text(condition, "reason") != reason):
        return None
    return time_of(condition, "lastTransitionTime")


def _lost(unready_since: UnixTime | None, *, started: UnixTime | None) -> bool:
    """Tell whether the pod was ready before.

    The kubelet says "not ready" from the first moment on, and a transition time stays until the state changes: one
    that lies after the start of the container means that it was ready in between.
    """
    return unready_since is not None and started is not None and unready_since > started
