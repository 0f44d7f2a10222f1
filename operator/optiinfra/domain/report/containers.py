"""CPU and memory requests of the containers around the GPUs, by the operator's own right-sizing on the whole window.

What is freed here is capacity of nodes whose price the GPUs carry already, so that it is shown in cores and bytes and
never added to the money. A metrics server tells neither init containers nor LimitRanges nor arguments of a JVM; what
the rules would have looked up there is not known, and the proposals' own risks say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain import sizing_advice
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Proposal
from optiinfra.domain.pod_shape import PodShape
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import ContainerHistory, Course, ModelHistory
from optiinfra.domain.resource_patch import WorkloadName
from optiinfra.domain.right_sizing import ContainerEstimate, UsageHistory, estimate
from optiinfra.domain.sizing_plan import SizingCase
from optiinfra.domain.sizing_rules import NamespaceRules
from optiinfra.domain.units import Bytes, Seconds, UnixTime
from optiinfra.domain.workload import ContainerFacts

NOT_TOLD: Final = Unknown(UnknownReason.NOT_MEASURED, "a metrics server does not tell")


@dataclass(frozen=True, slots=True)
class Sized:
    """What is proposed for one workload's containers."""

    key: str
    """namespace/workload"""
    proposals: tuple[Proposal, ...]


def size(
    containers: Sequence[ContainerHistory],
    models: Mapping[str, ModelHistory],
    settings: Mapping[str, EngineSettings],
    times: FloatArray,
) -> tuple[Sized, ...]:
    """Size the containers of every model's workload. All of them learn together how far the curves can be trusted."""
    wanted = [one for one in containers if one.key in models]
    histories = [_usage(one, times) for one in wanted]
    now = UnixTime(float(times[-1])) if len(times) else UnixTime(0.0)
    estimates = estimate(histories, now=now)
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(wanted):
        groups.setdefault(one.key, []).append(index)
    found = []
    for key, rows in groups.items():
        case = _case(models[key], [wanted[row] for row in rows], settings.get(key, EngineSettings()))
        # Without kube-state-metrics a request is not known, which is not the same as not set: nothing is proposed then.
        by_name: dict[str, ContainerEstimate | Unknown] = {
            wanted[row].container: estimates[row] for row in rows if _told(wanted[row])
        }
        known: dict[str, Seconds] = {wanted[row].container: histories[row].lifespan for row in rows}
        answers = sizing_advice.advise(case, by_name, known_for=known)
        found.append(Sized(key, tuple(one for one in answers if isinstance(one, Proposal))))
    return tuple(found)


def _told(one: ContainerHistory) -> bool:
    """Whether what the container requests and may use at most is known, or known not to be set."""
    amounts = (one.cpu_request_cores, one.cpu_limit_cores, one.memory_request_bytes, one.memory_limit_bytes)
    return not any(isinstance(one, Unknown) and one.reason is not UnknownReason.NOT_CONFIGURED for one in amounts)


def _usage(one: ContainerHistory, times: FloatArray) -> UsageHistory:
    history = UsageHistory()
    cpu, memory = _or_nan(one.cpu_cores, times), _or_nan(one.memory_bytes, times)
    history.observe_many(times, cpu, memory)
    kills = one.memory_kills
    limit = one.memory_limit_bytes
    if not isinstance(kills, Unknown) and not isinstance(limit, Unknown):
        for at in np.flatnonzero(np.nan_to_num(kills) > 0.0):
            history.observe_out_of_memory(time=UnixTime(float(times[at])), used=Bytes(limit))
    return history


def _or_nan(course: Course, times: FloatArray) -> FloatArray:
    return np.full(len(times), np.nan) if isinstance(course, Unknown) else course


def _case(model: ModelHistory, containers: Sequence[ContainerHistory], engine: EngineSettings) -> SizingCase:
    replicas = model.replicas
    newest = 1
    if not isinstance(replicas, Unknown):
        known = replicas[np.isfinite(replicas)]
        newest = max(1, round(float(known[-1]))) if known.size else 1
    return SizingCase(
        workload=WorkloadName(model.kind, model.workload, model.namespace),
        shape=PodShape(tuple(_facts(one) for one in containers)),
        replicas=newest,
        engine=engine,
        measured_by="kubernetes",
        rules=NamespaceRules(NOT_TOLD, NOT_TOLD),
    )


def _facts(one: ContainerHistory) -> ContainerFacts:
    return ContainerFacts(
        name=one.container,
        cpu_request_cores=one.cpu_request_cores,
        cpu_limit_cores=one.cpu_limit_cores,
        memory_request_bytes=one.memory_request_bytes,
        memory_limit_bytes=one.memory_limit_bytes,
        gpus=_gpus(one.gpus),
    )


def _gpus(value: Value) -> float:
    """A container of which nobody tells GPUs requests none, by kube-state-metrics."""
    return 0.0 if isinstance(value, Unknown) else value
