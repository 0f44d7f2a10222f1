"""Limits over all objects: the GPU budgets of pools, and how much may be taken away at one time in the whole cluster.

A round carries only the objects that are due, so each target leaves behind what it holds, wants and loses
(`Standing`, `Falling`), and the others are counted by that. A pool of which somebody was not read yet does not grow:
not known is not zero. What a budget refuses is refused to a rise, never taken from what runs; a fall beyond the budget
of falls waits for the ones before it to be verified. The user's own minimum and maximum stay above both.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from optiinfra import metrics
from optiinfra.api.reasons import Reason
from optiinfra.control.isolation import isolated
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import Falling, ObjectMemory, Standing
from optiinfra.control.registry import Registry
from optiinfra.control.work import Fleet, PoolUse, ServiceWork, TargetWork, Work
from optiinfra.domain.pod_rules import DisruptionBudget
from optiinfra.domain.policy import Axis, Limit, LimitReason
from optiinfra.domain.pool_share import Claim, Share, share
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replica_shape import ReplicaShape, replica_count, shape_of
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.shrink_budget import Amount, ShrinkLimits
from optiinfra.domain.units import UnixTime

WISH_LASTS = 180.0
"""Seconds for which a wish that nobody repeats counts: an object whose rounds fail holds up nobody for long."""
SETTLING = 600.0
"""Seconds beyond the verify window after which a fall counts no more, whatever became of it."""
_HOLDS_NOTHING = (Reason.TARGET_NOT_FOUND, Reason.TARGET_WITHOUT_SCALE, Reason.CONFLICT, Reason.INVALID_SPEC)
"""Problems of objects that hold no replica of their own."""


def survey(
    work: Work,
    registry: Registry,
    memories: Mapping[ObjectKey, ObjectMemory],
    budgets: Callable[[], Sequence[DisruptionBudget]],
) -> Fleet:
    """Put together what stands outside of this round."""
    namespaces = {service.key.namespace for service in work.services}
    by_namespace: dict[str, list[DisruptionBudget]] = {}
    for budget in budgets() if namespaces else ():
        if budget.namespace in namespaces:
            by_namespace.setdefault(budget.namespace, []).append(budget)
    covered = {namespace: tuple(found) for namespace, found in by_namespace.items()}
    cluster = next((known for _, known in registry.clusters()), None)
    if cluster is None:
        return Fleet(disruption_budgets=covered)
    limits = cluster.spec.disruption
    pools = {str(pool.name): float(pool.gpu_budget) for pool in cluster.spec.pools if pool.gpu_budget is not None}
    shrinks = ShrinkLimits(limits.max_replicas, limits.max_pods, limits.max_gpus)
    standing: list[Standing] = []
    unread: dict[str, str] = {}
    falling = Amount()
    here = set(work.keys)
    for key, obj in registry.services() if pools or shrinks.limited else ():
        if key in here:
            continue
        memory = memories.get(key)
        targets = list(memory.targets.values()) if memory is not None else []
        pool = obj.spec.pool_ref.name if obj.spec.pool_ref is not None else ""
        known = [target.standing for target in targets if target.standing is not None]
        standing += known
        if pool in pools and (not targets or len(known) < len(targets)):
            unread.setdefault(pool, str(key))
        falls = (target.falling for target in targets if target.falling is not None)
        falling = sum((fall.amount for fall in falls if fall.until > work.at), falling)
    return Fleet(pools, shrinks, tuple(standing), unread, falling, covered)


def bound(work: Work) -> None:
    """Let the limits over all objects have their say on the orders of this round."""
    targets = [(service, target) for service in work.services for target in service.targets]
    for service, target in targets:
        with isolated(service, step="plan"):
            _stand(service, target, now=work.at)
    use = _share_pools(work, targets)
    _limit_falls(work, targets)
    for cluster in work.clusters[:1]:
        cluster.pool_use = use


# pools


def _stand(service: ServiceWork, target: TargetWork, *, now: UnixTime) -> None:
    """Leave behind what a target holds and wants."""
    memory = target.memory
    pool = service.obj.spec.pool_ref.name if service.obj.spec.pool_ref is not None else ""
    problem = target.problem or service.problem
    if target.facts is None:
        if problem is not None and problem.reason in _HOLDS_NOTHING:
            memory.standing = Standing(pool, 0, 0, None, now)
        return
    base, leaving = _base(target), _leaving(target)
    wanted = base if service.dry_run or target.order is None else max(base, target.order)
    shape = memory.shape
    claim = None
    if shape is not None and shape.gpus > 0.0 and pool:
        claim = Claim(
            key=f"{service.key.namespace}/{service.key.name}/{target.target.name}",
            priority=service.obj.spec.priority,
            gpus=shape.gpus,
            held=base + leaving,
            minimum=(target.limits.minimum if target.limits is not None else 0) + leaving,
            wanted=wanted + leaving,
            weight=float(service.obj.spec.weight),
        )
    memory.standing = Standing(pool, base + leaving, wanted + leaving, claim, now)


def _base(target: TargetWork) -> int:
    """Replicas that it has or that are on their way to it."""
    assert target.facts is not None
    return max(target.facts.desired_replicas, target.memory.ordered or 0)


def _leaving(target: TargetWork) -> int:
    """Replicas that go away and still hold their GPUs."""
    assert target.facts is not None
    return max(0, replica_count(target.facts) - max(target.facts.desired_replicas, 0))


def _share_pools(work: Work, targets: Sequence[tuple[ServiceWork, TargetWork]]) -> dict[str, PoolUse]:
    used: dict[str, PoolUse] = {}
    for pool, budget in work.fleet.gpu_budgets.items():
        members = [
            (service, target)
            for service, target in targets
            if service.obj.spec.pool_ref is not None and service.obj.spec.pool_ref.name == pool
        ]
        here = [target.memory.standing for _, target in members if target.memory.standing is not None]
        unread = work.fleet.unread.get(pool, "") or next(
            (str(service.key) for service, target in members if target.memory.standing is None), ""
        )
        others = [_faded(one, now=work.at) for one in work.fleet.standing if one.pool == pool]
        claims = [one.claim for one in (*here, *others) if one.claim is not None]
        shares = dict(zip((claim.key for claim in claims), share(claims, budget=budget), strict=True))
        used[pool] = _use(claims, shares, budget=budget, unread=unread)
        for service, target in members:
            _grant(service, target, shares, use=used[pool], pool=pool)
        metrics.POOL_GPUS.labels(pool, "budget").set(budget)
        metrics.POOL_GPUS.labels(pool, "held").set(used[pool].held)
        metrics.POOL_GPUS.labels(pool, "refused").set(used[pool].refused)
    return used


def _faded(standing: Standing, *, now: UnixTime) -> Standing:
    """Return what is left of it: what it holds stays for ever, an old wish does not."""
    if standing.claim is None or now - standing.at <= WISH_LASTS:
        return standing
    return dataclasses.replace(standing, claim=dataclasses.replace(standing.claim, wanted=standing.claim.held))


def _use(claims: Iterable[Claim], shares: Mapping[str, Share], *, budget: float, unread: str) -> PoolUse:
    rows = [(claim, shares[claim.key]) for claim in claims]
    waiting = sorted(claim.key.rpartition("/")[0] for claim, got in rows if got.refused)
    return PoolUse(
        budget=budget,
        held=sum(claim.gpus * claim.held for claim, _ in rows),
        refused=sum(claim.gpus * got.refused for claim, got in rows),
        waiting=tuple(dict.fromkeys(waiting)),
        unread=unread,
    )


def _grant(service: ServiceWork, target: TargetWork, shares: Mapping[str, Share], *, use: PoolUse, pool: str) -> None:
    """Bring the order of one target down to its share."""
    standing = target.memory.standing
    if target.order is None or target.facts is None or standing is None:
        return
    base = _base(target)
    if target.order <= base:
        return
    claim = standing.claim
    if use.unread:
        allowed, why = base, f"pool {pool}: it is not known yet what {use.unread} holds of its gpuBudget"
    elif claim is None:
        if target.memory.shape is not None:
            return  # no GPUs, so the budget is not its
        allowed, why = base, f"pool {pool}: no replica was seen yet that would show its GPUs"
    else:
        allowed = base + max(0, shares[claim.key].replicas - claim.held)
        why = (
            f"pool {pool}: {use.held:g} of {use.budget:g} GPUs of its gpuBudget are held, and objects want"
            f" {use.refused:g} more than there are; priority {service.obj.spec.priority} gets {allowed} replicas"
        )
    if target.order > allowed:
        _reduce(target, allowed, LimitReason(Limit.POOL_BUDGET, why))


def _reduce(target: TargetWork, count: int, reason: LimitReason) -> None:
    """Take another count than was ordered; the user's limits stay above it."""
    assert target.limits is not None
    assert target.clamped is not None
    target.order = min(max(count, target.limits.minimum), target.limits.maximum)
    target.clamped = target.clamped.but(target.order, reason)


# falls


def _limit_falls(work: Work, targets: Sequence[tuple[ServiceWork, TargetWork]]) -> None:
    in_flight = work.fleet.falling
    fresh: list[tuple[ServiceWork, TargetWork]] = []
    for service, target in targets:
        _settle(target, now=work.at)
        falling = target.memory.falling
        if falling is not None:
            in_flight += falling.amount
        elif not service.dry_run and _falls(target):
            fresh.append((service, target))
    # Who waited longest comes first; the name decides between those that never fell.
    fresh.sort(key=lambda one: (one[1].memory.policy.at(Axis.SCALE_DOWN) or 0.0, str(one[0].key), one[1].target.name))
    for service, target in fresh:
        in_flight += _take(work, service, target, in_flight=in_flight)
    metrics.SHRINK_IN_FLIGHT.labels("replicas").set(in_flight.replicas)
    metrics.SHRINK_IN_FLIGHT.labels("pods").set(in_flight.pods)
    metrics.SHRINK_IN_FLIGHT.labels("gpus").set(in_flight.gpus)


def _falls(target: TargetWork) -> bool:
    return (
        target.order is not None
        and isinstance(target.decision, ScalingDecision)
        and target.order < target.decision.current
    )


def _settle(target: TargetWork, *, now: UnixTime) -> None:
    """Forget a fall that was verified, taken back or is too old; a deeper one than before is a new one."""
    falling = target.memory.falling
    if falling is None:
        return
    current = target.facts.desired_replicas if target.facts is not None else None
    done = current is not None and current <= falling.to and not target.memory.policy.in_flight
    taken_back = target.order is not None and target.order > falling.to
    deeper = target.order is not None and target.order < falling.to
    if done or taken_back or deeper or now >= falling.until:
        target.memory.falling = None


def _take(work: Work, service: ServiceWork, target: TargetWork, *, in_flight: Amount) -> Amount:
    """Let a fall begin as far as the budget of falls goes; returns what it takes."""
    assert target.order is not None
    assert target.facts is not None
    assert isinstance(target.decision, ScalingDecision)
    limits, current = work.fleet.shrink_limits, target.decision.current
    shape = shape_of(target.facts)
    each = Amount(1, 1, 0.0) if isinstance(shape, Unknown) else _amount(shape)
    allowed = limits.allowed(current - target.order, each=each, in_flight=in_flight)
    if allowed < current - target.order:
        why = (
            f"disruption of the cluster: {limits.said()}; {in_flight.replicas} replicas, {in_flight.pods} pods and"
            f" {in_flight.gpus:g} GPUs are being taken away and not verified yet"
        )
        _reduce(target, current - allowed, LimitReason(Limit.SHRINK_BUDGET, why))
    taken = each.times(max(0, current - target.order))
    if target.order < current:
        until = UnixTime(work.at + service.settings.policy.verify_window + SETTLING)
        target.memory.falling = Falling(target.order, taken, until)
    return taken


def _amount(shape: ReplicaShape) -> Amount:
    return Amount(1, shape.pods, shape.gpus)
