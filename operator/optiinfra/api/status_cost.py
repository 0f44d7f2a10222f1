"""From what a service costs to what its status shows: every unknown with its reason, few digits where traffic moves.

What pods ask for is told with four digits, like other numbers. What is used, and what a token costs, has two: it moves
with every minute's traffic, and a status is no time series.
"""

from collections.abc import Sequence

from optiinfra.api.status_from import cut, to_measured
from optiinfra.api.v1alpha1.cost import MAX_SOURCES, CostStatus, PriceSourceStatus, TokenPriceStatus
from optiinfra.api.v1alpha1.status_parts import Measured
from optiinfra.domain.prices import Origin
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.service_cost import ServiceCost


def to_cost(cost: ServiceCost) -> CostStatus:
    """Write what a service costs."""
    return CostStatus(
        currency=cut(cost.currency, 3),
        per_hour=to_measured(cost.held),
        used_per_hour=_amount(cost.used),
        per_replica_hour=to_measured(cost.per_replica),
        per_million_tokens=tuple(
            TokenPriceStatus(
                basis=one.basis, charge=one.charge, prompt=_amount(one.prompt), generation=_amount(one.generation)
            )
            for one in cost.tokens
        ),
        sources=to_sources(cost.origins),
    )


def to_sources(origins: Sequence[tuple[Origin, int]]) -> tuple[PriceSourceStatus, ...]:
    """Write whose prices something has; what exceeds the bound is the rarest."""
    return tuple(
        PriceSourceStatus(
            source=str(origin.source), detail=cut(origin.detail, 256), as_of=cut(origin.as_of, 10), priced=count
        )
        for origin, count in origins[:MAX_SOURCES]
    )


def _amount(value: Value) -> Measured:
    """Two digits."""
    return to_measured(value if isinstance(value, Unknown) else float(f"{value:.2g}"))
