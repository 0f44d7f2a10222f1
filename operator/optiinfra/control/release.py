"""Giving back what is held: floors whose object is gone, and everything when the operator is to be removed.

Used by the sweep and by `optiinfra release`. It only ever touches what carries our label or belongs to one of our
objects; whose value somebody else changed since is left as it is.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Absent, ClusterError
from optiinfra.cluster.floor import FloorHeld, FloorRefusal, FloorReleased
from optiinfra.cluster.scalers import ScalerRecord

_LOG = logging.getLogger(__name__)
_STEP_PAUSE = 15.0
"""The HPA controller's default sync: a second step before it would be one jump."""
_MOST_STEPS = 100
STEPS_IN_TIME = 16
"""Steps that fit into the five minutes that Helm and the chart's Job give an uninstall."""
USUAL_STEP = 4
"""Replicas by which a floor goes back at a time when nothing beside it says otherwise; policy's built-in value."""


class FloorGiver(Protocol):
    """Gives a floor back; `optiinfra.cluster.floor` is the real one."""

    async def release(
        self, key: Key, *, uid: str = "", max_step: int | None = None
    ) -> FloorHeld | FloorReleased | FloorRefusal:
        """Give the floor back, or one step of it."""


class OwnDeleter(Protocol):
    """Deletes HPAs of ours; `optiinfra.cluster.own_scaler` is the real one."""

    async def delete(self, key: Key, *, uid: str, resource_version: str = "") -> bool:
        """Delete exactly that one; False when it was gone already."""


@dataclass(frozen=True, slots=True)
class Released:
    """What became of one held HPA."""

    key: Key
    outcome: str
    done: bool


def step_of(record: ScalerRecord) -> int | None:
    """Return the replicas by which this floor is to go back at a time, as its object wanted; None: all at once."""
    written = record.facts.release_step
    return None if written == 0 else written or USUAL_STEP


def step_in_time(record: ScalerRecord) -> int | None:
    """Return the step of `step_of`, or a larger one where an uninstall would not wait for so many of them."""
    step, original = step_of(record), record.facts.original_min_replicas
    if step is None or original is None:
        return step
    return max(step, math.ceil((record.facts.min_replicas - original) / STEPS_IN_TIME))


def orphans(held: Iterable[ScalerRecord], wanted: Callable[[ScalerRecord], bool]) -> list[ScalerRecord]:
    """Return held HPAs that no living object wants to hold."""
    return [record for record in held if not wanted(record)]


async def release_one(floor: FloorGiver, record: ScalerRecord, *, max_step: int | None) -> Released:
    """Take one step of giving back."""
    try:
        outcome = await floor.release(record.key, uid=record.facts.uid, max_step=max_step)
    except Absent:
        return Released(record.key, "the HorizontalPodAutoscaler is gone", done=True)
    except ClusterError as error:
        _LOG.warning("floor not released", extra={"scaler": str(record.key), "error": str(error)})
        return Released(record.key, str(error), done=False)
    match outcome:
        case FloorReleased():
            text = f"minReplicas {outcome.value}" + ("" if outcome.restored else " (changed by somebody else, kept)")
            _LOG.info("floor released", extra={"scaler": str(record.key), "value": outcome.value})
            return Released(record.key, text, done=True)
        case FloorHeld():
            return Released(record.key, f"one step: minReplicas {outcome.value}", done=False)
        case FloorRefusal():
            return Released(record.key, outcome.remedy, done=True)


async def release_all(
    floor: FloorGiver,
    records: Iterable[ScalerRecord],
    *,
    step: Callable[[ScalerRecord], int | None] = step_of,
    pause: float = _STEP_PAUSE,
) -> list[Released]:
    """Give everything back, each in the steps that `step` says; the caller bounds the time."""
    waiting = list(records)
    finished: list[Released] = []
    for _ in range(_MOST_STEPS):
        results = [await release_one(floor, record, max_step=step(record)) for record in waiting]
        finished += [result for result in results if result.done]
        waiting = [record for record, result in zip(waiting, results, strict=True) if not result.done]
        if not waiting:
            return finished
        await asyncio.sleep(pause)
    return finished + [Released(record.key, "not released in time", done=False) for record in waiting]


async def delete_own(own: OwnDeleter, records: Iterable[ScalerRecord]) -> list[Released]:
    """Delete the HPAs that actuation Own made: their metric goes away with the operator. Replica counts stay."""
    results = []
    for record in records:
        if not record.facts.owned_by_us:
            continue  # the label alone makes nothing ours
        try:
            await own.delete(record.key, uid=record.facts.uid)
        except ClusterError as error:
            results.append(Released(record.key, str(error), done=False))
        else:
            results.append(Released(record.key, "deleted; the replica count stays as it is", done=True))
    return results
