"""How a replica decision reaches the workload: the `scaling` part of a spec."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictBool

from optiinfra.api.base import ApiModel, Rule
from optiinfra.api.scalars import AutoDuration, ObjectName
from optiinfra.api.v1alpha1.common import Switch


class Actuation(StrEnum):
    """How a replica decision reaches the workload."""

    SIGNAL = "Signal"
    OWN = "Own"
    FLOOR = "Floor"


class Takeover(StrEnum):
    """Whether a floor may be taken from managers that only updated it."""

    NEVER = "Never"
    ONCE = "Once"


class Release(StrEnum):
    """How a held floor is given back."""

    STEPS = "Steps"
    IMMEDIATE = "Immediate"


class ScalerKind(StrEnum):
    """Scalers that are understood."""

    HPA = "HorizontalPodAutoscaler"
    SCALED_OBJECT = "ScaledObject"


class ScalerRef(ApiModel):
    """Reference to the scaler that drives the workload, in the same namespace."""

    kind: ScalerKind = ScalerKind.HPA
    """HorizontalPodAutoscaler or ScaledObject (KEDA)."""
    name: ObjectName
    """Name of the scaler."""


class ScaleToZero(ApiModel):
    """Whether the last replica may go."""

    enabled: StrictBool = False
    """Allow zero replicas."""


class Scaling(ApiModel):
    """How replicas are decided and how the decision reaches the workload."""

    actuation: Actuation = Actuation.SIGNAL
    """Signal publishes the desired count and writes nothing; Own creates and owns the HorizontalPodAutoscaler;
    Floor holds minReplicas of the user's one."""
    scaler_ref: ScalerRef | None = None
    """The scaler whose limits are read. Left out: found by its scaleTargetRef."""
    takeover: Takeover = Takeover.NEVER
    """Once: a minReplicas that only Update managers own is taken one time; Never arms it again. For Floor."""
    release: Release = Release.STEPS
    """How a held floor is given back: Steps of policy.maxReplicaStep, or Immediate."""
    min_replicas: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Lowest count. Needed for Own; otherwise it only narrows the scaler's limits."""
    max_replicas: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Highest count. Needed for Own; otherwise it only narrows the scaler's limits."""
    scale_to_zero: ScaleToZero = ScaleToZero()
    """Whether the last replica may go."""
    forecast: Switch = Switch()
    """Whether a forecast may add capacity in time."""
    startup_time: AutoDuration = AutoDuration("Auto")
    """Time from a new pod to its first answer: Auto (measured) or a duration."""

    RULES = (
        Rule(
            cel="self.actuation != 'Own' || (has(self.minReplicas) && has(self.maxReplicas))",
            message="actuation Own needs minReplicas and maxReplicas: set both, or use actuation Signal",
            field="actuation",
            holds=lambda s: s.actuation != Actuation.OWN or (s.min_replicas is not None and s.max_replicas is not None),
        ),
        Rule(
            cel="!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            message="minReplicas must not be above maxReplicas: lower minReplicas or raise maxReplicas",
            field="minReplicas",
            holds=lambda s: s.min_replicas is None or s.max_replicas is None or s.min_replicas <= s.max_replicas,
        ),
        Rule(
            cel="!has(self.minReplicas) || self.minReplicas > 0 || self.scaleToZero.enabled",
            message="minReplicas 0 needs scaleToZero.enabled: true; otherwise set minReplicas to 1 or more",
            field="minReplicas",
            holds=lambda s: s.min_replicas is None or s.min_replicas > 0 or s.scale_to_zero.enabled,
        ),
        Rule(
            cel="!has(self.minReplicas) || self.minReplicas == 0 || !self.scaleToZero.enabled",
            message="scaleToZero.enabled contradicts minReplicas above 0: set minReplicas to 0 or remove it",
            field="scaleToZero",
            holds=lambda s: not s.min_replicas or not s.scale_to_zero.enabled,
        ),
        Rule(
            cel="self.actuation != 'Floor' || !self.scaleToZero.enabled",
            message="actuation Floor cannot scale to zero: set scaleToZero.enabled to false, or use actuation Signal",
            field="scaleToZero",
            holds=lambda s: s.actuation != Actuation.FLOOR or not s.scale_to_zero.enabled,
        ),
        Rule(
            cel="self.takeover != 'Once' || self.actuation == 'Floor'",
            message="takeover Once is only for actuation Floor: set takeover to Never, or actuation to Floor",
            field="takeover",
            holds=lambda s: s.takeover != Takeover.ONCE or s.actuation == Actuation.FLOOR,
        ),
        Rule(
            cel="self.actuation != 'Own' || !has(self.scalerRef)",
            message="actuation Own creates its own scaler: remove scalerRef, or use actuation Signal or Floor",
            field="scalerRef",
            holds=lambda s: s.actuation != Actuation.OWN or s.scaler_ref is None,
        ),
        Rule(
            cel="self.actuation != 'Floor' || !has(self.scalerRef) || self.scalerRef.kind != 'ScaledObject'",
            message=(
                "actuation Floor cannot hold minReplicas of a ScaledObject, whose controller would undo it: use "
                "actuation Signal, or set minReplicaCount on the ScaledObject"
            ),
            field="scalerRef",
            holds=lambda s: (
                s.actuation != Actuation.FLOOR or s.scaler_ref is None or s.scaler_ref.kind != ScalerKind.SCALED_OBJECT
            ),
        ),
    )
