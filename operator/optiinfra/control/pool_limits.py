"""Whether pools keep within the limits that the object states for them: GPUs in all, money a month, GPUs of services.

A limit that is passed is told, and nothing is taken away for it; what a `gpuBudget` refuses to those who want to grow
is `optiinfra.control.fleet`'s. A budget of which nobody knows what the pool costs is not known to be kept.
"""

from optiinfra.api.conditions import ConditionStatus, ConditionType, Wanted
from optiinfra.api.reasons import Reason
from optiinfra.control.work import ClusterWork
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import HOURS_PER_MONTH

_KIND = ConditionType.WITHIN_LIMITS
_MOST_NAMED = 5


def within_limits(cluster: ClusterWork) -> Wanted:
    """Judge all pools; the first that passes a limit speaks for all."""
    stated = 0
    unknown = ""
    for pool in cluster.obj.spec.pools:
        nodes = [node for node in cluster.nodes.values() if node.pool == pool.name]
        gpus = sum(node.gpus for node in nodes)
        if pool.max_gpus is not None:
            stated += 1
            if gpus > pool.max_gpus:
                text = f"pool {pool.name} has {gpus:g} GPUs, and maxGpus is {pool.max_gpus}"
                return Wanted(_KIND, ConditionStatus.FALSE, Reason.POOL_OVER_LIMIT, text)
        if pool.monthly_budget is not None:
            stated += 1
            hours = [cluster.node_prices[node.name].hour for node in nodes if node.name in cluster.node_prices]
            known = [hour for hour in hours if not isinstance(hour, Unknown)]
            cost, budget = sum(known) * HOURS_PER_MONTH, float(pool.monthly_budget.money)
            currency = cluster.obj.spec.currency
            if cost > budget:
                text = f"pool {pool.name} costs {cost:,.0f} {currency} a month, and monthlyBudget is {budget:,.0f}"
                return Wanted(_KIND, ConditionStatus.FALSE, Reason.POOL_OVER_BUDGET, text)
            if len(known) < len(nodes):
                unknown = unknown or f"pool {pool.name} has nodes without a price, so nobody knows about its budget"
    shared = _shared(cluster)
    if shared is not None and shared.status is ConditionStatus.FALSE:
        return shared
    if unknown:
        return Wanted(_KIND, ConditionStatus.UNKNOWN, Reason.PRICE_MISSING, unknown)
    if shared is not None:
        return shared
    stated += len(cluster.pool_use)
    text = f"{stated} limits of pools are kept" if stated else "no pool states a limit"
    return Wanted(_KIND, ConditionStatus.TRUE, Reason.SUCCEEDED, text)


def _shared(cluster: ClusterWork) -> Wanted | None:
    """Judge the GPU budgets that objects share; None where they are kept and nobody waits."""
    short: Wanted | None = None
    for name, use in cluster.pool_use.items():
        if use.held > use.budget:
            text = f"the objects of pool {name} hold {use.held:g} GPUs, and gpuBudget is {use.budget:g}"
            return Wanted(_KIND, ConditionStatus.FALSE, Reason.POOL_OVER_GPU_BUDGET, text)
        if use.refused and short is None:
            names = ", ".join(use.waiting[:_MOST_NAMED])
            text = (
                f"gpuBudget of pool {name} is {use.budget:g} GPUs; {use.held:g} are held, {use.refused:g} more wanted"
            )
            short = Wanted(_KIND, ConditionStatus.TRUE, Reason.POOL_SHORT, f"{text} by {names}")
    return short
