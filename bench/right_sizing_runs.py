"""Rules beside each other on one fleet: ours, the VPA, KRR, perfect knowledge; what peers need to harm as little."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from bench.right_sizing_loads import Fleet
from optiinfra.cli.replay_rightsizing import BESIDE
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replay import krr, vpa
from optiinfra.domain.replay.sizing import Sized, size
from optiinfra.domain.replay.sizing_figures import SizingFigures, Sums, figures, sums
from optiinfra.domain.replay.usage import Requests, Usage

OURS: Final = "OptiInfra"
DRAWS: Final = 400
FACTORS: Final = tuple(1.02**step for step in range(61))
OVER_TIME: Final = 0.013
OOM_DAYS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One rule on one fleet."""

    rule: str
    figures: SizingFigures
    intervals: dict[str, tuple[float, float]]
    """90 %, from drawing containers again, by the figure's name; what is not known is left out."""


@dataclass(frozen=True, slots=True)
class Judged:
    """All rules on one fleet."""

    fleet: Fleet
    sized: Sized
    outcomes: tuple[Outcome, ...]
    needed: tuple[tuple[str, SizingFigures | None, SizingFigures | None], ...]
    """(rule, for over-time, for OOM days): a peer with all its requests multiplied until it does as little harm."""

    def of(self, rule: str) -> Outcome:
        """Return one rule's outcome."""
        return next(one for one in self.outcomes if one.rule == rule)


def _with_kills(usage: Usage) -> Requests:
    return vpa.recommend(usage, at=usage.midnights(), out_of_memory=True).requests


def _krr_kills(usage: Usage) -> Requests:
    return krr.recommend(usage, at=usage.midnights(), strategy=krr.SIMPLE_WITH_KILLS)


MORE: Final[dict[str, Callable[[Usage], Requests]]] = {
    "VPA": BESIDE["VPA"],
    "VPA, told of kills": _with_kills,
    "KRR": BESIDE["KRR"],
    "KRR, told of kills": _krr_kills,
    "KRR p99, memory +30 %": BESIDE["KRR p99, memory +30 %"],
    "perfect knowledge": BESIDE["perfect knowledge"],
}


def judge(fleet: Fleet) -> Judged:
    """Play every rule."""
    sized = size(fleet.usages)
    requests = {OURS: sized.requests} | {name: [rule(usage) for usage in fleet.usages] for name, rule in MORE.items()}
    held = {name: sums(fleet.usages, asked, fleet.capacities) for name, asked in requests.items()}
    outcomes = tuple(_outcome(name, of) for name, of in held.items())
    needed = tuple((name, *_needed(fleet, requests[name])) for name in ("VPA", "KRR", "KRR p99, memory +30 %"))
    return Judged(fleet, sized, outcomes, needed)


def ours(fleet: Fleet) -> tuple[Sized, SizingFigures]:
    """Play our rule alone."""
    sized = size(fleet.usages)
    return sized, figures(sums(fleet.usages, sized.requests, fleet.capacities))


def _outcome(name: str, of: Sums) -> Outcome:
    draw = np.random.default_rng(1)
    count = len(of.cpu_days)
    drawn = [figures(of.drawn(draw.integers(0, count, count))) for _ in range(DRAWS)]
    return Outcome(
        name, figures(of), {one.name: found for one in fields(SizingFigures) if (found := _between(drawn, one.name))}
    )


def _between(drawn: Sequence[SizingFigures], name: str) -> tuple[float, float] | None:
    values = [value for one in drawn if not isinstance(value := getattr(one, name), Unknown)]
    return (float(np.quantile(values, 0.05)), float(np.quantile(values, 0.95))) if values else None


def _needed(fleet: Fleet, requests: Sequence[Requests]) -> tuple[SizingFigures | None, SizingFigures | None]:
    """Multiply a peer's requests until over-time, and OOM days, are what is wanted; None where 3.3 times do not do."""
    cpu: SizingFigures | None = None
    memory: SizingFigures | None = None
    for factor in FACTORS:
        scaled = [Requests(one.time, one.cpu_cores * factor, one.memory_bytes * factor) for one in requests]
        found = figures(sums(fleet.usages, scaled, fleet.capacities))
        over, killed = found.cpu_over_time, found.oom_days_per_100
        if cpu is None and not isinstance(over, Unknown) and over <= OVER_TIME:
            cpu = found
        if memory is None and not isinstance(killed, Unknown) and killed <= OOM_DAYS:
            memory = found
        if cpu is not None and memory is not None:
            break
    return cpu, memory
