"""`OptimizationCheckpoint` (`ockpt`): the compressed history of one workload, so that a new leader goes on.

Written rarely and only when it would change a decision; owned by its ResourceOptimization, so that it goes with it.
It holds no status: nobody but the operator reads or writes it.
"""

from typing import Annotated

from pydantic import Field

from optiinfra.api.base import ApiModel
from optiinfra.api.scalars import Text, Time
from optiinfra.api.v1alpha1.resource import Column, CustomResource

MAX_STATE = 16_384
"""Characters of base64; about 12 KiB compressed. 5,000 objects of this size are what etcd was measured to bear."""


class Base64(Text):
    """Bytes in base64."""

    __slots__ = ()
    MAX_LENGTH = MAX_STATE
    PATTERN = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
    MESSAGE = "write base64 with padding; this object is written by the operator only: delete it to start anew"


class OptimizationCheckpointSpec(ApiModel):
    """The saved state."""

    version: Annotated[int, Field(ge=1, le=1_000_000)]
    """Format of the state; an operator that does not know it starts anew."""
    time: Time
    """When the state was taken."""
    state: Base64
    """Compressed state in base64."""


class OptimizationCheckpoint(CustomResource):
    """Saved history of one ResourceOptimization. Written by the operator; deleting it costs history, nothing else."""

    KIND = "OptimizationCheckpoint"
    PLURAL = "optimizationcheckpoints"
    SINGULAR = "optimizationcheckpoint"
    SHORT_NAMES = ("ockpt",)
    STATUS_SUBRESOURCE = False
    COLUMNS = (
        Column("VERSION", "integer", ".spec.version", "Format of the state."),
        Column("TAKEN", "date", ".spec.time", "When the state was taken."),
        Column("AGE", "date", ".metadata.creationTimestamp", "Age of the object."),
    )

    spec: OptimizationCheckpointSpec
