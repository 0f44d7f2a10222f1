"""Containers of the workloads that serve or hold GPUs: what they request and what the largest of their pods used."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import ContainerHistory, Course
from optiinfra.domain.report.joining_frames import Answers, added, larger
from optiinfra.domain.report.joining_owners import Owners

ContainerKey = tuple[str, str, str]
"""Namespace, workload, container."""
_HOW: Final = {
    "pods": added,
    "cpu": larger,
    "memory": larger,
    "memory_kills": added,
    "restarts": added,
}
_END: Final = 2
"""Points that are the end of the window."""
_NOT_USED: Final = Unknown(UnknownReason.NOT_MEASURED, "cAdvisor's series of it are not on this server")
_NOT_TOLD: Final = Unknown(UnknownReason.NOT_MEASURED, "only kube-state-metrics tells requests and limits")
_NOT_SET: Final = Unknown(UnknownReason.NOT_CONFIGURED, "its pods do not set it")
_NOT_NOW: Final = Unknown(UnknownReason.TOO_FEW_SAMPLES, "no pod of it was there at the end of the window")


def containers(answers: Answers, owners: Owners, wanted: frozenset[tuple[str, str]]) -> tuple[ContainerHistory, ...]:
    """Join the containers of some workloads."""
    used: dict[str, dict[ContainerKey, FloatArray]] = {}
    for name, how in _HOW.items():
        into = used.setdefault(name, {})
        for labels, values, _ in answers.each(f"containers.{name}"):
            key = _key(labels, owners)
            if key[:2] in wanted and key[2]:
                into[key] = how(into.get(key, answers.unknown()), values)
    for key, memory in used["memory"].items():
        # CPU is read step by step, and from the same page.
        cpu = used["cpu"].get(key)
        used["memory"][key] = answers.where("containers.memory", memory, None if cpu is None else np.isfinite(cpu))
    amounts = {name: _amounts(answers, owners, name) for name in ("container_requests", "container_limits")}
    keys = {key for values in used.values() for key in values}
    keys |= {key for values in amounts.values() for key in values if key[:2] in wanted}
    told = answers.has("state.container_requests")
    return tuple(_history(key, used, amounts, told=told) for key in sorted(keys))


def gpus_per_pod(answers: Answers, owners: Owners) -> dict[tuple[str, str], float]:
    """Return the GPUs that one pod of each workload requests; only of those that request any."""
    found: dict[tuple[str, str], float] = {}
    for key, resources in _amounts(answers, owners, "container_requests").items():
        gpus = sum(amount for name, amount in resources.items() if name not in {"cpu", "memory"} and _is_gpu(name))
        if gpus > 0.0:
            found[key[:2]] = found.get(key[:2], 0.0) + gpus
    return found


def _is_gpu(resource: str) -> bool:
    return resource.startswith(("nvidia_com_gpu", "nvidia_com_mig_", "amd_com_gpu", "gpu_intel_com_"))


def _key(labels: Mapping[str, str], owners: Owners) -> ContainerKey:
    owner = owners.of(labels["namespace"], labels["workload"])
    return owner.namespace, owner.name, labels["container"]


def _amounts(answers: Answers, owners: Owners, name: str) -> dict[ContainerKey, dict[str, float]]:
    found: dict[ContainerKey, dict[str, float]] = {}
    for labels, _, newest in answers.each(f"state.{name}"):
        if np.isfinite(newest):
            into = found.setdefault(_key(labels, owners), {})
            into[labels["resource"]] = max(newest, into.get(labels["resource"], 0.0))
    return found


def _history(
    key: ContainerKey,
    used: Mapping[str, Mapping[ContainerKey, FloatArray]],
    amounts: Mapping[str, Mapping[ContainerKey, Mapping[str, float]]],
    *,
    told: bool,
) -> ContainerHistory:
    pods = used["pods"].get(key)
    runs = pods is not None and bool(np.isfinite(pods[-_END:]).any())

    def course(name: str) -> Course:
        return used[name].get(key, _NOT_USED)

    def amount(name: str, resource: str) -> Value:
        if not told:
            return _NOT_TOLD
        mine = amounts[name].get(key, {})
        known = mine or runs or key in amounts["container_requests"] or key in amounts["container_limits"]
        return mine.get(resource, _NOT_SET) if known else _NOT_NOW

    gpus = sum(value for name, value in amounts["container_requests"].get(key, {}).items() if _is_gpu(name))
    return ContainerHistory(
        namespace=key[0],
        workload=key[1],
        container=key[2],
        pods=course("pods"),
        cpu_cores=course("cpu"),
        memory_bytes=course("memory"),
        cpu_request_cores=amount("container_requests", "cpu"),
        cpu_limit_cores=amount("container_limits", "cpu"),
        memory_request_bytes=amount("container_requests", "memory"),
        memory_limit_bytes=amount("container_limits", "memory"),
        gpus=gpus if told else _NOT_TOLD,
        memory_kills=course("memory_kills"),
        restarts=course("restarts"),
    )
