"""The way of a workload to zero replicas and back: quiet, asleep, waking.

Only where zero is allowed (`replicas.zero_allowed`). While none runs the decision is to ask for none, and while the
first one starts it is to keep that: whoever sees the queue (KEDA's second trigger) asks for more. A decision of "not
known" would be an error to KEDA at every poll of a quiet night, and its fallback would start replicas on top of the one
that is starting. A first replica that takes much longer than usual is no start any more, and is not known again.
"""

from typing import Final

from optiinfra.control.work import TargetWork
from optiinfra.domain.groups import counted_pages
from optiinfra.domain.last_replica import let_go, listen, quiet_needed
from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import WorkloadFacts

LONGEST_START: Final = 1.5
"""The first replica may take this many times the 95th percentile of a start before nobody waits for it any more."""


def observe(
    target: TargetWork, facts: WorkloadFacts, *, current: int, start_up: Seconds, stale_after: Seconds, now: UnixTime
) -> Rule | None:
    """Note whether anything is asked of a workload; returns the rule of one of which no replica is to be heard.

    `current` are the replicas that are asked for, our own order included where the pods have followed it already.
    """
    memory = target.memory
    if target.limits is None or target.limits.minimum > 0:
        memory.quiet, memory.asleep, memory.woken_at = None, False, None
        return None
    memory.quiet = listen(
        memory.quiet, counted_pages(facts), now=now, stale_after=stale_after, expected=facts.ready_replicas
    )
    if current == 0:
        # Also while pods are still ending: what they say is no reason to start one.
        memory.asleep, memory.woken_at = facts.desired_replicas == 0, None
        return Rule.ASLEEP
    if memory.asleep:
        memory.asleep, memory.woken_at = False, now
    since = memory.woken_at
    if since is None:
        return None
    if facts.ready_replicas > 0 or not 0.0 <= now - since < LONGEST_START * start_up:
        memory.woken_at = None
        return None
    return Rule.WAKING


def last_replica(
    target: TargetWork, decision: ScalingDecision | Unknown, *, tick: Seconds, start_up: Seconds, now: UnixTime
) -> ScalingDecision | Unknown:
    """Let the last replica go where nothing was asked of it for long enough."""
    if isinstance(decision, Unknown) or target.limits is None:
        return decision
    memory = target.memory
    needed = quiet_needed(tick=tick, start_up=start_up, woken=memory.record.woken)
    return let_go(decision, quiet=memory.quiet, minimum=target.limits.minimum, needed=needed, now=now)
