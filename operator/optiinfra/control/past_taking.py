"""A target's past on its way into its memory: who asks for one, and what may be taken of it.

A round asks once, for targets that neither a checkpoint nor an hour of rounds taught anything; the back-fill answers
some minutes later; a later round takes the answer at its start, so that memories change in one place. What a checkpoint
knows is never replaced, and what was learned of replicas by measuring them full stays.
"""

from typing import Final

from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1.status_parts import HistoryStatus
from optiinfra.control.memory import TargetMemory
from optiinfra.control.past import Past
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain.history import Column
from optiinfra.domain.scaler.tuning import TICK_S
from optiinfra.domain.scaler_past import PastService
from optiinfra.domain.scaling import ScalerMemory, ScalingInput

KNOWN_ENOUGH: Final = 3600.0
"""Seconds of load, or of a container's use, from which nothing is asked for."""
_DAY: Final = 86_400.0


def ask(service: ServiceWork, target: TargetWork, given: ScalingInput) -> None:
    """Ask for the past of a target that knows too little to do without."""
    if target.facts is None or not _wanted(target.memory):
        return
    target.memory.past = Past(
        service.key.namespace,
        target.facts.name,
        PastService(
            given.settings,
            given.minimum,
            given.maximum,
            given.start_up_p50,
            given.start_up_p95,
            given.objectives,
        ),
        given.tick,
    )


def _wanted(memory: TargetMemory) -> bool:
    """Tell whether a target knows too little to do without its past."""
    if memory.past is not None:
        return False
    times = memory.history.series(Column.READY).times
    return not times or times[-1] - times[0] < KNOWN_ENOUGH


def take(memory: TargetMemory) -> bool:
    """Put what was learned into a memory, once; False where nothing waits."""
    past = memory.past
    if past is None or past.learned is None or past.taken:
        return False
    past.taken, learned = True, past.learned
    memory.history.fill_before(learned.times, learned.load)
    if learned.scaler is not None and past.tick == TICK_S:
        measured = memory.scaler.capacity.saturated_ticks > learned.scaler.capacity.saturated_ticks
        capacity = memory.scaler.capacity if measured else learned.scaler.capacity
        memory.scaler = ScalerMemory(learned.scaler.row, learned.scaler.tick, capacity, memory.scaler.last)
    for container, history in learned.usage.items():
        known = memory.usage.get(container)
        if container not in memory.kills and (known is None or known.lifespan < KNOWN_ENOUGH):
            memory.usage[container] = history
            memory.sizes_at = 0.0
    past.starts = memory.start_up.learn(learned.starts, now=learned.at)
    return True


def told(service: ServiceWork) -> HistoryStatus | None:
    """Return what the status says of the history that was read; what it said before where nothing was since."""
    taken = [
        (target.memory.past, learned)
        for target in service.targets
        if target.memory.past is not None and (learned := target.memory.past.learned) is not None
    ]
    if not taken:
        return service.obj.status.history
    begins = [learned.since for _, learned in taken if learned.since is not None]
    missing = sorted({one for _, learned in taken for one in learned.missing})
    starts = sum(past.starts for past, _ in taken)
    some = any(past.tick != TICK_S for past, _ in taken)
    notes = [f"not there: {', '.join(missing)}"] if missing else []
    notes += [f"start-up times of {starts} pods by kube-state-metrics"] if starts else []
    notes += ["nothing for the scaler: its ticks are not the usual 15 s"] if some else []
    if not begins:
        notes = ["the metrics server has no series of its pods", *notes[1:]]
    return HistoryStatus(
        at=Time.of(max(learned.at for _, learned in taken)),
        since=Time.of(min(begins)) if begins else None,
        samples=min(sum({id(learned): learned.samples for _, learned in taken}.values()), 2**31 - 1),
        message="; ".join(notes)[:1024],
    )
