"""What a node's labels say about how it is bought: instance type, region, zone, and on demand, spot or reserved.

The labels are those that kubelets, EKS, GKE, AKS, Karpenter and kOps set. A label that is missing is empty, and a node
without a word about its capacity counts as on demand, which is the dearer answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.scaler.variant import CapacityType

_INSTANCE: Final = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
_REGION: Final = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")
_ZONE: Final = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
_CAPACITY: Final = (
    ("karpenter.sh/capacity-type", {"spot": CapacityType.SPOT, "reserved": CapacityType.RESERVED}),
    ("eks.amazonaws.com/capacityType", {"spot": CapacityType.SPOT, "capacity_block": CapacityType.RESERVED}),
    ("cloud.google.com/gke-spot", {"true": CapacityType.SPOT}),
    ("cloud.google.com/gke-preemptible", {"true": CapacityType.SPOT}),
    ("cloud.google.com/gke-provisioning", {"spot": CapacityType.SPOT, "preemptible": CapacityType.SPOT}),
    ("kubernetes.azure.com/scalesetpriority", {"spot": CapacityType.SPOT}),
    ("node.kubernetes.io/lifecycle", {"spot": CapacityType.SPOT}),
)


@dataclass(frozen=True, slots=True)
class Market:
    """How one node is bought, as far as its labels tell."""

    instance_type: str
    region: str
    zone: str
    capacity: CapacityType


def market_of(labels: Mapping[str, str]) -> Market:
    """Read a node's labels."""
    capacity = next(
        (kinds[value] for label, kinds in _CAPACITY if (value := labels.get(label, "").lower()) in kinds),
        CapacityType.ON_DEMAND,
    )
    return Market(_first(labels, _INSTANCE), _first(labels, _REGION), _first(labels, _ZONE), capacity)


def _first(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")
