"""Fleets to size: the virtual machines of Google's trace, single CPU series, files of use, and one made up from a seed.

Percents of the trace are told as shares of a machine of 8 cores and 32 GiB, as in `bench/data`. What is made up is for
what ten days cannot show: weeks, months, growth, rare peaks; its figures are no claim about anybody's cluster. Its laws
were chosen so that the VPA's and KRR's figures on it resemble those published for 500 machines over three months.
"""

import csv
import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.cli.replay_rightsizing_source import read_usage
from optiinfra.domain.replay.sizing_figures import Capacity
from optiinfra.domain.replay.usage import Usage

FloatArray = npt.NDArray[np.float64]
DAY: Final = 86_400.0
CORES: Final = 8.0
BYTES: Final = 32.0 * 1024.0**3
OWN: Final = Path(__file__).resolve().parent / "data" / "gcd2011" / "fleet.csv.gz"
MACHINE: Final = Capacity(CORES, BYTES)
SEED: Final = 20_261_121


@dataclass(frozen=True, slots=True)
class Fleet:
    """Containers that are sized together."""

    name: str
    usages: tuple[Usage, ...]
    capacities: tuple[Capacity | None, ...]


def own_fleet() -> Fleet:
    """Return the thirty containers in `bench/data`."""
    return of_file(OWN, name="30 containers, 10 days", capacity=MACHINE)


def of_file(path: Path, *, name: str, capacity: Capacity | None = None) -> Fleet:
    """Read a file of the replay's format. Raises UsageFileError."""
    file = read_usage(path)
    return Fleet(name, file.usages, (capacity,) * len(file.usages))


def folder(path: Path) -> list[Fleet]:
    """Every fleet below a folder: Google's machines (all, and two halves), NAB's CPU series, `*.usage.csv[.gz]`."""
    fleets = []
    for file in sorted(path.rglob("gcd_vms*.csv.gz")):
        usages = google(file)
        order = np.random.default_rng(SEED).permutation(len(usages))
        half = len(usages) // 2
        fleets.append(_machines("Google VMs", usages))
        fleets += [
            _machines(f"Google VMs, half {name}", [usages[row] for row in sorted(rows)])
            for name, rows in (("A", order[:half]), ("B", order[half:]))
        ]
    single = [nab(file) for file in sorted(path.rglob("*cpu_utilization*.csv.gz"))]
    if single:
        fleets.append(_machines("NAB, CPU", single))
    fleets += [of_file(file, name=file.name.partition(".")[0]) for file in sorted(path.rglob("*.usage.csv*"))]
    return fleets


def _machines(name: str, usages: list[Usage]) -> Fleet:
    return Fleet(name, tuple(usages), (MACHINE,) * len(usages))


def google(path: Path) -> list[Usage]:
    """Read `job,day,slot5min,cpu_pct,mem_pct`; one container a job, in the order of their names."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for row in _rows(path):
        time = (float(row["day"]) - 1.0) * DAY + float(row["slot5min"]) * 300.0
        cpu, memory = (float(row[name]) / 100.0 if row[name] else np.nan for name in ("cpu_pct", "mem_pct"))
        found.setdefault(row["job"], []).append((time, cpu * CORES, np.rint(memory * BYTES)))
    return [Usage(*np.array(sorted(found[job])).T.copy()) for job in sorted(found)]


def nab(path: Path) -> Usage:
    """Read `timestamp,value`, percent of CPU; the memory is not known. Of two samples of one moment the first stays."""
    moments, values = [], []
    for row in _rows(path):
        moments.append(np.datetime64(row["timestamp"].replace(" ", "T")))
        values.append(float(row["value"]) / 100.0 * CORES)
    time, first = np.unique(np.array(moments, dtype="datetime64[s]").astype(np.float64), return_index=True)
    cpu = np.array(values)[first]
    return Usage(time - np.floor(time[0] / DAY) * DAY, cpu, np.full(len(time), np.nan))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as text:
        yield from csv.DictReader(text)


def made_up(containers: int = 60, *, days: int = 60, samples: int = 48, seed: int = SEED) -> Fleet:
    """Make a fleet up: `samples` a day for each container, percents of a machine as above."""
    draw = np.random.default_rng(seed)
    time = np.arange(days * samples, dtype=np.float64) * (DAY / samples)
    usages = []
    for _ in range(containers):
        cpu = _cpu(draw, days, samples) / 100.0 * CORES
        memory = np.repeat(_peaks(draw, days), samples) * draw.uniform(0.8, 1.0, days * samples)
        usages.append(Usage(time, cpu, np.rint(memory / 100.0 * BYTES)))
    return _machines(f"made up, {days} days", usages)


def _steps(draw: np.random.Generator, days: int, *, often: float, spread: float) -> FloatArray:
    """A level that stays, and moves at times."""
    moves = np.where(draw.random(days) < often, draw.normal(0.05, spread, days), 0.0)
    return np.asarray(np.clip(np.exp(np.cumsum(moves)), 0.3, 4.0))


def _hits(draw: np.random.Generator, days: int) -> npt.NDArray[np.bool_]:
    """Days of a peak: weekly, monthly, or by chance."""
    day, kind = np.arange(days), draw.random()
    if kind < 0.25:
        return np.asarray((day + draw.integers(7)) % 7 == 0)
    if kind < 0.33:
        return np.asarray((day + draw.integers(30)) % 30 == 0)
    return np.asarray(draw.random(days) < np.exp(draw.uniform(np.log(0.015), np.log(0.6))))


def _peaks(draw: np.random.Generator, days: int) -> FloatArray:
    """Daily memory peaks, percent: steady, restless or spiky, some leaking."""
    base, kind, day = np.exp(draw.normal(np.log(13.0), 0.75)), draw.random(), np.arange(days)
    level = _steps(draw, days, often=0.008, spread=0.45)
    if draw.random() < 0.12:
        level = level * (1.0 + ((day + draw.integers(30)) % draw.integers(10, 40)) * draw.uniform(0.002, 0.02))
    noise = draw.uniform(0.005, 0.06) if kind < 0.38 else draw.uniform(0.05, 0.5)
    peaks = base * level * np.exp(draw.normal(0.0, noise, days))
    if kind > 0.65 or draw.random() < 0.3:
        height = base * np.exp(draw.uniform(np.log(1.7), np.log(9.0)))
        high = np.maximum(peaks, height * np.exp(draw.normal(0.0, 0.2, days)))
        peaks = np.where(_hits(draw, days), high, peaks)
    return np.asarray(np.minimum(peaks, 98.0))


def _cpu(draw: np.random.Generator, days: int, samples: int) -> FloatArray:
    """CPU use, percent: a wandering level, a day's shape, working weeks, a nightly job, runs of hours to days."""
    base, count = np.exp(draw.normal(np.log(11.0), 0.8)), days * samples
    keep, noise = draw.uniform(0.5, 0.95), draw.uniform(0.03, 0.25)
    steps = draw.normal(0.0, np.sqrt(1.0 - keep**2), count)
    wander, last = np.empty(count), 0.0
    for index, step in enumerate(steps.tolist()):
        last = keep * last + step
        wander[index] = last
    use = base * np.exp(noise * wander).reshape(days, samples)
    clock, day = np.arange(samples) / samples, np.arange(days)
    if draw.random() < 0.4:
        shape = np.clip(np.sin(2.0 * np.pi * (clock + draw.random())), -0.8, 1.0)
        use = use * (1.0 + draw.uniform(0.1, 0.6) * shape)[None, :]
        use = use * np.where((day + draw.integers(7)) % 7 < 5, 1.0, draw.uniform(0.4, 0.9))[:, None]
    if draw.random() < 0.4:
        first, long = int(draw.integers(0, samples - 8)), int(draw.integers(1, 8))
        nights = (day + draw.integers(30)) % draw.choice([1, 1, 1, 7, 30]) == 0
        use[nights, first : first + long] += base * np.exp(draw.uniform(np.log(0.3), np.log(4.0)))
    use = (use * _steps(draw, days, often=0.01, spread=0.4)[:, None]).reshape(-1)
    if draw.random() < 0.6:
        height, length = base * np.exp(draw.uniform(np.log(0.5), np.log(6.0))), samples * draw.uniform(0.04, 1.4)
        for _ in range(draw.poisson(np.exp(draw.uniform(np.log(0.02), np.log(0.4))) * days)):
            begin = int(draw.integers(0, count))
            use[begin : begin + 1 + int(draw.exponential(length))] += height
    return np.asarray(np.minimum(use, 100.0))
