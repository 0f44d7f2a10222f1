"""How fast a HorizontalPodAutoscaler itself would add replicas, so that a floor is never raised faster.

minReplicas bypasses `behavior.scaleUp` (measured: 2 became 12 in one sync), hence whoever raises it has to keep the
rules that the user wrote there. The formula is that of the HPA controller (calculateScaleUpLimitWithScalingRules in
pkg/controller/podautoscaler/horizontal.go): each policy allows so much more than what ran when its period began, and
`selectPolicy` picks one of the answers; `stabilizationWindowSeconds` asks that a need has stood for that long. As in
that controller, what happened before a restart is not known. It knows nothing of floors and of users' maxima.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from optiinfra.domain.units import Seconds, UnixTime


class RateKind(StrEnum):
    """What the value of a policy counts."""

    PODS = "Pods"
    PERCENT = "Percent"


class Select(StrEnum):
    """Which of several policies holds."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class RatePolicy:
    """So many replicas, or so many percent of them, within a period."""

    kind: RateKind
    value: int
    period: Seconds


@dataclass(frozen=True, slots=True)
class ScaleUpRules:
    """`behavior.scaleUp` of an HPA; the built-in values are those of Kubernetes."""

    policies: tuple[RatePolicy, ...] = (
        RatePolicy(RateKind.PODS, 4, Seconds(15.0)),
        RatePolicy(RateKind.PERCENT, 100, Seconds(15.0)),
    )
    select: Select = Select.MAX
    stabilization: Seconds = Seconds(0.0)

    @property
    def memory(self) -> Seconds:
        """For how long one has to remember what was seen."""
        return Seconds(max((self.stabilization, *(policy.period for policy in self.policies))))


USUAL_RULES = ScaleUpRules()
"""Of an HPA that says nothing."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment: replicas that were asked for, and how many were needed."""

    time: UnixTime
    replicas: int
    needed: int


def highest(rules: ScaleUpRules, looks: Sequence[Look], *, now: UnixTime, current: int) -> int:
    """Return the largest count that the HPA itself would set now.

    `looks` are in order of time and reach back `rules.memory`, or to the start of this process. Never less than
    `current`: these rules slow a rise, and ask for no fall.
    """
    if rules.select is Select.DISABLED or not rules.policies:
        return current
    proposed = [_allowed(policy, _at(looks, now - policy.period, current)) for policy in rules.policies]
    allowed = max(proposed) if rules.select is Select.MAX else min(proposed)
    if rules.stabilization > 0.0:
        allowed = min(allowed, _stood(rules, looks, now=now, current=current))
    return max(current, allowed)


def remember(looks: Sequence[Look], look: Look, *, rules: ScaleUpRules) -> tuple[Look, ...]:
    """Add a look; those that no rule asks for any more are dropped.

    Looks at the same counts are one, and the first of all is taken as the need of before, as the controller does.
    """
    if not looks:
        return (Look(look.time, look.replicas, min(look.replicas, look.needed)), look)
    if look.time < looks[-1].time:
        return (look,)  # the clock was set back: what was seen before cannot be placed any more
    same = (looks[-1].replicas, looks[-1].needed) == (look.replicas, look.needed)
    kept = list(looks if same else (*looks, look))
    # The newest one at or before the beginning of the longest period tells what ran when it began.
    while len(kept) > 1 and kept[1].time <= look.time - rules.memory:
        kept.pop(0)
    return tuple(kept)


def _allowed(policy: RatePolicy, start: int) -> int:
    if policy.kind is RateKind.PODS:
        return start + policy.value
    # "- 1e-9": 20 x 1.1 is 22.000000000000004 in binary.
    return math.ceil(start * (1.0 + policy.value / 100.0) - 1e-9)


def _at(looks: Sequence[Look], time: float, current: int) -> int:
    """Replicas at a moment: those of the last look before it, else of the first one."""
    before = [look.replicas for look in looks if look.time <= time]
    if before:
        return before[-1]
    return looks[0].replicas if looks else current


def _stood(rules: ScaleUpRules, looks: Sequence[Look], *, now: UnixTime, current: int) -> int:
    """Return the least that was needed at any time of the stabilisation window."""
    since = now - rules.stabilization
    within = [look.needed for look in looks if look.time > since]
    before = [look.needed for look in looks if look.time <= since]
    return min([*within, *before[-1:]], default=current)
