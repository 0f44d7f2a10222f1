"""A pod of the API as facts: what it asks for, whether it is ready, and what forbids moving it.

Requests are counted as the scheduler counts them (init containers, restartable sidecars, overhead, pod-level
resources). Environment variables pass only by an allow-list of engine settings, and never when the name smells of a
secret; of a JVM's options only those of its memory pass. GPUs claimed through resource claims (DRA) are not visible in
a pod and count as none here; `resource_slices` adds them.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from optiinfra.cluster.document import (
    JsonObject,
    Key,
    flag,
    integer,
    key_of,
    mapping,
    objects,
    text,
    texts,
    time_of,
)
from optiinfra.cluster.pod_moments import with_moments
from optiinfra.cluster.pod_moving import with_moving
from optiinfra.cluster.quantities import gpu_resources_in, gpus_in, quantity_in, value_in
from optiinfra.domain.surroundings_agents import ID_DIGITS
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import ContainerFacts, MemoryKill, Place, PodFacts

ARGUMENT_LIMIT = 512
ARGUMENT_LENGTH_LIMIT = 4096
_ENVIRONMENT = re.compile(
    r"(?:VLLM_|SGLANG_|SGL_|LMCACHE_|NIM_|TRTLLM_|TRITON_)\w+"
    r"|MODEL_ID|HF_MODEL_ID|QUANTIZE|DTYPE|KV_CACHE_DTYPE|NUM_SHARD|SHARDED|CUDA_MEMORY_FRACTION|PREFIX_CACHING"
    r"|MAX_(?:CONCURRENT_REQUESTS|INPUT_TOKENS|INPUT_LENGTH|TOTAL_TOKENS|BATCH_SIZE|BATCH_TOTAL_TOKENS"
    r"|BATCH_PREFILL_TOKENS|WAITING_TOKENS|CLIENT_BATCH_SIZE)|WAITING_SERVED_RATIO"
)
_JVM_OPTIONS = re.compile(
    r"_?JAVA_(?:TOOL_)?OPTIONS|JDK_JAVA_OPTIONS|JAVA_OPTS|JVM_OPTS|CATALINA_OPTS|(?:KAFKA_)?HEAP_OPTS"
    r"|ES_JAVA_OPTS|JAVA_OPTS_APPEND"
)
_JVM_MEMORY = re.compile(
    r"(?<!\S)-(?:X(?:ms|mx|ss)\d+[kKmMgGtT]?|XX:(?:Max|Initial|Min)RAMPercentage=[\d.]+|XX:MaxRAM=\d+[kKmMgG]?"
    r"|XX:(?:MaxHeapSize|MaxMetaspaceSize|MaxDirectMemorySize|ReservedCodeCacheSize)=\d+[kKmMgG]?)(?!\S)"
)
"""Options of a JVM may hold passwords (-Djavax.net.ssl.keyStorePassword): only those of its memory pass."""
_IMAGE_LENGTH_LIMIT = 256
_VERTICALLY_SCALED = "vpaUpdates"
_SECRET = re.compile(r"TOKEN\Z|KEY|SECRET|PASSWORD|CREDENTIAL|AUTH")


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod's facts, and what is needed to find and to join it."""

    key: Key
    facts: PodFacts
    """Without what its volumes demand of a node: that depends on other objects."""
    labels: Mapping[str, str]
    controller: tuple[str, str]
    """Kind and name of the controlling owner; two empty strings when there is none."""


def parse_pod(document: JsonObject) -> PodRecord:
    """Parse a v1 Pod."""
    key = key_of(document)
    spec = mapping(document, "spec")
    status = mapping(document, "status")
    containers = objects(spec, "containers")
    ready, became_ready = _readiness(status)
    controller = controller_of(document)
    facts = PodFacts(
        name=key.name,
        uid=text(document, "metadata", "uid"),
        ip=text(status, "podIP"),
        node=sys.intern(text(spec, "nodeName")),
        phase=sys.intern(text(status, "phase") or "Pending"),
        ready=ready,
        terminating=bool(text(document, "metadata", "deletionTimestamp")),
        created=time_of(document, "metadata", "creationTimestamp") or UnixTime(0.0),
        became_ready=became_ready,
        gpus=_effective(spec, gpus_in),
        containers=tuple(_container(container) for container in containers),
        restarts=sum(integer(entry, "restartCount") for entry in objects(status, "containerStatuses")),
        cpu_request_cores=_effective(spec, lambda resources: quantity_in(resources, "cpu") or 0.0),
        memory_request_bytes=_effective(spec, lambda resources: quantity_in(resources, "memory") or 0.0),
        namespace=key.namespace,
    )
    facts = with_moving(
        facts,
        document,
        owner=controller,
        measure=lambda part, name: _effective(part, lambda resources: quantity_in(resources, name) or 0.0),
    )
    # Pods that belong to their nodes are most of a fleet's, and nobody asks how long they took to start.
    if "DaemonSet" not in facts.blockers:
        facts = with_moments(_with_sizes(facts, document, spec, status), document)
    return PodRecord(key, facts, facts.labels, controller)


def controller_of(document: Mapping[str, Any]) -> tuple[str, str]:
    """Return kind and name of the owner that controls an object, or two empty strings."""
    for owner in objects(document, "metadata", "ownerReferences"):
        if flag(owner, "controller"):
            return sys.intern(text(owner, "kind")), sys.intern(text(owner, "name"))
    return "", ""


def _readiness(status: JsonObject) -> tuple[bool, UnixTime | None]:
    for condition in objects(status, "conditions"):
        if text(condition, "type") == "Ready" and text(condition, "status") == "True":
            return True, time_of(condition, "lastTransitionTime")
    return False, None


def _with_sizes(facts: PodFacts, document: JsonObject, spec: JsonObject, status: JsonObject) -> PodFacts:
    """Add what right-sizing asks of a pod besides its containers."""
    pod_level = mapping(spec, "resources")
    limits = {one.name: one.memory_limit_bytes for one in facts.containers}
    first = tuple(
        _container(one, Place.SIDECAR if text(one, "restartPolicy") == "Always" else Place.INIT)
        for one in objects(spec, "initContainers")
    )
    limits |= {one.name: one.memory_limit_bytes for one in first}
    kills = [
        MemoryKill(sys.intern(name), moment, limits[name])
        for kind in ("containerStatuses", "initContainerStatuses")
        for entry in objects(status, kind)
        if (name := text(entry, "name")) in limits and (moment := _killed(entry)) is not None
    ]
    return replace(
        facts,
        init_containers=first,
        pod_level=_container({"resources": pod_level}) if pod_level else None,
        memory_kills=tuple(kills),
        container_ids=_container_ids(status),
        vertically_scaled=_VERTICALLY_SCALED in mapping(document, "metadata", "annotations"),
    )


def _container_ids(status: JsonObject) -> tuple[tuple[str, str], ...]:
    """Return (first digits of the id, name) of the containers that run, for the agents know them by nothing else."""
    found = []
    for kind in ("containerStatuses", "initContainerStatuses"):
        for entry in objects(status, kind):
            identifier = text(entry, "containerID").rpartition("//")[2][:ID_DIGITS]
            if identifier:
                found.append((identifier, sys.intern(text(entry, "name"))))
    return tuple(found)


def _killed(status: JsonObject) -> UnixTime | None:
    """Return when a container was killed for memory last; a state that stands goes before the one before it."""
    for state in ("state", "lastState"):
        if text(status, state, "terminated", "reason") == "OOMKilled":
            return time_of(status, state, "terminated", "finishedAt")
    return None


def _container(container: JsonObject, place: Place = Place.MAIN) -> ContainerFacts:
    requests = mapping(container, "resources", "requests")
    limits = mapping(container, "resources", "limits")
    written = [*texts(container, "command"), *texts(container, "args")][:ARGUMENT_LIMIT]
    return ContainerFacts(
        name=sys.intern(text(container, "name")),
        cpu_request_cores=value_in(requests, "cpu", missing="no CPU request"),
        cpu_limit_cores=value_in(limits, "cpu", missing="no CPU limit"),
        memory_request_bytes=value_in(requests, "memory", missing="no memory request"),
        memory_limit_bytes=value_in(limits, "memory", missing="no memory limit"),
        gpus=gpus_in(requests) or gpus_in(limits),
        arguments=tuple(sys.intern(argument[:ARGUMENT_LENGTH_LIMIT]) for argument in written),
        environment=_environment(container),
        place=place,
        image=sys.intern(text(container, "image")[:_IMAGE_LENGTH_LIMIT]),
        gpu_resources=gpu_resources_in(requests) or gpu_resources_in(limits),
    )


def _environment(container: JsonObject) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in objects(container, "env")[:1000]:
        name = text(entry, "name")
        # A variable taken from a Secret or a ConfigMap has no literal value, and is left out.
        if "value" not in entry:
            continue
        if _JVM_OPTIONS.fullmatch(name):
            found[sys.intern(name)] = sys.intern(" ".join(_JVM_MEMORY.findall(text(entry, "value"))))
        elif _ENVIRONMENT.fullmatch(name) and not _SECRET.search(name):
            found[sys.intern(name)] = sys.intern(text(entry, "value")[:ARGUMENT_LENGTH_LIMIT])
    return found


def _requested(container: JsonObject) -> JsonObject:
    # The API server copies limits into missing requests when a pod is created; extended resources have both.
    return {**mapping(container, "resources", "limits"), **mapping(container, "resources", "requests")}


def _effective(spec: JsonObject, measure: Callable[[Mapping[str, Any]], float]) -> float:
    """Count a resource as the scheduler does."""
    pod_level = measure(_requested(spec))
    running = sum(measure(_requested(container)) for container in objects(spec, "containers"))
    sidecars = 0.0
    peak = 0.0
    for container in objects(spec, "initContainers"):
        if text(container, "restartPolicy") == "Always":
            sidecars += measure(_requested(container))
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + measure(_requested(container)))
    # Pod-level requests, where given, replace the sum of the containers'.
    return (pod_level or max(running + sidecars, peak)) + measure(mapping(spec, "overhead"))
