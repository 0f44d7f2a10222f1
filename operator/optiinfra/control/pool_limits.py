"""Whether pools keep within the limits that the object states for them: GPUs in all, and money a month.

A limit that is passed is told, and nothing is done about it. A budget of which nobody knows what the pool costs is
not known to be kept.
"""

from optiinfra.api.conditions import ConditionStatus, ConditionType, Wanted
from optiinfra.api.reasons import Reason
from optiinfra.control.work import ClusterWork
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import HOURS_PER_MONTH

_KIND = ConditionType.WITHIN_LIMITS


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
    if unknown:
        return Wanted(_KIND, ConditionStatus.UNKNOWN, Reason.PRICE_MISSING, unknown)
    text = f"{stated} limits of pools are kept" if stated else "no pool states a limit"
    return Wanted(_KIND, ConditionStatus.TRUE, Reason.SUCCEEDED, text)
