"""When each axis of a workload was changed last: replicas, requests, settings; by this operator or by anybody else.

Rule 6 needs more than our own memory. What we did is read back from the status after a restart, which is written in
the round of the act; the checkpoint adds what was seen of others. And what others do is seen at the pods: the newest
one has other requests, or another image, arguments or environment than the newest one before it.
"""

import hashlib

from optiinfra.api.v1alpha1.action_status import ActionState, ActionStatus
from optiinfra.control.memory import Template
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.policy import Axis, PolicyState
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import ContainerFacts, PodFacts, WorkloadFacts

_HAPPENED = (ActionState.APPLIED, ActionState.VERIFIED, ActionState.ROLLED_BACK)


def observe(service: ServiceWork, target: TargetWork, *, now: UnixTime) -> None:
    """Bring the times of a target's axes up to date."""
    memory = target.memory
    if not memory.recalled:
        memory.recalled = True
        for action in service.obj.status.actions:
            if action.subject == target.target.name or len(service.targets) == 1:
                memory.policy = recalled(memory.policy, action)
    template = template_of(target.facts) if target.facts is not None else None
    if template is None:
        return
    known, memory.template = memory.template, template
    if known is None or known == template:
        return
    if known.settings != template.settings:
        memory.policy = memory.policy.changed(Axis.SETTINGS, at=now)
    if known.requests != template.requests:
        memory.policy = memory.policy.changed(Axis.RESIZE, at=now)


def recalled(state: PolicyState, action: ActionStatus) -> PolicyState:
    """Return the state with what an action in the status says of its axis. What is under way is not taken up again."""
    if action.state not in _HAPPENED:
        return state
    at = action.at.unix
    if action.type is RecommendationType.RESOURCES:
        return state.changed(Axis.RESIZE, at=at)
    counts = (action.from_, action.to)
    if action.type is not RecommendationType.REPLICAS or not all(text.isdecimal() for text in counts):
        return state
    rose = int(action.to) > int(action.from_)
    if action.state is ActionState.ROLLED_BACK:
        rose = not rose  # the way back was the last change
    return state.changed(Axis.SCALE_UP if rose else Axis.SCALE_DOWN, at=at)


def template_of(facts: WorkloadFacts) -> Template | None:
    """Return the digests of the newest pod that stays; None where there is none."""
    staying = [pod for pod in facts.pods if not pod.terminating]
    if not staying:
        return None
    newest = max(staying, key=lambda pod: (pod.created, pod.name))
    return Template(settings=_digest(_settings(newest)), requests=_digest(_requests(newest)))


def _containers(pod: PodFacts) -> tuple[ContainerFacts, ...]:
    return (*pod.init_containers, *pod.containers)


def _settings(pod: PodFacts) -> object:
    return [(c.name, c.image, c.arguments, sorted(c.environment.items())) for c in _containers(pod)]


def _requests(pod: PodFacts) -> object:
    return [
        (c.name, str(c.cpu_request_cores), str(c.memory_request_bytes), c.gpus, c.gpu_resources)
        for c in _containers(pod)
    ]


def _digest(parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
