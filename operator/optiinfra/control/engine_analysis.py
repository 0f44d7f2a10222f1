"""What limits one target, and what would help: the round's calls on the domain that are about engines.

A verdict settles over rounds, and only rounds that saw a new page count: the same pages judged again are no second
witness. What the engine's steps cost is learned here too, because advice on batch size rests on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from optiinfra.api.v1alpha1.resource_optimization import Role
from optiinfra.control.surroundings import gpu_of
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain import bottleneck, kv_cache, model_table, prefix_reuse, roles, signals, tuning
from optiinfra.domain.advice import Advice, AdviceInput
from optiinfra.domain.bottleneck import Diagnosis
from optiinfra.domain.evidence import Bottleneck, Finding
from optiinfra.domain.groups import KIND, counted_pages, group_of
from optiinfra.domain.pace import key_of
from optiinfra.domain.prefix_reuse import HitForecast
from optiinfra.domain.readings import EngineReading, Unknown, UnknownReason
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verdicts import settle
from optiinfra.domain.workload import ContainerFacts, NodeFacts, WorkloadFacts

_REUSE_LASTS: Final = 600.0
_ROLES: Final = {
    Role.UNIFIED: roles.Role.UNIFIED,
    Role.PREFILL: roles.Role.PREFILL,
    Role.DECODE: roles.Role.DECODE,
}


class Window(Protocol):
    """The span that signals are taken over."""

    @property
    def window(self) -> Seconds:
        """Length of the span."""

    @property
    def stale_after(self) -> Seconds:
        """Age from which a page is not believed."""


def newest_page(facts: WorkloadFacts) -> EngineReading | None:
    """Return the page that was read last, of those that count."""
    return max((own[-1] for own in counted_pages(facts).values() if own), key=lambda page: page.time, default=None)


def containers(facts: WorkloadFacts, *, named: str = "") -> tuple[ContainerFacts, ...]:
    """Return the containers of the pods that serve pages: in a group, the leader's; of them the named one, if any."""
    found = _containers(facts)
    return tuple(one for one in found if one.name == named) if named else found


def _containers(facts: WorkloadFacts) -> tuple[ContainerFacts, ...]:
    pods = sorted(facts.pods, key=lambda pod: group_of(pod.name, workload=facts.name)[1] if facts.kind == KIND else 0)
    return next((pod.containers for pod in pods if pod.containers), ())


def diagnose(
    service: ServiceWork, target: TargetWork, newest: EngineReading | None, *, idle_span: Seconds, now: UnixTime
) -> Diagnosis:
    """Judge the window that `target.signals` sums up, and let the verdict settle."""
    assert target.signals is not None
    memory = target.memory
    memory.pace.observe(target.signals, key=key_of(target.settings))
    found = bottleneck.diagnose(
        target.signals,
        target.settings,
        service.settings.objectives,
        surroundings=target.surroundings,
        quiet=memory.history.quiet_span(now=now),
        idle_span=idle_span,
        held=memory.verdict.diagnosis.bottleneck if memory.verdict is not None else None,
    )
    page = memory.judged_page if newest is None else newest.time
    # Pages that stop coming are a verdict too, and no new page will ever tell it.
    if memory.verdict is None or page > memory.judged_page or found.bottleneck is Bottleneck.UNKNOWN:
        memory.verdict, memory.judged_page = settle(memory.verdict, found, now=now), page
    return memory.verdict.diagnosis


def whole(service: ServiceWork, times: Window, *, now: UnixTime) -> ServiceSignals | None:
    """Return what all targets say together: variants of one role added up, prefill and decode parts joined."""
    seen = [target for target in service.targets if target.signals is not None and target.facts is not None]
    if len(seen) <= 1:
        return seen[0].signals if seen else None
    by_role: dict[roles.Role, list[TargetWork]] = {}
    for target in seen:
        by_role.setdefault(_ROLES[target.target.role], []).append(target)
    return roles.summarise_roles({role: _added_up(targets, times, now=now) for role, targets in by_role.items()}).whole


def _added_up(targets: Sequence[TargetWork], times: Window, *, now: UnixTime) -> ServiceSignals:
    if len(targets) == 1 and targets[0].signals is not None:
        return targets[0].signals
    pages = {f"{target.target.name}/{pod}": readings for target in targets for pod, readings in _pages(target)}
    expected = sum(target.facts.ready_replicas for target in targets if target.facts is not None)
    return signals.summarise(
        pages, now=now, window=times.window, stale_after=times.stale_after, replicas_expected=expected
    )


def _pages(target: TargetWork) -> Iterable[tuple[str, Sequence[EngineReading]]]:
    return counted_pages(target.facts).items() if target.facts is not None else ()


def advise(service: ServiceWork, target: TargetWork, given: AdviceInput) -> list[Advice]:
    """Return what the engine's settings could be changed to, and what was considered and refused."""
    spec = service.obj.spec
    advice: list[Advice] = [*service.model_file.notes]
    if spec.kv_cache.enabled:
        advice += (*kv_cache.advise(given, reuse=_reuse(target)), *service.notes)
    if spec.tuning.enabled:
        advice += tuning.advise(given)
    return advice


def findings(service: ServiceWork, given: AdviceInput) -> list[Finding]:
    """Return what is worth knowing about the engines besides their bottleneck."""
    if not service.obj.spec.kv_cache.enabled:
        return []
    large = kv_cache.oversized(given)
    return [] if large is None else [large]


def _reuse(target: TargetWork) -> tuple[HitForecast, ...] | Unknown:
    """Return the forecast of hits at other sizes; only for a pool that limits, and not every round: it costs 50 ms."""
    assert target.facts is not None
    assert target.signals is not None
    memory, now = target.memory, target.signals.time
    if target.diagnosis is None or target.diagnosis.bottleneck is not Bottleneck.KV_CACHE:
        return Unknown(UnknownReason.NOT_MEASURED, "the KV cache does not limit the service")
    if memory.reuse is None or not 0.0 <= now - memory.reuse_at < _REUSE_LASTS:
        capacity = target.signals.kv_cache_capacity_tokens
        memory.reuse = prefix_reuse.predict_from_pages(counted_pages(target.facts), capacity=capacity)
        memory.reuse_at = now
    return memory.reuse


def advice_input(service: ServiceWork, target: TargetWork, nodes: Mapping[str, NodeFacts]) -> AdviceInput:
    """Put together what advice and findings on a judged target rest on."""
    assert target.facts is not None
    assert target.signals is not None
    assert target.diagnosis is not None
    assert target.utilization is not None
    pages = (page for readings in target.facts.pages.values() for page in readings[-1:])
    names = (service.obj.spec.model.family, target.settings.model, *(page.model for page in pages))
    return AdviceInput(
        target.signals,
        target.settings,
        target.diagnosis,
        service.settings.objectives,
        gpu=gpu_of(target.facts, target.utilization, nodes),
        model=model_table.facts_of(service.settings.model, names, file=service.model_file.facts),
        pace=target.memory.pace.fit(),
        surroundings=target.surroundings,
    )
