"""What is compared with the real VPA recommender: traces as workloads, some made-up corners, and the baseline's answer.

The trace ends now: its last days are laid onto the wall clock, the newest of them told one by one and what came before
as history. The baseline is given exactly what the recommender was told, at the times that it was told for;
whether the telling is right is not the question here, the recommender's arithmetic is.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hack.real_vpa import KILL_SECONDS, Kill, Look, Played, Recommended, Sample, Series, Workload, play, vpa_cluster
from optiinfra.domain.histogram import DAY
from optiinfra.domain.replay import vpa
from optiinfra.domain.replay.usage import FloatArray, Usage

STEP: Final = 300.0
MEBIBYTE: Final = 1024.0**2
KILL_AT: Final = 100
KILLED: Final = "killed"


@dataclass(frozen=True, slots=True)
class Compared:
    """One container: what the real recommender said last, what the baseline says, and the differences on the way.

    A difference is relative: real over baseline, less one.
    """

    workload: str
    container: str
    real: Recommended
    baseline: Recommended
    exact: FloatArray
    """(looks, 6): target, lower, upper of CPU, then of memory; with CPU use rounded as that of its source is."""
    cut: FloatArray
    """The same with use cut to millicores wherever it comes from, as the baseline does by itself."""


def corners(usage: Usage) -> dict[str, list[Usage]]:
    """Return made-up pods from one trace: a small sidecar, times not measured, growth, and use of all sizes."""
    day = np.floor(usage.time / DAY)
    missing = (day == day[-1] - 3.0) | ((day == day[-1]) & (np.arange(len(day)) % 7 == 0))
    random = np.random.default_rng(20261121)
    steps = np.exp(random.uniform(np.log(0.005), np.log(64.0), len(day)))
    growth = 1.0 + 4.0 * np.arange(len(day)) / len(day)

    def made(cores: FloatArray, amount: FloatArray) -> Usage:
        return Usage(usage.time, cores, np.trunc(amount))

    sidecar = made(usage.cpu_cores * 0.002, usage.memory_bytes * 0.01)
    gaps = made(np.where(missing, np.nan, usage.cpu_cores), np.where(missing, np.nan, usage.memory_bytes))
    return {
        "with-sidecar": [usage, sidecar],
        "with-gaps": [gaps],
        "growing": [made(usage.cpu_cores * growth, usage.memory_bytes * growth)],
        "all-sizes": [made(steps, steps * 200.0 * MEBIBYTE)],
        KILLED: [usage],
    }


def workloads_of(traces: Sequence[Usage], *, days: int, now: float) -> list[Workload]:
    """Lay traces and the corners of the first onto the wall clock, so that the newest sample is a few minutes old."""
    last = max(float(usage.time[-1]) for usage in traces)
    shift = math.floor(now / STEP) * STEP - STEP - last
    first = traces[0]
    pods = {f"trace-{number}": [usage] for number, usage in enumerate(traces, 1)} | corners(first)
    request = math.ceil(float(np.nanmax(first.memory_bytes)) / MEBIBYTE) * round(MEBIBYTE)
    return [
        Workload(
            name,
            tuple(
                Series(name, f"container-{number}", tuple(_samples(usage, shift=shift, begin=last - days * DAY)))
                for number, usage in enumerate(containers, 1)
            ),
            request_bytes=request if name == KILLED else None,
        )
        for name, containers in pods.items()
    ]


def _samples(usage: Usage, *, shift: float, begin: float) -> Iterator[Sample]:
    for when, cores, amount in zip(usage.time, usage.cpu_cores, usage.memory_bytes, strict=True):
        if when > begin and not (np.isnan(cores) and np.isnan(amount)):
            known = [None if np.isnan(value) else float(value) for value in (cores, amount)]
            # metrics-server's times are whole seconds.
            yield Sample(math.floor(when + shift), known[0], known[1])


def told(series: Series, *, rounded_from: float = math.inf) -> Usage:
    """Return what a recommender was told of one container.

    It rounds CPU from metrics-server up to whole millicores; with `rounded_from` samples from there on are, too.
    """
    values: dict[float, list[float]] = {}
    for sample in series.told:
        entry = values.setdefault(sample.time, [np.nan, np.nan])
        if sample.cpu_cores is not None:
            up = sample.time >= rounded_from
            entry[0] = math.ceil(round(sample.cpu_cores * 1e9) / 1e6) / 1e3 if up else sample.cpu_cores
        if sample.memory_bytes is not None:
            entry[1] = sample.memory_bytes
    times = sorted(values)
    cores, amounts = np.array([values[one] for one in times]).reshape(-1, 2).T
    return Usage(np.array(times), cores, amounts)


def compared(
    series: Series, looks: Sequence[Look], *, live: float, containers: int = 1, kills: Sequence[vpa.Kill] = ()
) -> Compared:
    """Compare every look at one container with the baseline; where the real one said nothing, the difference is NaN."""
    # Just after the newest sample: a decision sees what is older than itself.
    at = np.array([look.time + KILL_SECONDS / 2.0 for look in looks])
    nothing = Recommended((math.nan,) * 3, (math.nan,) * 3)
    real = [look.recommended.get((series.workload, series.container), nothing) for look in looks]
    theirs = np.array([[*one.cpu_cores, *one.memory_bytes] for one in real])

    def own(usage: Usage) -> FloatArray:
        found = vpa.recommend(usage, at=at, containers=containers, kills=kills)
        parts = [(bounds.target, bounds.lower, bounds.upper) for bounds in (found.cpu, found.memory)]
        return np.array([*parts[0], *parts[1]]).T

    exact, cut = own(told(series, rounded_from=live)), own(told(series))
    newest = exact[-1].tolist()
    baseline = Recommended((newest[0], newest[1], newest[2]), (newest[3], newest[4], newest[5]))
    return Compared(series.workload, series.container, real[-1], baseline, theirs / exact - 1.0, theirs / cut - 1.0)


def run(
    traces: Sequence[Usage], *, days: int, live_days: float, every: int, say: Callable[[str], None] = lambda _: None
) -> tuple[list[Compared], Played]:
    """Play everything on a cluster of its own and compare; raise ClusterError where it cannot go on."""
    with vpa_cluster(say=say) as cluster:
        workloads = workloads_of(traces, days=days, now=time.time())
        newest = max(series.samples[-1].time for workload in workloads for series in workload.series)
        live = newest - live_days * DAY + STEP
        kill = Kill(KILL_AT, KILLED, "container-1")
        played = play(cluster, workloads, history_days=days, live_from=live, every=every, kills=[kill], say=say)
    done = []
    for workload in workloads:
        request = float(workload.request_bytes or 0)
        kills = [vpa.Kill(time, request) for time in played.killed] if workload.name == KILLED else []
        for series in workload.series:
            containers = len(workload.series)
            done.append(compared(series, played.looks, live=live, containers=containers, kills=kills))
    return done, played
