"""What a service costs, as its status shows it: an hour, a replica-hour, a million tokens, and by whose prices.

What moves with traffic has two digits: a status is no time series (the metrics are).
"""

from typing import Annotated

from pydantic import Field

from optiinfra.api.base import ApiModel
from optiinfra.api.v1alpha1.status_parts import ATOMIC, Count, Measured, Short
from optiinfra.domain.token_cost import Basis, Charge

MAX_SOURCES = 4


class PriceSourceStatus(ApiModel):
    """Where prices are from."""

    source: Short
    """Object, ConfigMap, OpenCost, Prometheus, ListPrice or Default."""
    detail: Annotated[str, Field(max_length=256)] = ""
    """Where to look: a field, a row, an instance type with its region."""
    as_of: Annotated[str, Field(max_length=10)] = ""
    """Date of the price; empty where its source gives none."""
    priced: Count
    """How many are priced by it: pods of a service, nodes of a pool."""


class TokenPriceStatus(ApiModel):
    """Price of a million tokens, over the last hour."""

    basis: Basis
    """How cost is divided between prompts and generation: Generated, Weighted or Time."""
    charge: Charge
    """Which cost is divided: Held (what is paid for) or Used (GPUs as far as they were busy)."""
    prompt: Measured
    """A million prompt tokens, or why it is not known."""
    generation: Measured
    """A million generated tokens, or why it is not known."""


class CostStatus(ApiModel):
    """What the service costs, in `currency`."""

    currency: Annotated[str, Field(max_length=3)] = ""
    """Currency of every amount here."""
    per_hour: Measured
    """All its pods together, by what they ask for, at the prices of their nodes."""
    used_per_hour: Measured
    """The part of it that is used: GPUs as far as they were busy, CPU and memory as asked for."""
    per_replica_hour: Measured
    """One replica."""
    per_million_tokens: Annotated[tuple[TokenPriceStatus, ...], Field(max_length=6, json_schema_extra=ATOMIC)] = ()
    """A million tokens, on every basis."""
    sources: Annotated[tuple[PriceSourceStatus, ...], Field(max_length=MAX_SOURCES, json_schema_extra=ATOMIC)] = ()
    """Whose prices these are, and of when; those of most pods first."""
