"""Which rule decided a count of replicas: the reason codes of a decision, as status, logs and insights carry them.

Most are the scaler's own reasons; those of the what-if before a fall are added. The words of each are in the reference.
"""

from enum import StrEnum
from typing import Final

from optiinfra.domain.scaler.decision import ScalerReason


class Rule(StrEnum):
    """Which rule decided; the reason code of a decision."""

    QUEUE_DRAIN = "QueueDrain"
    """A backlog would be left when a replica asked for now is ready; so many clear it in time."""
    LEARNED = "Learned"
    """What did best on the workload's own load."""
    PRIOR = "Prior"
    """Little history yet: mostly what did best elsewhere."""
    COLLAPSE_HELD = "CollapseHeld"
    """A steady load vanished within an hour; its capacity is kept for its return."""
    CHANGED_BY_OTHERS = "ChangedByOthers"
    """Somebody else asked for more; that is respected for five minutes."""
    PAUSED = "Paused"
    """Somebody paused scaling; the answer is what runs."""
    LOAD_UNKNOWN = "LoadUnknown"
    """The load is not known now: nothing is given back."""
    HOLD = "Hold"
    """Less would do, but giving back is not shown to be safe now; the message says why."""
    PEAKS = "Peaks"
    """Less would do on average; the peaks of the last window need this many."""
    MIX = "Mix"
    """The cheapest mix of the service's variants asks for so many here; the message says why."""
    NO_REQUESTS = "NoRequests"
    """Nothing was asked of the last replica for long enough, and zero is allowed."""
    ASLEEP = "Asleep"
    """No replica runs and zero is allowed: whoever sees the queue asks for the first one."""
    WAKING = "Waking"
    """The first replica after zero starts: it is kept, and nothing is known yet that would ask for more."""
    AT_MINIMUM = "AtMinimum"
    AT_MAXIMUM = "AtMaximum"


_OF: Final = {
    ScalerReason.PAUSED: Rule.PAUSED,
    ScalerReason.UNKNOWN: Rule.LOAD_UNKNOWN,
    ScalerReason.QUEUE: Rule.QUEUE_DRAIN,
    ScalerReason.COLLAPSED: Rule.COLLAPSE_HELD,
    ScalerReason.BY_HAND: Rule.CHANGED_BY_OTHERS,
    ScalerReason.YOUNG: Rule.PRIOR,
    ScalerReason.LEARNED: Rule.LEARNED,
    ScalerReason.AT_MINIMUM: Rule.AT_MINIMUM,
    ScalerReason.AT_MAXIMUM: Rule.AT_MAXIMUM,
}


def rule_of(reason: ScalerReason) -> Rule:
    """Return the reason code of a scaler's reason."""
    return _OF[reason]
