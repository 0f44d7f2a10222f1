"""From a need to an order: what shadows and the real service share.

The queue is rolled forward over the start-up time with what is already starting. If a backlog would be left when an
order of now is ready, the order clears it within the drain time instead of growing in proportion. Nothing is given
back while a backlog is there or foreseen, nor before a whole lump of replicas is free; a rise of a large service goes a
little further at once; Kubernetes' rise limit and the service's limits hold.
"""

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.tuning import TICK_S, Tuning

Floats = npt.NDArray[np.float32]
RISE_PODS = np.float32(4.0)


def foreseen_backlog(*, queue: Floats, now: Floats, later: Floats, start: Floats, future: Floats) -> Floats:
    """Replica-seconds left when an order of now is ready; negative where capacity is to spare.

    `future` are the replica-ticks that serve until then, `now` and `later` the load at both ends, `start` in ticks.
    """
    left: Floats = queue + ((now + later) * np.float32(0.5) * start - future) * np.float32(TICK_S)
    return left


def order(
    need: Floats,
    *,
    queue: Floats,
    foreseen: Floats,
    later: Floats,
    current: Floats,
    minimum: Floats,
    maximum: Floats,
    tuning: Tuning,
) -> tuple[Floats, Floats]:
    """(replicas to ask for, need including the queue), element by element."""
    late = foreseen > 0.0
    need = np.where(late, np.maximum(need, later + foreseen * np.float32(1.0 / tuning.drain_s)), need)
    target = np.ceil(need - np.float32(tuning.rounding))
    bump = np.maximum(current * np.float32(tuning.rise_share) - np.float32(tuning.rise_slack), 0.0)
    higher = np.ceil(need + (bump - np.float32(tuning.rounding)))
    # A lump, not an offset: an offset is paid for as long as the load falls, and gives back one replica at a time.
    free = np.minimum(np.float32(tuning.shrink_slack), current * np.float32(tuning.shrink_slack_share))
    lower = np.minimum(np.ceil(need + free), current)
    lower = np.where(current - lower < current * np.float32(tuning.shrink_lump), current, lower)
    blocked = late | (queue > 0.0)
    target = np.where(target > current, higher, np.where(blocked, current, lower))
    target = np.clip(target, minimum, maximum)
    return np.minimum(target, current + np.maximum(RISE_PODS, current)).astype(np.float32), need.astype(np.float32)


def late_part(*, before: Floats, after: Floats, ready: Floats, objective_s: Floats) -> Floats:
    """Share of a tick's arrivals that wait longer than the objective, from the queue at both ends of the tick.

    Work that arrives at a queue of q replica-seconds waits q / ready; the queue is taken to move in a straight line.
    """
    limit = ready * objective_s
    highest = np.maximum(before, after)
    share: Floats = np.clip((highest - limit) / (np.abs(after - before) + np.float32(1e-3)), 0.0, 1.0)
    return share
