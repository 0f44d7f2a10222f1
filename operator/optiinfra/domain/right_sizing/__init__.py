"""Right-sizing: CPU and memory requests from what containers use, for a fleet at once.

`UsageHistory` is what is kept of a container, `estimate` says what it needs, `remember` holds advice against what
happened. How it was found, and what it was compared with: docs/design/2026-11-21-right-sizing.md. It sizes no GPUs and
no replicas, proposes nothing and applies nothing.
"""

from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.right_sizing.estimate import estimate, remember
from optiinfra.domain.right_sizing.record import Advice
from optiinfra.domain.right_sizing.sizing import (
    MEBIBYTE,
    STALE_AFTER,
    ContainerEstimate,
    Resource,
    SizingEstimate,
    SizingPolicy,
    SizingReason,
)
from optiinfra.domain.right_sizing.usage import START_UP, ContainerUsage, InvalidUsageError, UsageHistory

__all__ = [
    "MEBIBYTE",
    "STALE_AFTER",
    "START_UP",
    "Advice",
    "ContainerEstimate",
    "ContainerUsage",
    "InvalidCheckpointError",
    "InvalidUsageError",
    "Resource",
    "SizingEstimate",
    "SizingPolicy",
    "SizingReason",
    "UsageHistory",
    "estimate",
    "remember",
]
