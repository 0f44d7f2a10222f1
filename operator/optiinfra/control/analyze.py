"""The round's second step: let the domain judge. Pure calls on what collect put together, in a worker thread.

Nothing here waits, reads a clock or touches the cluster. One object that makes the domain raise is that object's
problem (`AnalysisFailed`, with the traceback in the log); the others go on.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from optiinfra.control import (
    consolidation,
    costs,
    engine_analysis,
    gpu_health,
    gpu_share,
    idle_gpus,
    past_taking,
    replicas,
    sizing,
    track,
)
from optiinfra.control.isolation import isolated
from optiinfra.control.replicas import ScalingTimes
from optiinfra.control.steady import steady
from optiinfra.control.surroundings import surround
from optiinfra.control.work import ClusterWork, ServiceWork, TargetWork, Work
from optiinfra.domain import (
    idle,
    signals,
    utilization,
)
from optiinfra.domain.evidence import Finding, Proposal, Refusal
from optiinfra.domain.groups import counted_pages
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import NodeFacts
from optiinfra.engines import settings as engine_settings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AnalysisTimes:
    """Windows of the analysis, from the operator's settings."""

    window: Seconds
    stale_after: Seconds
    tick: Seconds
    hold: Seconds
    idle_span: Seconds
    """Shortest span of samples from which idleness is concluded."""
    past: bool = False
    """Whether a metrics server is asked for what nobody learned yet."""

    @property
    def scaling(self) -> ScalingTimes:
        """Those of the decision on replicas."""
        return ScalingTimes(tick=self.tick, hold=self.hold, stale_after=self.stale_after)

    @property
    def idle_policy(self) -> idle.IdlePolicy:
        """From when a GPU counts as idle."""
        return idle.IdlePolicy.of_span(self.idle_span)


def analyze(work: Work, times: AnalysisTimes) -> Work:
    """Judge every object of the round."""
    inputs: list[replicas.Given] = []
    for service in work.services:
        with isolated(service, step="analyze"):
            inputs += _service(service, work, times)
    replicas.decide(inputs, now=work.at)
    sizing.estimate([service for service in work.services if service.problem is None], now=work.at)
    for service in work.services:
        with isolated(service, step="analyze"):
            costs.measure(service, work, now=work.at)
            replicas.mix(service, work)
            for target in service.targets:
                gpu_health.hold(target)
            _propose(service, work.nodes, times, now=work.at)
    for cluster in work.clusters:
        with isolated(cluster, step="analyze"):
            _cluster(cluster, now=work.at, times=times)
            costs.remember_pools(cluster)
    return work


def _service(service: ServiceWork, work: Work, times: AnalysisTimes) -> list[replicas.Given]:
    inputs: list[replicas.Given] = []
    for target in service.targets:
        facts = target.facts
        if facts is None:
            continue
        target.signals = signals.summarise(
            counted_pages(facts),
            now=work.at,
            window=times.window,
            stale_after=times.stale_after,
            replicas_expected=facts.ready_replicas,
        )
        newest = engine_analysis.newest_page(facts)
        target.settings = engine_settings.read(
            engine_analysis.containers(facts, named=str(service.obj.spec.engine.container_name)), newest
        )
        target.utilization = utilization.summarise(
            facts, work.nodes, now=work.at, window=times.window, stale_after=times.stale_after
        )
        if facts.ready_replicas and target.signals.replicas_reporting:
            target.memory.history.observe(target.signals, facts.ready_replicas)
        if service.obj.spec.right_sizing.enabled:
            gpu_share.observe(target, work.nodes, now=work.at, stale_after=times.stale_after)
        target.sick = gpu_health.held_by(target, work.nodes)
        surround(target, work.nodes, now=work.at, window=times.window, stale_after=times.stale_after)
        if service.obj.spec.right_sizing.enabled:
            sizing.note_pressure(target, now=work.at)
        target.diagnosis = engine_analysis.diagnose(service, target, newest, idle_span=times.idle_span, now=work.at)
        target.limits = replicas.limits_of(service, target, facts)
        if target.problem is None:
            given = replicas.scaling_input(service, target, facts, times.scaling, now=work.at)
            inputs.append((service, target, given))
            if times.past:
                past_taking.ask(service, target, given)
    service.whole = engine_analysis.whole(service, times, now=work.at)
    return inputs


def _propose(service: ServiceWork, nodes: Mapping[str, NodeFacts], times: AnalysisTimes, *, now: UnixTime) -> None:
    if service.problem is not None:
        return
    spec = service.obj.spec
    for target in service.targets:
        if target.facts is None or target.signals is None or target.diagnosis is None:
            continue
        answers: list[Proposal | Refusal] = replicas.proposals(service, target)
        answers += replicas.hpa_target(service, target, now=now)
        given = engine_analysis.advice_input(service, target, nodes)
        answers += engine_analysis.advise(service, target, given)
        if spec.right_sizing.enabled:
            sizes = [*sizing.advise(service, target), *gpu_share.advise(service, target, given)]
            answers += steady(service.key, target.memory, sizes, now=now)
        target.proposals = tuple(
            track.marked(target, answer, now=now) for answer in answers if isinstance(answer, Proposal)
        )
        target.refusals = tuple(answer for answer in answers if isinstance(answer, Refusal))
        target.findings = (
            target.diagnosis.finding(),
            *engine_analysis.findings(service, given),
            *replicas.findings(target),
            *_idle_finding(target, times),
            *sizing.findings(answers),
        )


def _idle_finding(target: TargetWork, times: AnalysisTimes) -> list[Finding]:
    assert target.signals is not None
    assert target.utilization is not None
    verdict = idle.workload_idle(
        target.signals, target.utilization, minimum_span=times.window, policy=times.idle_policy
    )
    return [verdict] if isinstance(verdict, Finding) else []


def _cluster(cluster: ClusterWork, *, now: UnixTime, times: AnalysisTimes) -> None:
    spec = cluster.obj.spec
    nodes = tuple(cluster.nodes.values())
    cluster.heard = frozenset(
        node.name for node in nodes if node.agent and now - node.agent[-1].time <= times.stale_after
    )
    proposals: list[Proposal] = []
    gpu_health.judge(cluster)
    if spec.idle_gpus.enabled:
        idle_gpus.judge(cluster, now=now, stale_after=times.stale_after, policy=times.idle_policy)
    if cluster.problem is not None:
        # Agents are heard all the same, but who runs where is the past: nothing is planned or proposed about it.
        consolidation.hold(cluster)
        return
    if spec.consolidation.enabled and nodes:
        proposals += consolidation.consolidate(cluster, now=now)
    if spec.idle_gpus.enabled:
        # After the consolidation: the money of a node that it would free is counted there.
        proposals += idle_gpus.propose(cluster)
    cluster.proposals = tuple(proposals)
