"""What is played against the real HPA controller: which HPAs, on which piece of which load, all at once on one cluster.

The comparison tick by tick and the closed loop share a cluster and run side by side, because both mostly wait. A run
ends with an error where the cluster or the metrics failed: half a run is no result.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.hpa_loop import Party, Slice, Way, play_live, prepared, ways
from bench.hpa_steps import CAPACITY, MAXIMUM, Setting, Stepped
from hack.cluster.errors import ClusterError
from hack.real_hpa import DEFAULT_BEHAVIOR, SPEED, TICK_SECONDS, Stage, fast_cluster
from optiinfra.domain.replay.baselines import HpaRate, KedaInFlight
from optiinfra.domain.replay.fluid import STEP_S, STEPS_PER_SYNC, SYNC_S, FloatArray, first_replicas

REPLICAS: Final = 8.0
START_UP_S: Final = 180.0
SLOWEST: Final = 4.0
"""A sync may take this many times its period on a loaded machine before a run is given up."""


def settings(load: FloatArray) -> list[Setting]:
    """Return the HPAs to compare on a load, and two on a load that jumps: there the limits of a rise decide."""
    first = int(first_replicas(load[None, :], minimum=np.ones(1, dtype=np.int64))[0])
    half, usual = np.array([0.5]), np.array([0.7])

    def on(name: str, rule: Callable[[], HpaRate], *, target: float = 0.7, written: bool = False) -> Setting:
        return Setting(name, load, rule, target, START_UP_S, first, DEFAULT_BEHAVIOR if written else None)

    jumps = np.concatenate([np.full(24, 1.3), np.full(60, 9.0), np.full(156, 2.0)])[: max(len(load), 120)]
    return [
        on("rate 0.7", lambda: HpaRate(usual)),
        on("rate 0.5", lambda: HpaRate(half), target=0.5),
        on("rate 0.7, behavior written out", lambda: HpaRate(usual), written=True),
        on("rate 0.7, own 15 s signal", lambda: HpaRate(usual, mean_steps=STEPS_PER_SYNC)),
        on("in flight 0.7", lambda: KedaInFlight(usual)),
        Setting("jumps, rate 0.7", jumps, lambda: HpaRate(usual), 0.7, START_UP_S, 2),
        Setting("jumps, behavior written out", jumps, lambda: HpaRate(usual), 0.7, START_UP_S, 2, DEFAULT_BEHAVIOR),
    ]


def steepest(load: FloatArray, *, syncs: int) -> int:
    """Return the sync at which the piece begins in which the five-minute mean rises most, after the first third.

    One rule for every trace: a piece that was chosen by its results would show whatever one likes.
    """
    width = round(300.0 / STEP_S)
    mean = np.convolve(load, np.full(width, 1.0 / width), "valid")
    length = syncs * STEPS_PER_SYNC
    starts = np.arange(len(load) // 3, len(load) - length + 1, STEPS_PER_SYNC)
    if not len(starts):
        return 0
    rises = [_rise(mean[start : start + length - width + 1]) for start in starts[:: max(1, round(300.0 / SYNC_S))]]
    return int(starts[:: max(1, round(300.0 / SYNC_S))][int(np.argmax(rises))]) // STEPS_PER_SYNC


def _rise(level: FloatArray) -> float:
    """Return the largest rise from an earlier to a later value."""
    return float((level - np.minimum.accumulate(level)).max())


@dataclass(frozen=True, slots=True)
class Played:
    """All that one run left."""

    stepped: tuple[Stepped, ...]
    parties: tuple[Party, ...]
    seconds: float
    stretched: float
    """How many times longer than planned the closed loops took: the machine was as much too slow."""


def run(
    compared: Sequence[Setting],
    pieces: Sequence[Slice],
    *,
    ways_of: Sequence[Way] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Played:
    """Play everything on a cluster of its own; raise ClusterError where it cannot go on."""
    chosen = ways() if ways_of is None else ways_of
    parties = [party for piece in pieces for party in prepared(piece, chosen)]
    with fast_cluster(say=say) as cluster, Stage(cluster) as stage:
        stepped = {f"stepped-{number}": setting for number, setting in enumerate(compared)}
        workloads = {name: _stepped(stage, name, setting) for name, setting in stepped.items()}
        for party in parties:
            stage.add(party.name, replicas=int(party.fleet.replicas[0]), answer=party.answer)
        stage.ready()
        began = time.monotonic()
        for name, setting in stepped.items():
            average = setting.target * CAPACITY
            stage.scalers.scale_with(name, minimum=1, maximum=MAXIMUM, average=average, behavior=setting.behavior)
        stretched = _loop(stage, parties, say=say)
        syncs = max((workload.syncs for workload in workloads.values()), default=0)
        deadline = began + SLOWEST * TICK_SECONDS * syncs
        for workload in workloads.values():
            while not workload.finished.wait(1.0):
                stage.demand()
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{workload.setting.name}: {len(workload.ticks)} of {workload.syncs} syncs after "
                        f"{time.monotonic() - began:.0f} s: the machine is too busy"
                    )
        stage.demand()
        return Played(tuple(workloads.values()), tuple(parties), time.monotonic() - began, stretched)


def _stepped(stage: Stage, name: str, setting: Setting) -> Stepped:
    workload = Stepped(setting, look=lambda: stage.scalers.look(name))
    stage.add(name, replicas=setting.initial, answer=workload.answer)
    return workload


def _loop(stage: Stage, parties: Sequence[Party], *, say: Callable[[str], None]) -> float:
    """Play the closed loops; the HPAs are created after the first publication, so that no metric is ever missing."""
    if not parties:
        return 1.0
    created = threading.Event()

    def on_sync(sync: int) -> None:
        if not created.is_set():
            for party in parties:
                stage.scalers.scale_with(
                    party.name, minimum=1, maximum=MAXIMUM, average=party.way.average, behavior=party.way.behavior
                )
            created.set()
        stage.demand()
        if sync and sync % 60 == 0:
            say(f"{sync * SPEED * TICK_SECONDS / 60.0:.0f} minutes of the trace are played")

    return play_live(parties, stage.scalers.seen, on_sync=on_sync)
