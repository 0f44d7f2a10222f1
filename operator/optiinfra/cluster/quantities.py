"""Kubernetes quantities to floats, by the API server's own grammar.

The library's parser does the arithmetic; the grammar stands in front of it, because it accepts "1K" and "1 Gi", which
the API server refuses. Nothing here guesses a unit.
"""

import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from optiinfra.cluster.errors import Malformed
from optiinfra.domain.readings import Unknown, UnknownReason, Value

_GRAMMAR = re.compile(
    r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?\Z"
)


@lru_cache(maxsize=4096)
def quantity(written: str) -> float:
    """Return the number that a quantity stands for ("500m" is 0.5, "1Gi" is 1073741824)."""
    if len(written) > 64 or not _GRAMMAR.match(written):
        raise Malformed(f"{written[:64]!r} is not a quantity (examples: 500m, 2, 1Gi)")
    return float(parse_quantity(written))  # type: ignore[no-untyped-call]  # the library has no types here


def quantity_in(resources: Mapping[str, Any], name: str) -> float | None:
    """Return the quantity of one resource in a ResourceList, or None when it is not mentioned."""
    written = resources.get(name)
    if written is None:
        return None
    # Custom resources and hand-written objects carry bare numbers; the API server's own types never do.
    return quantity(written if isinstance(written, str) else str(written))


def value_in(resources: Mapping[str, Any], name: str, *, missing: str) -> Value:
    """Return the quantity of one resource, or an Unknown with the given words when it is not mentioned."""
    found = quantity_in(resources, name)
    return Unknown(UnknownReason.NOT_CONFIGURED, missing) if found is None else found


def is_gpu(resource: str) -> bool:
    """Tell whether an extended resource is a whole GPU or a MIG instance."""
    return resource in {"nvidia.com/gpu", "amd.com/gpu"} or resource.startswith("nvidia.com/mig-")


def gpu_resources_in(resources: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """Return the GPU resources of a ResourceList by name, without those of none."""
    found = ((name, quantity_in(resources, name) or 0.0) for name in sorted(resources) if is_gpu(name))
    return tuple((sys.intern(name), count) for name, count in found if count)


def gpus_in(resources: Mapping[str, Any]) -> float:
    """Return the GPUs of a ResourceList."""
    return sum(quantity_in(resources, name) or 0.0 for name in resources if is_gpu(name))
