"""A PodDisruptionBudget as facts: which pods it covers, and what the eviction API would ask of it.

Its status lags behind the pods by a moment; the eviction API checks again whatever is planned from it.
"""

from dataclasses import dataclass

from optiinfra.cluster.document import JsonObject, Key, integer, key_of, mapping, text
from optiinfra.cluster.pod_rules import selector_in
from optiinfra.domain.pod_rules import DisruptionBudget


@dataclass(frozen=True, slots=True)
class BudgetRecord:
    """One budget."""

    key: Key
    budget: DisruptionBudget | None
    """None for one without a selector, which covers no pod."""


def parse_budget(document: JsonObject) -> BudgetRecord:
    """Parse a policy/v1 PodDisruptionBudget."""
    key = key_of(document)
    spec, status = mapping(document, "spec"), mapping(document, "status")
    selector = selector_in(spec, "selector")
    if selector is None:
        return BudgetRecord(key, None)
    budget = DisruptionBudget(
        namespace=key.namespace,
        name=key.name,
        selector=selector,
        allowed=integer(status, "disruptionsAllowed"),
        expected=integer(status, "expectedPods"),
        healthy=integer(status, "currentHealthy"),
        desired=integer(status, "desiredHealthy"),
        evicts_unready=text(spec, "unhealthyPodEvictionPolicy") == "AlwaysAllow",
        # The eviction API refuses while the controller has not seen the spec that holds.
        current=integer(status, "observedGeneration") >= integer(document, "metadata", "generation"),
    )
    return BudgetRecord(key, budget)
