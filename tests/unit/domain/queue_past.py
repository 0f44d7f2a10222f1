"""Made-up pasts of one service, played second by second by a queue with places and a door, for tests of its limits.

Requests arrive as Poisson's law has them at a rate that is shaken from minute to minute, each replica gets its own part
of them, a place is held for a time of exponential length, and one who finds no place, or too many at the door, waits.
Two things can hold requests back: the places (`places`, the batch limit), and how many are let in each second (`door`:
prompts that have to be computed, a host that is too slow). Nothing in it is measured.
"""

from dataclasses import dataclass, replace

import numpy as np

from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.report.history import EngineConfig
from optiinfra.domain.report.hours import hours_of, settings_of
from optiinfra.domain.report.limits import judged
from tests.unit.domain.report_fleet import END, gpu, model

GRID_S = 300
SCRAPE_S = 15
STAY_S = 5.0
NO_DOOR = 1e9
NOT_TOLD = Unknown(UnknownReason.NOT_MEASURED, "the engine does not tell it")


@dataclass(frozen=True)
class Line:
    """One service: replicas that share its requests evenly at random."""

    load: float
    """Requests that would run if nothing held them back, mean of a replica."""
    places: int
    door: float = NO_DOOR
    """Requests let in per second and replica at most."""
    replicas: int = 1
    unrest: float = 0.4
    """Standard deviation of the logarithm of a minute's rate."""
    skew: float = 1.0
    """Load of the first replica over that of the others."""


def played(lines, *, hours=8.0, seed=1):
    """Play several at once; return running and waiting of each, both (lines, replicas, scrapes)."""
    draw = np.random.default_rng(seed)
    most = max(one.replicas for one in lines)
    shape = (len(lines), most)
    there = np.arange(most)[None, :] < np.array([one.replicas for one in lines])[:, None]
    rate = np.array([one.load for one in lines])[:, None] / STAY_S * there
    rate[:, 0] *= [one.skew for one in lines]
    places = np.array([one.places for one in lines])[:, None]
    door = np.array([one.door for one in lines])[:, None]
    unrest = np.array([one.unrest for one in lines])[:, None]
    running, waiting = np.zeros(shape), np.zeros(shape)
    seconds = round(hours * 3600.0)
    seen = np.zeros((2, *shape, seconds // SCRAPE_S))
    credit = np.zeros(shape)
    for second in range(seconds):
        if second % 60 == 0:
            shaken = rate * np.exp(draw.normal(0.0, unrest, (len(lines), 1)) - unrest**2 / 2.0)
        running -= draw.binomial(running.astype(np.int64), 1.0 - np.exp(-1.0 / STAY_S))
        waiting += draw.poisson(shaken)
        credit = np.minimum(credit + door, np.maximum(door, 1.0))
        let_in = np.floor(np.minimum(np.minimum(waiting, places - running), credit))
        credit -= let_in
        running += let_in
        waiting -= let_in
        if second % SCRAPE_S == SCRAPE_S - 1:
            seen[:, :, :, second // SCRAPE_S] = running, waiting
    return seen


def verdicts(lines, *, hours=8.0, seed=1, told=False):
    """Return the verdicts on each hour of each line; `told`: their pages say the batch limit."""
    running, waiting = played(lines, hours=hours, seed=seed)
    each = GRID_S // SCRAPE_S
    points = running.shape[2] // each
    times = END - float(GRID_S) * np.arange(points - 1, -1, -1.0)
    found = []
    for row, line in enumerate(lines):
        ran, waited = (
            one[row, : line.replicas, : points * each].reshape(line.replicas, points, each)
            for one in (running, waiting)
        )
        past = model(times, "line", busy=np.full(points, 0.5), replicas=line.replicas)
        served = np.maximum(ran.mean(axis=2).sum(axis=0), 1e-3) / STAY_S
        load = replace(
            past.load,
            running=ran.mean(axis=2).sum(axis=0),
            running_highest=ran.max(axis=(0, 2)),
            waiting=waited.mean(axis=2).sum(axis=0),
            waiting_highest=waited.max(axis=2).sum(axis=0),
            queue_mean=waited.mean(axis=2).sum(axis=0) / served,
            requests=served,
            prompt_tokens=served * 500.0,
            generation_tokens=served * 200.0,
        )
        config = EngineConfig(batch_limit=float(line.places) if told else NOT_TOLD, kv_capacity_tokens=400_000.0)
        past = replace(past, load=load, config=config)
        measured = (gpu(times, "GPU-line", "node", np.full(points, 0.8)),)
        hours_told = hours_of(past, measured, times, step_s=float(GRID_S))
        found.append(judged(hours_told, settings=settings_of(past), objectives=Objectives(), promised=False))
    return found
