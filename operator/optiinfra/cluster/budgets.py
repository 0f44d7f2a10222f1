"""A PodDisruptionBudget as facts: which pods it covers and whether it lets one go now."""

from dataclasses import dataclass

from optiinfra.cluster.document import JsonObject, Key, integer, key_of, mapping
from optiinfra.cluster.labels import Selector, selector_of


@dataclass(frozen=True, slots=True)
class BudgetRecord:
    """One budget."""

    key: Key
    selector: Selector
    blocking: bool
    """It allows no disruption at this moment, and covers at least one pod."""


def parse_budget(document: JsonObject) -> BudgetRecord:
    """Parse a policy/v1 PodDisruptionBudget."""
    status = mapping(document, "status")
    blocking = integer(status, "disruptionsAllowed") <= 0 and integer(status, "expectedPods") > 0
    return BudgetRecord(key_of(document), selector_of(mapping(document, "spec", "selector")), blocking)
