"""Rules of a namespace that a request has to live with: vertical autoscalers, and the ranges of LimitRanges.

A VerticalPodAutoscaler that acts on a container writes its requests itself; whoever proposes another number starts a
fight that nobody wins. A LimitRange makes the API server refuse pods outside its range. Both are facts read at the
door; where they may not be read, that is an `Unknown`, and the proposal says so instead of pretending that there are
none. Only ranges of type Container are known here: one of type Pod would make the server refuse the rollout, which
the Deployment then says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from optiinfra.domain.pod_shape import Resource
from optiinfra.domain.readings import Unknown, UnknownReason

NOT_READ = Unknown(UnknownReason.NOT_MEASURED, "not read yet")


@dataclass(frozen=True, slots=True)
class ContainerPolicy:
    """What a VerticalPodAutoscaler may do to one container."""

    container: str
    """Its name, or "*" for those without a policy of their own."""
    off: bool = False
    resources: tuple[str, ...] = ("cpu", "memory")


@dataclass(frozen=True, slots=True)
class VerticalScaler:
    """A VerticalPodAutoscaler."""

    name: str
    target_kind: str
    target_name: str
    mode: str
    """updatePolicy.updateMode: Off, Initial, Recreate, Auto, InPlaceOrRecreate ..."""
    policies: tuple[ContainerPolicy, ...] = ()

    def acts_on(self, container: str, resource: Resource) -> bool:
        """Tell whether it sets a container's request; in mode Off it only recommends."""
        if self.mode == "Off":
            return False
        named = [one for one in self.policies if one.container == container]
        found = (named or [one for one in self.policies if one.container == "*"] or [ContainerPolicy("*")])[0]
        return not found.off and str(resource) in found.resources


@dataclass(frozen=True, slots=True)
class ContainerRange:
    """What a LimitRange allows one container, of one resource: cores or bytes; None where it does not say."""

    limit_range: str
    """Its name, for people."""
    resource: Resource
    least: float | None = None
    """Least request."""
    most: float | None = None
    """Highest limit."""
    ratio: float | None = None
    """Highest limit over request."""


@dataclass(frozen=True, slots=True)
class NamespaceRules:
    """The rules of one namespace."""

    vertical_scalers: tuple[VerticalScaler, ...] | Unknown = NOT_READ
    ranges: tuple[ContainerRange, ...] | Unknown = NOT_READ

    def acting(self, *, kind: str, name: str, container: str, resource: Resource) -> VerticalScaler | None:
        """Return the VerticalPodAutoscaler that sets a container's request, as far as is known."""
        if isinstance(self.vertical_scalers, Unknown):
            return None
        return next(
            (
                one
                for one in self.vertical_scalers
                if (one.target_kind, one.target_name) == (kind, name) and one.acts_on(container, resource)
            ),
            None,
        )

    def range_of(self, resource: Resource) -> "AllowedRange":
        """Return what all ranges together allow."""
        if isinstance(self.ranges, Unknown):
            return AllowedRange()
        own = [one for one in self.ranges if one.resource is resource]
        return AllowedRange(
            least=max((one.least for one in own if one.least is not None), default=0.0),
            most=min((one.most for one in own if one.most is not None), default=float("inf")),
            ratio=min((one.ratio for one in own if one.ratio is not None), default=float("inf")),
            names=tuple(sorted({one.limit_range for one in own})),
        )


@dataclass(frozen=True, slots=True)
class AllowedRange:
    """Range of one resource of a container."""

    least: float = 0.0
    most: float = float("inf")
    ratio: float = float("inf")
    names: Sequence[str] = field(default=())
