"""How sizes are written: quantities that Kubernetes reads, never below the number that they stand for."""

import math
import re
from typing import Final

from optiinfra.domain.pod_shape import Resource

MEBIBYTE: Final = 2.0**20
_WRITTEN: Final = re.compile(r"(\d{1,12})(m|Mi)")


def amount(resource: Resource, value: float) -> str:
    """Write a quantity: millicores, mebibytes."""
    if resource is Resource.CPU:
        return f"{math.ceil(round(value * 1000.0, 6))}m"
    return f"{math.ceil(round(value / MEBIBYTE, 6))}Mi"


def rounded_up(resource: Resource, value: float) -> float:
    """Return the value that `amount` writes."""
    step = 0.001 if resource is Resource.CPU else MEBIBYTE
    return math.ceil(round(value / step, 6)) * step


def read_amount(written: str) -> float | None:
    """Read back what `amount` wrote; None for anything else."""
    match = _WRITTEN.fullmatch(written)
    if match is None:
        return None
    return float(match[1]) * (0.001 if match[2] == "m" else MEBIBYTE)
