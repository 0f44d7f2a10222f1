"""One pod's start, cut into stages: where the time went between the order of a replica and its first token.

The stages follow each other without a gap, so that they add up to the whole. Where a moment is not told, the time
before it falls to the stage after it, and the stage itself is unknown. The moments come from several clocks (API
server, scheduler, kubelet) in whole seconds: what would end before it began took no time.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import PodFacts

LONGEST_STAGE: Final = 65_534
"""Seconds; a longer stage counts as this long."""
_AT_ONCE: Final = 2
"""Seconds that the scheduler needs at most where there is room; times are whole seconds."""


class Stage(StrEnum):
    """What a new pod goes through, in this order."""

    # Enum's own hash is a Python function.
    __hash__ = str.__hash__

    PENDING = "Pending"
    """Created, until it had a node, while no shortage was reported: scheduling gates, quota queues, the scheduler."""
    NODE = "Node"
    """The scheduler found no room for it: until a node came or got free."""
    SANDBOX = "Sandbox"
    """Volumes and network, until the pod's sandbox was ready."""
    INIT = "Init"
    """Init containers, with the pull of their images."""
    IMAGE = "Image"
    """Pull of the engine's image, until its container ran. Holds the sandbox where the kubelet does not tell it."""
    LOAD = "Load"
    """The engine ran, until all containers were ready: weights, compilation, warm-up, and the probe's period."""
    READY = "Ready"
    """All containers were ready, until the pod was: readiness gates (load balancers)."""
    FIRST_TOKEN = "FirstToken"  # noqa: S105  a stage's name, not a secret
    """Ready, until the engine's page first showed generated tokens. It may only have waited for a request."""


STAGES: Final = tuple(Stage)
BEFORE_READY: Final = STAGES[:-1]
"""The stages that make up the start-up time."""
ONCE_THERE: Final = (Stage.SANDBOX, Stage.INIT, Stage.IMAGE, Stage.LOAD, Stage.READY)
"""Those that come after the pod has its node."""
_PENDING, _NODE, _SANDBOX = range(3)


@dataclass(frozen=True, slots=True)
class Start:
    """How one pod came up, or how far it came."""

    uid: int
    """A hash of the pod's uid."""
    created: int
    """Unix time in whole seconds."""
    total: int
    """Seconds from creation until it was ready; until it was last seen, if it was not."""
    scheduled: int | None
    """Seconds from creation until it had a node; None while it has none."""
    seconds: tuple[int | None, ...]
    """By stage; None where it is not known, or was not reached."""
    current: Stage | None = None
    """The stage that it was in when it was last seen; None once it was ready."""

    @property
    def node_wait(self) -> int | None:
        """Seconds that it waited for a node; None where that is not known."""
        return 0 if self.current is Stage.PENDING else self.seconds[_NODE]

    def with_first_token(self, moment: UnixTime) -> "Start":
        """Return it with the moment at which the engine's page first showed generated tokens."""
        after = _bounded(moment - self.created - self.total)
        return replace(self, seconds=(*self.seconds[:-1], after))


def start_of(pod: PodFacts, *, uid: int, now: UnixTime, unschedulable_since: UnixTime | None, watched: bool) -> Start:
    """Cut a pod's start into stages.

    Args:
        pod: its moments as the API tells them.
        uid: hash that stands for it from here on.
        now: until when it has been in the stage that it is in.
        unschedulable_since: since when it was seen to have no room, which the API forgets once it has some.
        watched: whether it was seen often enough before it had a node to say that it had room all the time.
    """
    total = _since_creation(pod, now if pod.became_ready is None else pod.became_ready)
    ends = _ends(pod, total)
    seconds: list[int | None] = [None] * len(STAGES)
    scheduled = ends[0]
    shortage = None if unschedulable_since is None else min(total, _since_creation(pod, unschedulable_since))
    if scheduled is None and all(end is None for end in ends):
        seconds[_PENDING] = _bounded(total if shortage is None else shortage)
        seconds[_NODE] = None if shortage is None else _bounded(total - shortage)
        current = Stage.PENDING if shortage is None else Stage.NODE
        return Start(uid, round(pod.created), total, None, tuple(seconds), current)
    if scheduled is not None:
        seconds[_PENDING], seconds[_NODE] = _before_node(scheduled, shortage, watched=watched)
    at = scheduled
    for index, end in enumerate(ends[1:], start=_SANDBOX):
        if end is not None:
            seconds[index] = None if at is None else _bounded(end - at)
            at = end
    if ends[-1] is not None:
        return Start(uid, round(pod.created), total, scheduled, tuple(seconds))
    reached = max(index for index, end in enumerate(ends) if end is not None)
    # The first end is that of two stages.
    unfinished = reached + _SANDBOX
    seconds[unfinished] = _bounded(total - (at or 0))
    return Start(uid, round(pod.created), total, scheduled, tuple(seconds), STAGES[unfinished])


def _before_node(scheduled: int, shortage: int | None, *, watched: bool) -> tuple[int | None, int | None]:
    if shortage is not None:
        pending = min(shortage, scheduled)
        return _bounded(pending), _bounded(scheduled - pending)
    if watched or scheduled <= _AT_ONCE:
        return _bounded(scheduled), 0
    return None, None


def _ends(pod: PodFacts, total: int) -> list[int | None]:
    """Return the seconds at which the stages ended, in order; none is later than one that came after it."""
    whole = pod.became_ready if pod.containers_ready is None else pod.containers_ready
    done = pod.initialised
    # A pod without init containers is initialised before its sandbox is there.
    if done is not None and pod.sandbox is not None:
        done = UnixTime(max(done, pod.sandbox))
    moments = (pod.scheduled, pod.sandbox, done, pod.started, whole, pod.became_ready)
    ends: list[int | None] = []
    latest = total
    for moment in reversed(moments):
        if moment is not None:
            latest = min(latest, _since_creation(pod, moment))
        ends.append(None if moment is None else latest)
    return ends[::-1]


def _since_creation(pod: PodFacts, moment: UnixTime) -> int:
    return max(0, round(moment - pod.created))


def _bounded(seconds: float) -> int:
    return min(LONGEST_STAGE, max(0, round(seconds)))
