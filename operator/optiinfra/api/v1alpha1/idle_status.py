"""Idle GPUs as a status shows them: who holds each, since when, and what it costs an hour.

Only GPUs that were idle for the object's whole window are listed, the dearest and oldest first; what is left out is
counted. Times, not ages, so that an idle cluster's status does not change by itself.
"""

from typing import Annotated

from pydantic import Field

from optiinfra.api.base import ApiModel
from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1.status_parts import ATOMIC, Count, Measured, Name, Short

MAX_IDLE_GPUS = 64
MAX_HOLDERS = 4


class IdleGpuStatus(ApiModel):
    """A GPU that did nothing for the whole window."""

    uuid: Annotated[str, Field(max_length=128)]
    """The GPU, by its uuid."""
    node: Name
    """The node that it is in."""
    model: Annotated[str, Field(max_length=128)] = ""
    """Its model, as the driver names it."""
    state: Short
    """IdleUnallocated, IdleAllocatedEmpty or IdleHeldMemory."""
    holders: Annotated[
        tuple[Annotated[str, Field(max_length=320)], ...], Field(max_length=MAX_HOLDERS, json_schema_extra=ATOMIC)
    ] = ()
    """Pods that hold it (namespace/name); empty when nobody in Kubernetes does, or when it is not known."""
    since: Time
    """Since when it does nothing."""
    per_hour: Measured
    """What it costs an hour, in the object's currency, or why that is not known."""
    confidence: Annotated[float, Field(ge=0, le=1)]
    """Probability that no work comes within the next half hour, in steps of 0.05."""


class IdleGpusStatus(ApiModel):
    """Idle GPUs."""

    gpus: Annotated[tuple[IdleGpuStatus, ...], Field(max_length=MAX_IDLE_GPUS, json_schema_extra=ATOMIC)] = ()
    """The dearest of them first."""
    left_out: Count = 0
    """Idle GPUs that are not listed."""
