"""Right-sizing in the round: samples and kills go into a target's histories, and what they come to is proposed.

Histories change only in `hear`, which collect calls before anything is judged. Estimates are made for all targets of a
round that are due in one call, because young containers learn from old ones, and kept for some minutes: use is read
once a minute and a request is no matter of seconds. Nothing is proposed while somebody's measurement cannot be
(`usage_fault`), nor where nobody measures; both are said.
"""

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from optiinfra.control.isolation import isolated
from optiinfra.control.memory import MOST_CONTAINERS, Pressed, Sized, TargetMemory
from optiinfra.control.usage import METRICS_API, UsageSample
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain import pod_shape, right_sizing, sizing_advice
from optiinfra.domain.evidence import Evidence, Finding, FindingType, Proposal, RecommendationType, Refusal
from optiinfra.domain.pod_shape import Resource
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.resource_patch import WorkloadName
from optiinfra.domain.right_sizing import ContainerUsage, UsageHistory
from optiinfra.domain.sizing_plan import SizingCase
from optiinfra.domain.sizing_words import read_amount
from optiinfra.domain.units import Bytes, Seconds, UnixTime
from optiinfra.domain.workload import PodFacts

_LOG = logging.getLogger(__name__)
KEPT_FOR: Final = 300.0
"""Seconds for which an estimate stands."""
_FORGOTTEN: Final = 14 * 86_400.0
"""Seconds after which a container that is no longer measured is forgotten."""
_AHEAD: Final = 3600.0
"""Seconds by which a history may lie ahead of the clock; beyond, the clock was set back and the history begins anew."""
_LATE: Final = 120.0
"""Seconds by which the samples of several pods may overtake each other."""
_RESOURCES: Final = RecommendationType.RESOURCES
_THROTTLED: Final = 0.05
"""Share of scheduling periods with throttling from which a container's use is not what it needs."""
PRESSED: Final = 0.01
"""Share of time waited for memory from which none is taken from a container: with memory to spare there is no wait."""
_PRESSED_FOR: Final = Seconds(86_400.0)
"""How long that speaks against a cut: what happens at a day's peak is to be remembered until the next one."""


def hear(memory: TargetMemory, samples: Iterable[UsageSample], pods: Sequence[PodFacts], *, now: UnixTime) -> None:
    """Take what was measured, and who was killed for memory."""
    for sample in samples:
        history = _history(memory, sample.container, now=now)
        if history is None:
            continue
        last = history.last
        time = last if last is not None and 0.0 < last - sample.time <= _LATE else sample.time
        history.observe(ContainerUsage(time, sample.cpu_cores, sample.memory_bytes, starting=sample.starting))
    # A container that is still there is not forgotten, however long ago our clock says that it was measured.
    there = {one.name for pod in pods for one in (*pod.containers, *pod.init_containers)}
    silent = [
        name
        for name, known in memory.usage.items()
        if name not in there and known.last and now - known.last > _FORGOTTEN
    ]
    for name in silent:
        del memory.usage[name]
        memory.kills.pop(name, None)
    for kill in sorted((kill for pod in pods for kill in pod.memory_kills), key=lambda kill: kill.time):
        history = memory.usage.get(kill.container)
        # A kill without a limit is the node's: it says nothing about what the container would have needed.
        if history is None or kill.time <= memory.kills.get(kill.container, 0.0) or isinstance(kill.limit, Unknown):
            continue
        memory.kills[kill.container] = kill.time
        if kill.time <= now + _LATE:
            history.observe_out_of_memory(time=kill.time, used=Bytes(kill.limit))
            memory.sizes_at = 0.0


def _history(memory: TargetMemory, container: str, *, now: UnixTime) -> UsageHistory | None:
    history = memory.usage.get(container)
    if history is not None and (history.last or 0.0) <= now + _AHEAD:
        return history
    if history is None and len(memory.usage) >= MOST_CONTAINERS:
        return None
    return memory.usage.setdefault(container, UsageHistory()) if history is None else _anew(memory, container)


def _anew(memory: TargetMemory, container: str) -> UsageHistory:
    _LOG.warning("a clock was set back; what a container used is forgotten", extra={"container": container})
    memory.usage[container] = history = UsageHistory()
    memory.kills.pop(container, None)
    return history


def note_pressure(target: TargetWork, *, now: UnixTime) -> None:
    """Remember which containers waited for memory; the window of a round says nothing of the day's peak."""
    pressed = target.memory.pressed
    for name in [name for name, one in pressed.items() if not 0.0 <= now - one.at < _PRESSED_FOR]:
        del pressed[name]
    for name, found in target.pressed.items():
        if isinstance(found.value, Unknown) or found.value < PRESSED:
            continue
        known = pressed.get(name)
        if known is None and len(pressed) >= MOST_CONTAINERS:
            continue
        worst = known is None or found.value > known.share
        share, place = (found.value, found.place) if known is None or worst else (known.share, known.place)
        pressed[name] = Pressed(now, round(share, 2) or PRESSED, place)


def estimate(services: Sequence[ServiceWork], *, now: UnixTime) -> None:
    """Size the containers of all targets that are due, in one call."""
    due = [
        (service, target.memory)
        for service in services
        if service.obj.spec.right_sizing.enabled
        for target in service.targets
        if target.memory.usage and not 0.0 <= now - target.memory.sizes_at < KEPT_FOR
    ]
    if not due:
        return
    try:
        _estimate([memory for _, memory in due], now=now)
    except Exception:  # noqa: BLE001  whose fault it is is found below; the others go on
        _LOG.exception("containers of a round could not be sized together; one target at a time")
        for service, memory in due:
            with isolated(service, step="analyze"):
                _estimate([memory], now=now)


def _estimate(memories: Sequence[TargetMemory], *, now: UnixTime) -> None:
    rows = [(memory, name, history) for memory in memories for name, history in memory.usage.items()]
    found = right_sizing.estimate([history for _, _, history in rows], now=now)
    for memory in memories:
        memory.sizes = {}
    for (memory, name, history), one in zip(rows, found, strict=True):
        memory.sizes[name] = one
        right_sizing.remember(history, one, now=now)
    for memory in memories:
        memory.sizes_at = now


def advise(service: ServiceWork, target: TargetWork) -> list[Proposal | Refusal]:
    """Return requests for the containers of a target, or why there are none."""
    facts, memory = target.facts, target.memory
    assert facts is not None
    newest = pod_shape.newest(facts.pods)
    if newest is None:
        return []
    if target.usage_fault:
        text = f"nothing is sized on measurements that cannot be: {target.usage_fault}"
        return [Refusal(_RESOURCES, "UsageInvalid", text)]
    if not memory.usage:
        why = target.usage_unknown or Unknown(UnknownReason.NOT_MEASURED, "nothing was read yet")
        return [Refusal(_RESOURCES, str(UnknownReason.NOT_MEASURED), f"container use is not measured: {why.detail}")]
    case = SizingCase(
        workload=WorkloadName(facts.kind, facts.name, facts.namespace),
        shape=pod_shape.shape_of(newest),
        replicas=max(1, sum(1 for pod in facts.pods if not pod.terminating)),
        prices=service.prices,
        engine=target.settings,
        scalers=target.scalers,
        rules=target.sizing_rules,
        template=facts.template,
        vertically_scaled=newest.vertically_scaled,
        standing=_standing(service, target),
        measured_by=target.busiest_source or METRICS_API,
    )
    # Most rounds lie between two estimates, and then nothing has changed that an answer could depend on.
    if memory.sized is not None and memory.sized.made_at == memory.sizes_at and memory.sized.case == case:
        return _unless_held_back(target, memory.sized.answers)
    known = {name: history.lifespan for name, history in memory.usage.items()}
    answers = sizing_advice.advise(case, memory.sizes, known_for=known)
    memory.sized = Sized(memory.sizes_at, case, tuple(_named(service, target, answer) for answer in answers))
    return _unless_held_back(target, memory.sized.answers)


def _unless_held_back(target: TargetWork, answers: Iterable[Proposal | Refusal]) -> list[Proposal | Refusal]:
    """Take nothing from a container that lacks it: what it used is then not what it would use."""
    return [
        _unless_pressed(target, _unless_throttled(target, one))
        if isinstance(one, Proposal) and one.type is _RESOURCES
        else one
        for one in answers
    ]


def _unless_throttled(target: TargetWork, one: Proposal) -> Proposal | Refusal:
    held = target.throttled.get(_container(one))
    if held is None or isinstance(held.value, Unknown) or held.value < _THROTTLED or one.savings.cpu_cores_freed <= 0.0:
        return one
    text = (
        f"{one.subject}: its CPU limit holds it back in {held.value:.0%} of its scheduling periods "
        f"({held.place}), so that its use does not tell what it needs; raise the limit first"
    )
    return Refusal(_RESOURCES, "CPUThrottled", text)


def _unless_pressed(target: TargetWork, one: Proposal | Refusal) -> Proposal | Refusal:
    if isinstance(one, Refusal) or not one.setting.endswith(f".{Resource.MEMORY}"):
        return one
    pressed = target.memory.pressed.get(_container(one))
    if pressed is None:
        return one
    before, after = read_amount(one.current), read_amount(one.proposed)
    if before is not None and after is not None and after < before:
        text = (
            f"{one.subject}: it waited for memory in up to {pressed.share:.0%} of the time within a day "
            f"({pressed.place}); its {one.setting.rpartition('].')[2]} is not cut"
        )
        return Refusal(_RESOURCES, "MemoryPressure", text)
    fact = Evidence("memory_pressure", pressed.share, "ratio", _PRESSED_FOR, "agent", "max", pressed.place)
    return dataclasses.replace(one, evidence=(*one.evidence, fact))


def _container(one: Proposal) -> str:
    return one.subject.rpartition("/")[2]  # of several variants the subject names the one before its container


def findings(answers: Sequence[Proposal | Refusal]) -> list[Finding]:
    """Return what is worth knowing about sizes: requests that nobody uses, and GPUs that are used in part."""
    found: list[Finding] = []
    for one in answers:
        if isinstance(one, Refusal):
            continue
        freed = one.savings.cpu_cores_freed > 0.0 or one.savings.memory_bytes_freed > 0.0
        if one.type is RecommendationType.GPU_SHARE:
            kind = FindingType.UNDER_USED
        elif one.type is _RESOURCES and freed:
            kind = FindingType.OVER_REQUESTED
        else:
            continue
        found.append(Finding(kind, one.reason, one.message, one.confidence, one.evidence, one.subject))
    return found


def _named(service: ServiceWork, target: TargetWork, answer: Proposal | Refusal) -> Proposal | Refusal:
    """Say of which variant a container is, where there are several."""
    if isinstance(answer, Refusal) or len(service.targets) == 1:
        return answer
    return dataclasses.replace(answer, subject=f"{target.target.name}/{answer.subject}")


def _standing(service: ServiceWork, target: TargetWork) -> Mapping[tuple[str, Resource], float]:
    """Return the requests that the object's status proposes."""
    found: dict[tuple[str, Resource], float] = {}
    prefix = f"{target.target.name}/" if len(service.targets) > 1 else ""
    for item in service.obj.status.recommendations:
        if item.type is not _RESOURCES or not item.subject.startswith(prefix):
            continue
        name = item.subject.removeprefix(prefix)
        for resource in Resource:
            if item.setting == f"containers[{name}].requests.{resource}":
                amount = read_amount(item.proposed)
                if amount is not None:
                    found[name, resource] = amount
    return found
