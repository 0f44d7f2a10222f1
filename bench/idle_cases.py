"""Synthetic GPUs whose idleness is to be told: every trap that real fleets set, from a seed. Nothing here is measured.

Each case draws when its GPU works, and from that what an agent would have read at 1 s, 15 s, 60 s or 5 min: duty,
memory, power, and for some the share of active multiprocessors. `nab_cases` takes CPU utilisation of virtual machines
(NAB's EC2 files) as a stand-in for duty: real rhythms of people and jobs, of the wrong resource.
"""

import csv
import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optiinfra.domain.idle.replay import History

GIB: Final = 2.0**30
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
Floats = NDArray[np.float64]
Rng = np.random.Generator


@dataclass(slots=True)
class Gpu:
    """One GPU's samples, as a case makes them; NaN is not known."""

    time: Floats
    duty: Floats
    memory: Floats
    power: Floats
    sm_active: Floats


@dataclass(frozen=True, slots=True)
class Case:
    """Some GPUs of one kind."""

    name: str
    history: History
    works_unseen: bool = False
    """It works all the time, though its counters do not show it: every idle verdict is wrong."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of GPU is made."""

    name: str
    make: Callable[[Rng, Floats], Gpu]
    intervals: tuple[float, ...] = (15.0, 60.0, 300.0)
    days: float = 2.0
    gpus: int = 2
    works_unseen: bool = False


@dataclass(slots=True)
class _Shape:
    """What most cases share: memory held, power at rest and at work, noise."""

    memory: float = 70.0 * GIB
    rest_watts: float = 118.0
    work_watts: float = 520.0
    level: tuple[float, float] = (0.3, 0.9)
    measures_sm: bool = True


def joined(gpus: list[Gpu]) -> History:
    """Put some GPUs into one history."""
    lengths = [len(gpu.time) for gpu in gpus]
    return History(
        gpus=tuple(f"gpu{number}" for number in range(len(gpus))),
        start=np.concatenate([[0], np.cumsum(lengths)]).astype(np.intp),
        time=np.concatenate([gpu.time for gpu in gpus]),
        duty=np.concatenate([gpu.duty for gpu in gpus]),
        memory=np.concatenate([gpu.memory for gpu in gpus]),
        power=np.concatenate([gpu.power for gpu in gpus]),
        sm_active=np.concatenate([gpu.sm_active for gpu in gpus]),
    )


def from_bursts(rng: Rng, time: Floats, bursts: list[tuple[float, float]], shape: _Shape | None = None) -> Gpu:
    """Return the samples of a GPU that works in intervals (begin, end); duty is the mean since the sample before."""
    shape = shape or _Shape()
    step = float(np.median(np.diff(time)))
    edges = np.concatenate([[time[0] - step], time])
    done = np.zeros(len(edges))
    for begin, end in bursts:
        level = rng.uniform(*shape.level)
        done += level * np.clip(edges - begin, 0.0, end - begin)
    duty = np.clip(np.diff(done) / np.diff(edges), 0.0, 1.0)
    duty = np.where(duty > 0.0, np.maximum(duty * rng.uniform(0.85, 1.15, len(duty)), 0.0), 0.0).clip(0.0, 1.0)
    power = shape.rest_watts + (shape.work_watts - shape.rest_watts) * duty**0.7
    return Gpu(
        time=time,
        duty=np.round(duty, 4),
        memory=np.full(len(time), shape.memory),
        power=np.round(power + rng.normal(0.0, 1.5, len(time)), 1),
        sm_active=np.round(duty * rng.uniform(0.5, 0.9), 4) if shape.measures_sm else np.full(len(time), np.nan),
    )


def _renewal(rng: Rng, time: Floats, gap: Callable[[], float], work: Callable[[], float]) -> list[tuple[float, float]]:
    now, bursts = float(time[0]) + gap() * rng.uniform(), []
    while now < time[-1]:
        end = now + work()
        bursts.append((now, end))
        now = end + gap()
    return bursts


def _idle_empty(rng: Rng, time: Floats) -> Gpu:
    return from_bursts(rng, time, [], _Shape(memory=0.45 * GIB, rest_watts=70.0))


def _idle_held(rng: Rng, time: Floats) -> Gpu:
    return from_bursts(rng, time, [])


def _steady(rng: Rng, time: Floats) -> Gpu:
    gpu = from_bursts(rng, time, [(time[0] - DAY, time[-1] + DAY)])
    gpu.duty = np.clip(gpu.duty * rng.uniform(0.4, 1.2, len(time)), 0.12, 1.0)
    return gpu


def _bursts(rng: Rng, time: Floats) -> Gpu:
    """Low-duty inference with pauses of 5 to 20 minutes."""
    bursts = _renewal(rng, time, lambda: rng.uniform(5, 20) * MINUTE, lambda: rng.uniform(0.5, 4) * MINUTE)
    return from_bursts(rng, time, bursts, _Shape(level=(0.15, 0.6)))


def _sparse(rng: Rng, time: Floats) -> Gpu:
    """Pauses around half an hour, without a rhythm: the hardest."""
    bursts = _renewal(rng, time, lambda: rng.exponential(30 * MINUTE), lambda: rng.uniform(2, 6) * MINUTE)
    return from_bursts(rng, time, bursts)


def _every(minutes: float) -> Callable[[Rng, Floats], Gpu]:
    def make(rng: Rng, time: Floats) -> Gpu:
        begin = float(time[0]) + rng.uniform(0, minutes * MINUTE)
        starts = np.arange(begin, float(time[-1]), minutes * MINUTE)
        starts += rng.uniform(0, 0.05 * minutes * MINUTE, len(starts))
        length = min(0.2 * minutes, 12.0) * MINUTE
        return from_bursts(rng, time, [(float(start), float(start) + length) for start in starts])

    return make


def _heart_beat(rng: Rng, time: Floats) -> Gpu:
    gpu = from_bursts(rng, time, [])
    gpu.duty = np.full(len(time), 0.01)
    gpu.sm_active = np.full(len(time), 0.0)
    return gpu


def _heart_beat_now_and_then(rng: Rng, time: Floats) -> Gpu:
    gpu = from_bursts(rng, time, [])
    gpu.duty = np.where(rng.uniform(size=len(time)) < 0.3, 0.01, 0.0)
    return gpu


def _background(rng: Rng, time: Floats) -> Gpu:
    gpu = from_bursts(rng, time, [])
    gpu.duty = np.round(rng.normal(0.03, 0.002, len(time)), 3)
    gpu.sm_active = np.full(len(time), np.nan)
    return gpu


def _office(rng: Rng, time: Floats) -> Gpu:
    """Bursts by day, nothing at night."""
    bursts = []
    for day in range(int((time[-1] - time[0]) // DAY) + 2):
        begin = day * DAY + rng.normal(9.0, 0.2) * HOUR
        end = day * DAY + rng.normal(18.0, 0.7) * HOUR
        day_time = np.array([begin, end])
        bursts += _renewal(rng, day_time, lambda: rng.exponential(4 * MINUTE), lambda: rng.uniform(1, 8) * MINUTE)
    return from_bursts(rng, time, bursts)


def _stops(rng: Rng, time: Floats) -> Gpu:
    """A training run that ends, its process stays."""
    end = float(time[0]) + rng.uniform(0.2, 0.6) * float(time[-1] - time[0])
    return from_bursts(rng, time, [(time[0] - HOUR, end)], _Shape(level=(0.85, 0.95)))


def _traffic_ends(rng: Rng, time: Floats) -> Gpu:
    """A service with pauses of some minutes that nobody calls any more after a while."""
    bursts = _renewal(rng, time, lambda: rng.exponential(5 * MINUTE), lambda: rng.uniform(0.5, 3) * MINUTE)
    end = float(time[0]) + rng.uniform(0.2, 0.5) * float(time[-1] - time[0])
    return from_bursts(rng, time, [one for one in bursts if one[1] < end])


def _loads(rng: Rng, time: Floats) -> Gpu:
    """Empty; then a model is loaded for 25 minutes while duty is 0; then it serves."""
    begin = float(time[0]) + 0.3 * float(time[-1] - time[0])
    gpu = from_bursts(rng, time, [(begin + 25 * MINUTE, time[-1] + HOUR)], _Shape(level=(0.5, 0.8)))
    gpu.memory = np.interp(time, [begin, begin + 25 * MINUTE], [0.4 * GIB, 70 * GIB])
    return gpu


def _leaks(rng: Rng, time: Floats) -> Gpu:
    gpu = from_bursts(rng, time, [])
    gpu.memory = 10 * GIB + 0.2 * GIB * (time - time[0]) / HOUR
    return gpu


def _noisy_memory(rng: Rng, time: Floats) -> Gpu:
    gpu = from_bursts(rng, time, [])
    gpu.memory = 60 * GIB * (1.0 + rng.normal(0.0, 0.004, len(time)))
    return gpu


def _duty_missing(rng: Rng, time: Floats) -> Gpu:
    gpu = _bursts(rng, time)
    gpu.duty = np.full(len(time), np.nan)
    gpu.sm_active = np.full(len(time), np.nan)
    return gpu


def _duty_missing_at_times(rng: Rng, time: Floats) -> Gpu:
    gpu = from_bursts(rng, time, [])
    gone = rng.uniform(size=len(time)) < 0.01
    gpu.duty = np.where(gone, np.nan, gpu.duty)
    gpu.sm_active = np.full(len(time), np.nan)
    return gpu


def _counters_stuck(rng: Rng, time: Floats) -> Gpu:
    """Works, which only power tells."""
    gpu = from_bursts(rng, time, [(time[0] - DAY, time[-1] + DAY)], _Shape(level=(0.7, 0.9)))
    gpu.duty = np.zeros(len(time))
    gpu.sm_active = np.full(len(time), np.nan)
    return gpu


def _high_floor(rng: Rng, time: Floats) -> Gpu:
    """A small card that draws 40 % of its limit at rest."""
    shape = _Shape(memory=20 * GIB, rest_watts=29.0, work_watts=70.0)
    bursts = _renewal(rng, time, lambda: rng.uniform(5, 20) * MINUTE, lambda: rng.uniform(1, 4) * MINUTE)
    end = float(time[0]) + 0.4 * float(time[-1] - time[0])
    return from_bursts(rng, time, [one for one in bursts if one[1] < end], shape)


def _high_floor_large(rng: Rng, time: Floats) -> Gpu:
    return from_bursts(rng, time, [], _Shape(rest_watts=280.0, work_watts=690.0))


def _holes(rng: Rng, time: Floats) -> Gpu:
    """Rows that are missing: single ones, and some hours."""
    gpu = _office(rng, time)
    keep = rng.uniform(size=len(time)) > 0.02
    for _ in range(3):
        begin = rng.uniform(float(time[0]), float(time[-1]))
        keep &= ~((time > begin) & (time < begin + rng.uniform(0.5, 3.0) * HOUR))
    return Gpu(*(getattr(gpu, name)[keep] for name in ("time", "duty", "memory", "power", "sm_active")))


def _late(rng: Rng, time: Floats) -> Gpu:
    """Is there only for the last third."""
    first = 2 * len(time) // 3
    gpu = _bursts(rng, time) if rng.uniform() < 0.5 else _idle_held(rng, time)
    return Gpu(*(getattr(gpu, name)[first:] for name in ("time", "duty", "memory", "power", "sm_active")))


def _nightly(rng: Rng, time: Floats) -> Gpu:
    """A batch job at three in the morning, for two hours."""
    days = range(int((time[-1] - time[0]) // DAY) + 2)
    starts = [day * DAY + (3.0 + rng.normal(0.0, 0.05)) * HOUR for day in days]
    return from_bursts(rng, time, [(start, start + rng.uniform(1.5, 2.5) * HOUR) for start in starts])


def _short(rng: Rng, time: Floats) -> Gpu:
    """Read every second for some hours: bursts, then nothing."""
    bursts = _renewal(rng, time, lambda: rng.uniform(3, 12) * MINUTE, lambda: rng.uniform(5, 60))
    end = float(time[0]) + rng.uniform(0.3, 0.6) * float(time[-1] - time[0])
    return from_bursts(rng, time, [one for one in bursts if one[1] < end])


KINDS: Final = (
    Kind("idle, empty", _idle_empty),
    Kind("idle, memory held", _idle_held),
    Kind("busy", _steady),
    Kind("bursts, pauses of 5-20 min", _bursts),
    Kind("bursts, pauses of about 30 min", _sparse),
    Kind("every 20 min", _every(20.0)),
    Kind("every hour", _every(60.0)),
    Kind("every 3 h", _every(180.0), days=7.0, intervals=(60.0, 300.0)),
    Kind("heart-beat of 1 %", _heart_beat),
    Kind("heart-beat now and then", _heart_beat_now_and_then, intervals=(15.0, 60.0)),
    Kind("background of 3 %", _background),
    Kind("office hours", _office, days=7.0, intervals=(60.0, 300.0)),
    Kind("nightly job", _nightly, days=7.0, intervals=(60.0, 300.0)),
    Kind("training that ends", _stops),
    Kind("traffic that ends", _traffic_ends),
    Kind("model loads, duty 0", _loads, days=1.0),
    Kind("memory leak, idle", _leaks),
    Kind("memory with noise, idle", _noisy_memory),
    Kind("duty missing throughout", _duty_missing),
    Kind("duty missing at 1 % of moments", _duty_missing_at_times),
    Kind("counters stuck at 0, power high", _counters_stuck, works_unseen=True),
    Kind("floor of 40 % of 72 W", _high_floor),
    Kind("floor of 40 % of 700 W", _high_floor_large),
    Kind("office hours, rows missing", _holes, days=7.0, intervals=(60.0, 300.0)),
    Kind("appears late", _late),
    Kind("every second, some hours", _short, intervals=(1.0,), days=0.25),
)


def made_up(seed: int, *, kinds: tuple[Kind, ...] = KINDS) -> Iterator[Case]:
    """Make every kind at every interval it has."""
    for number, kind in enumerate(kinds):
        gpus = []
        for interval in kind.intervals:
            for gpu in range(kind.gpus):
                rng = np.random.default_rng([seed, number, int(interval), gpu])
                time = np.arange(0.0, kind.days * DAY, interval)
                gpus.append(kind.make(rng, time))
        yield Case(kind.name, joined(gpus), kind.works_unseen)


def nab_cases(folder: Path) -> Iterator[Case]:
    """Read NAB's CPU utilisation (per cent, every 5 minutes) as duty; memory is made up as held."""
    for path in sorted(folder.rglob("ec2_cpu_utilization_*.csv*")):
        opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()  # noqa: SIM115  closed below
        with opened as text:
            rows = [(row["timestamp"], float(row["value"])) for row in csv.DictReader(text)]
        times = np.array([datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() for at, _ in rows])
        duty = np.array([value / 100.0 for _, value in rows])
        order = np.unique(times, return_index=True)[1]
        unknown = np.full(len(order), np.nan)
        gpu = Gpu(times[order], duty[order], np.full(len(order), 70 * GIB), unknown, unknown)
        name = path.name.removeprefix("ec2_cpu_utilization_").partition(".")[0]
        yield Case(f"NAB EC2 CPU {name}", joined([gpu]))
