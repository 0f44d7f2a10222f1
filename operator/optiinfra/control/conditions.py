"""Which conditions a round wants to see on an object: the verdicts of every step, in the words of the API."""

from collections.abc import Sequence
from typing import Protocol

from optiinfra.api.conditions import ConditionStatus, ConditionType, Wanted
from optiinfra.api.reasons import EXPLANATIONS, Reason
from optiinfra.control import gpu_health
from optiinfra.control.claims import Claim
from optiinfra.control.pool_limits import within_limits
from optiinfra.control.work import ClusterWork, Problem, ServiceWork, TargetWork
from optiinfra.domain.prices import PriceFault
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.service_cost import PriceTrouble, troubles

_YES, _NO, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


class InsightVerdict(Protocol):
    """What is to be said about insights."""

    @property
    def status(self) -> ConditionStatus:
        """True, False or Unknown."""

    @property
    def reason(self) -> Reason:
        """Why."""

    @property
    def message(self) -> str:
        """In a sentence; empty for the reason's own."""


def service_conditions(service: ServiceWork, insight: InsightVerdict) -> list[Wanted]:
    """Return the conditions of a ResourceOptimization."""
    problem = service.problem or next((t.problem for t in service.targets if t.problem is not None), None)
    if service.settings.suspended and (problem is None or not problem.stalled):
        wanted = _suspended()
    else:
        measured = _metrics(service)
        wanted = [*_summary(problem, measured), measured, _analysis(service, problem)]
    wanted.append(Wanted(ConditionType.INSIGHTS_AVAILABLE, insight.status, insight.reason, insight.message))
    wanted.append(_effective(service))
    told = any(one.type is ConditionType.APPROVALS_ACCEPTED for one in service.obj.status.conditions)
    if told or service.approvals or service.refused_approvals or service.approved:
        wanted.append(_approvals(service))
    wanted.append(_service_prices(service))
    wanted.append(_degraded(service, problem))
    return wanted


def _suspended() -> list[Wanted]:
    """What a person asked for is no trouble: Flux and `kubectl wait` must not wait for it."""
    return [
        Wanted(ConditionType.READY, _YES, Reason.SUSPENDED),
        Wanted(ConditionType.RECONCILING, _NO, Reason.SUSPENDED),
        Wanted(ConditionType.STALLED, _NO, Reason.SUSPENDED),
        Wanted(ConditionType.METRICS_AVAILABLE, _UNKNOWN, Reason.SUSPENDED),
        Wanted(ConditionType.ANALYSIS_COMPLETE, _UNKNOWN, Reason.SUSPENDED),
    ]


def _summary(problem: Problem | None, measured: Wanted) -> list[Wanted]:
    """Ready, Reconciling, Stalled: what kstatus, Flux, Argo CD and `kubectl wait` read."""
    if problem is not None and problem.stalled:
        return [
            Wanted(ConditionType.READY, _NO, problem.reason, problem.message),
            Wanted(ConditionType.RECONCILING, _NO, problem.reason, problem.message),
            Wanted(ConditionType.STALLED, _YES, problem.reason, problem.message),
        ]
    if problem is not None:
        collecting = problem.reason is Reason.COLLECTING
        return [
            Wanted(ConditionType.READY, _NO, problem.reason, problem.message),
            Wanted(ConditionType.RECONCILING, _YES if collecting else _NO, problem.reason, problem.message),
            Wanted(ConditionType.STALLED, _NO, problem.reason, problem.message),
        ]
    collecting = measured.status is _UNKNOWN and measured.reason is Reason.COLLECTING
    state = _YES if measured.status is _YES else _NO
    return [
        Wanted(ConditionType.READY, state, measured.reason, measured.message),
        Wanted(ConditionType.RECONCILING, _YES if collecting else _NO, measured.reason, measured.message),
        Wanted(ConditionType.STALLED, _NO, Reason.SUCCEEDED),
    ]


_BY_UNKNOWN = {
    UnknownReason.UNREACHABLE: Reason.ENGINE_UNREACHABLE,
    UnknownReason.REFUSED: Reason.ENGINE_REFUSED,
    UnknownReason.INVALID: Reason.ENGINE_PAGE_INVALID,
    UnknownReason.STALE: Reason.METRICS_STALE,
}


def _metrics(service: ServiceWork) -> Wanted:
    """Judge whether the engines were heard; the worst target speaks for the object."""
    verdicts = [_target_metrics(target, service.silence) for target in service.targets if target.facts is not None]
    if not verdicts:
        return Wanted(ConditionType.METRICS_AVAILABLE, _UNKNOWN, Reason.NOT_YET_ANALYZED)
    order = {_NO: 0, _UNKNOWN: 1, _YES: 2}
    return min(verdicts, key=lambda verdict: order[verdict.status])


def _target_metrics(target: TargetWork, silence: Problem | None) -> Wanted:
    kind, facts, signals = ConditionType.METRICS_AVAILABLE, target.facts, target.signals
    assert facts is not None
    errors = facts.page_errors
    name = target.target.name
    if not facts.pods and facts.desired_replicas == 0:
        return Wanted(kind, _YES, Reason.NO_PODS, f"{name} is scaled to zero")
    if not any(pod.ready for pod in facts.pods):
        return _none_ready(name, target.lost)
    if signals is None or signals.replicas_reporting == 0:
        if errors and silence is not None:
            text = f"{name}: {silence.message}. {EXPLANATIONS[silence.reason].remedy}"
            return Wanted(kind, _NO, silence.reason, text)
        if errors:
            pod, error = next(iter(sorted(errors.items())))
            reason = _BY_UNKNOWN.get(error.reason, Reason.ENGINE_UNREACHABLE)
            return Wanted(
                kind, _NO, reason, f"pod {pod}: {error.detail or error.reason}. {EXPLANATIONS[reason].remedy}"
            )
        if facts.pages:
            return Wanted(kind, _NO, Reason.METRICS_STALE, f"{name}: the newest page is too old")
        return Wanted(kind, _UNKNOWN, Reason.COLLECTING, f"{name}: waiting for the first pages")
    if isinstance(signals.running, Unknown):
        return Wanted(kind, _NO, Reason.PARTIAL_METRICS, f"{name}: {signals.running}")
    if signals.replicas_reporting < signals.replicas_expected:
        silent = next(iter(sorted(errors.items())), None)
        why = f": pod {silent[0]}: {silent[1].detail or silent[1].reason}" if silent else ""
        # Replicas that start are no fault: the state is said without numbers, which change with each pod.
        return Wanted(kind, _YES, Reason.PARTIAL_METRICS, f"{name}: not every ready replica reports{why}")
    return _all_report(name, target.lost)


def _none_ready(name: str, lost: Sequence[str]) -> Wanted:
    kind = ConditionType.METRICS_AVAILABLE
    if not lost:
        return Wanted(kind, _NO, Reason.NO_PODS, f"{name}: no pod is ready")
    remedy = EXPLANATIONS[Reason.NODES_NOT_READY].remedy
    return Wanted(kind, _NO, Reason.NODES_NOT_READY, f"{name}: its pods are on {_few(lost)}, not ready. {remedy}")


def _all_report(name: str, lost: Sequence[str]) -> Wanted:
    kind, text = ConditionType.METRICS_AVAILABLE, f"{name}: every ready replica reports"
    if not lost:
        return Wanted(kind, _YES, Reason.SUCCEEDED, text)
    return Wanted(kind, _YES, Reason.PARTIAL_METRICS, f"{text}; what is on {_few(lost)}, not ready, is not heard")


def _few(nodes: Sequence[str]) -> str:
    """Name a few nodes of what may be many."""
    more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
    return f"{'node' if len(nodes) == 1 else 'nodes'} {', '.join(nodes[:5])}{more}"


def _analysis(service: ServiceWork, problem: Problem | None) -> Wanted:
    kind = ConditionType.ANALYSIS_COMPLETE
    if problem is not None:
        return Wanted(kind, _NO, problem.reason, problem.message)
    unknown = next((t.decision for t in service.targets if isinstance(t.decision, Unknown)), None)
    if unknown is not None:
        return Wanted(kind, _NO, Reason.PARTIAL_METRICS, f"no decision: {unknown.detail or unknown.reason}")
    if all(target.decision is None for target in service.targets):
        return Wanted(kind, _UNKNOWN, Reason.NOT_YET_ANALYZED)
    return Wanted(kind, _YES, Reason.SUCCEEDED)


def _effective(service: ServiceWork) -> Wanted:
    kind = ConditionType.ACTUATION_EFFECTIVE
    if service.settings.suspended:
        return Wanted(kind, _NO, Reason.SUSPENDED)
    effects = [target.effect for target in service.targets if target.effect is not None]
    bad = next((effect for effect in effects if effect.effective is False), None)
    if bad is not None:
        return Wanted(kind, _NO, bad.reason, bad.message)
    unsure = next((effect for effect in effects if effect.effective is None), None)
    # A variant of which nothing is known yet is not known to follow.
    if unsure is not None or len(effects) < len(service.targets) or not effects:
        return Wanted(
            kind,
            _UNKNOWN,
            unsure.reason if unsure is not None else Reason.NOT_YET_ANALYZED,
            unsure.message if unsure is not None else "",
        )
    return Wanted(kind, _YES, effects[0].reason, effects[0].message)


def _approvals(service: ServiceWork) -> Wanted:
    """Say of every id that approves nothing which it is and why; the message is cut where it is long."""
    kind, refused = ConditionType.APPROVALS_ACCEPTED, service.refused_approvals
    if refused:
        text = "; ".join(f"{one.id} is refused: {one.why}" for one in refused)
        return Wanted(kind, _NO, Reason.APPROVAL_REFUSED, f"{text}. {EXPLANATIONS[Reason.APPROVAL_REFUSED].remedy}")
    return Wanted(kind, _YES, Reason.SUCCEEDED, "every id in the annotation optiinfra.io/approve is accepted")


def _degraded(service: ServiceWork, problem: Problem | None) -> Wanted:
    """Judge whether something that usually works does not: the agents, an action that was undone."""
    kind = ConditionType.DEGRADED
    if problem is not None and problem.reason in (Reason.ANALYSIS_FAILED, Reason.API_ERROR):
        return Wanted(kind, _YES, problem.reason, problem.message)
    if service.obj.status_error:
        return Wanted(kind, _YES, Reason.INVALID_SPEC, f"the stored status was set aside: {service.obj.status_error}")
    if service.claim.other is not None:
        return _other_operator(service.claim)
    harmed = next((target.harmed for target in service.targets if target.harmed), "")
    if harmed:
        return Wanted(kind, _YES, Reason.ROLLED_BACK, harmed)
    sick = next((found for target in service.targets if (found := gpu_health.condition(target)) is not None), None)
    if sick is not None:
        return sick
    for target in service.targets:
        gpu = target.utilization.gpu_ratio_mean if target.utilization is not None else None
        holds = target.facts is not None and target.facts.gpus_per_replica > 0
        if holds and isinstance(gpu, Unknown) and gpu.reason in (UnknownReason.UNREACHABLE, UnknownReason.STALE):
            remedy = EXPLANATIONS[Reason.AGENT_UNREACHABLE].remedy
            return Wanted(kind, _YES, Reason.AGENT_UNREACHABLE, f"{gpu.detail}. {remedy}")
    fault = next((target.usage_fault for target in service.targets if target.usage_fault), "")
    if fault:
        return Wanted(kind, _YES, Reason.USAGE_INVALID, f"{fault}. {EXPLANATIONS[Reason.USAGE_INVALID].remedy}")
    return Wanted(kind, _NO, Reason.SUCCEEDED)


def _other_operator(claim: Claim) -> Wanted:
    assert claim.other is not None
    text = f"operator {claim.other.name} sees this object too and leaves it to {claim.operator}"
    remedy = EXPLANATIONS[Reason.OTHER_OPERATOR].remedy
    return Wanted(ConditionType.DEGRADED, _YES, Reason.OTHER_OPERATOR, f"{text}. {remedy}")


def cluster_conditions(cluster: ClusterWork) -> list[Wanted]:
    """Return the conditions of a ClusterResourceOptimization."""
    problem = cluster.problem
    if problem is not None:
        reason, message = problem.reason, problem.message
        measured = Wanted(ConditionType.METRICS_AVAILABLE, _UNKNOWN, reason, message)
    else:
        measured = _agents(cluster)
    analysis = (
        Wanted(ConditionType.ANALYSIS_COMPLETE, _NO, problem.reason, problem.message)
        if problem
        else Wanted(ConditionType.ANALYSIS_COMPLETE, _YES, Reason.SUCCEEDED)
    )
    prices = _node_prices(cluster)
    return [
        *_summary(problem, measured),
        measured,
        analysis,
        prices,
        within_limits(cluster),
        _doubts(cluster),
    ]


def _doubts(cluster: ClusterWork) -> Wanted:
    """Judge whether it is ours alone, what is known of the nodes can be so, and their GPUs are well."""
    if cluster.problem is not None:
        return Wanted(ConditionType.DEGRADED, _YES, cluster.problem.reason, cluster.problem.message)
    if cluster.claim.other is not None:
        return _other_operator(cluster.claim)
    sick = gpu_health.cluster_condition(cluster)
    if sick is not None:
        return sick
    if not cluster.doubts:
        return Wanted(ConditionType.DEGRADED, _NO, Reason.SUCCEEDED)
    more = f" (and {len(cluster.doubts) - 1} more)" if len(cluster.doubts) > 1 else ""
    text = f"{cluster.doubts[0]}{more}. Nothing is proposed about what this concerns."
    return Wanted(ConditionType.DEGRADED, _YES, Reason.INVALID_DATA, text)


_BY_FAULT = {
    PriceFault.MISSING: Reason.PRICE_MISSING,
    PriceFault.INVALID: Reason.PRICE_INVALID,
    PriceFault.CURRENCY: Reason.CURRENCY_MISMATCH,
    PriceFault.SOURCE: Reason.PRICES_UNREADABLE,
}


def _service_prices(service: ServiceWork) -> Wanted:
    """Judge whether the nodes of the service's pods have prices."""
    kind, cost = ConditionType.PRICES_KNOWN, service.cost
    if cost is None:
        return Wanted(kind, _UNKNOWN, Reason.NOT_YET_ANALYZED)
    if cost.trouble is not None:
        return _trouble(cost.trouble)
    if isinstance(cost.held, Unknown):
        if cost.held.reason is UnknownReason.NOT_MEASURED:
            return Wanted(kind, _UNKNOWN, Reason.NO_PODS, cost.held.detail)
        return Wanted(kind, _NO, Reason.PRICE_MISSING, cost.held.detail)
    return Wanted(kind, _YES, Reason.SUCCEEDED, "the nodes of its pods have prices; status.cost.sources says whose")


def _node_prices(cluster: ClusterWork) -> Wanted:
    """Judge whether all nodes have prices; the worst trouble speaks for the object."""
    kind = ConditionType.PRICES_KNOWN
    if not cluster.node_prices:
        return Wanted(kind, _UNKNOWN, Reason.NOT_YET_ANALYZED, "no node is seen")
    found = troubles(cluster.node_prices.values())
    if found:
        return _trouble(found[0])
    return Wanted(kind, _YES, Reason.SUCCEEDED, "every node has a price; status.pools says whose")


def _trouble(trouble: PriceTrouble) -> Wanted:
    reason = _BY_FAULT[trouble.fault]
    others = [node for node in trouble.nodes[1:5] if trouble.nodes]
    more = f"; the same holds for {', '.join(others)}" if others else ""
    more += f" and {len(trouble.nodes) - 5} more" if len(trouble.nodes) > 5 else ""
    return Wanted(ConditionType.PRICES_KNOWN, _NO, reason, f"{trouble.why}{more}")


def _agents(cluster: ClusterWork) -> Wanted:
    kind = ConditionType.METRICS_AVAILABLE
    holding = [node for node in cluster.nodes.values() if node.gpus > 0]
    if not holding:
        return Wanted(kind, _YES, Reason.SUCCEEDED, "no node has GPUs")
    heard = [node for node in holding if node.name in cluster.heard]
    if not heard:
        failed = next((node.agent_error for node in holding if node.agent_error is not None), None)
        lost = sorted(node.name for node in holding if not node.ready)
        if len(lost) == len(holding):
            remedy = EXPLANATIONS[Reason.NODES_NOT_READY].remedy
            return Wanted(kind, _NO, Reason.NODES_NOT_READY, f"no agent is heard: {_few(lost)} not ready. {remedy}")
        if failed is None and any(node.agent for node in holding):
            return Wanted(kind, _NO, Reason.AGENT_UNREACHABLE)
        remedy = EXPLANATIONS[Reason.AGENT_UNREACHABLE].remedy
        if failed is None and cluster.heard:
            # Agents run in this cluster and on none of these: nobody is to be waited for.
            text = f"no agent runs on {_few(sorted(node.name for node in holding))}. {remedy}"
            return Wanted(kind, _NO, Reason.AGENT_UNREACHABLE, text)
        if failed is None:
            return Wanted(kind, _UNKNOWN, Reason.COLLECTING, "waiting for the agents of the GPU nodes")
        return Wanted(kind, _NO, Reason.AGENT_UNREACHABLE, f"{failed.detail}. {remedy}")
    if len(heard) < len(holding):
        silent = sorted(
            node.name if node.ready else f"{node.name} (not ready)"
            for node in holding
            if node.name not in cluster.heard
        )
        return Wanted(kind, _YES, Reason.PARTIAL_METRICS, f"no agent is heard on {', '.join(silent[:5])}")
    return Wanted(kind, _YES, Reason.SUCCEEDED, "the agents of all GPU nodes are heard")
