"""Playing scaling rules over loads: which rules, at which settings, and what each run came to.

Runs of equal length are played in lockstep, one numpy row each. A rule is made anew for each group, because rules
remember. The known-future plan is searched per run: the cheapest of its grid that keeps 1 % late.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.traces import Trace
from optiinfra.domain.replay import hindsight
from optiinfra.domain.replay.baselines import MEAN_STEPS, HpaRate, HpaUtilization, KedaInFlight, Kpa
from optiinfra.domain.replay.baselines_llm import DynamoLoad, WvaV1, WvaV2
from optiinfra.domain.replay.baselines_predictive import HoltWinters, Linear, PredictiveHpa
from optiinfra.domain.replay.figures import Figures, Ledger
from optiinfra.domain.replay.fluid import (
    STEP_S,
    STEPS_PER_SYNC,
    Fleet,
    FloatArray,
    IntArray,
    Policy,
    View,
    first_replicas,
    play,
)
from optiinfra.domain.replay.learned import Learned

MAXIMUM = 20_000
LATE_SHARE = 0.01
SWEPT = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
MOST_ROWS = 40
"""Rows played at once: each needs about 3.5 MB for eight days."""


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """One workload: a trace at a mean number of busy replicas and a start-up time."""

    trace: str
    replicas: float
    start_up_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one rule came to in one case; `low` and `high` are 90 % intervals from resampling days."""

    rule: str
    figures: Figures
    low: Figures
    high: Figures
    setting: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule by name."""

    name: str
    make: Callable[[Fleet], Policy]


def at(target: float, runs: int) -> FloatArray:
    """One target for every run."""
    return np.full(runs, target)


def _hpa_rate(fleet: Fleet, *, target: float, mean_steps: int = MEAN_STEPS) -> Policy:
    return HpaRate(at(target, len(fleet.load)), mean_steps=mean_steps)


def _hpa_utilization(fleet: Fleet, *, target: float) -> Policy:
    return HpaUtilization(at(target, len(fleet.load)))


def hpa_rules() -> list[Rule]:
    """HPA on the rate at all swept targets."""
    return [Rule(f"HPA rate {target}", partial(_hpa_rate, target=target)) for target in SWEPT]


def other_rules() -> list[Rule]:
    """Everything else that people run."""
    rules = [Rule(f"HPA utilisation {target}", partial(_hpa_utilization, target=target)) for target in (0.5, 0.7, 0.8)]
    rules += [
        Rule(f"HPA rate {target}, 15 s signal", partial(_hpa_rate, target=target, mean_steps=STEPS_PER_SYNC))
        for target in (0.7, 0.8)
    ]
    return [
        *rules,
        Rule("KEDA in flight 0.7", lambda fleet: KedaInFlight(at(0.7, len(fleet.load)))),
        Rule("predictive-HPA linear 0.7", lambda fleet: PredictiveHpa(at(0.7, len(fleet.load)), Linear())),
        Rule("predictive-HPA Holt-Winters 0.7", lambda fleet: PredictiveHpa(at(0.7, len(fleet.load)), HoltWinters())),
        Rule("WVA v1", lambda _: WvaV1()),
        Rule("WVA v2", lambda _: WvaV2()),
        Rule("Dynamo load planner", lambda _: DynamoLoad()),
        Rule("KPA 0.7", lambda fleet: Kpa(at(0.7, len(fleet.load)))),
    ]


OURS = Rule("OptiInfra", Learned)


def fleet_of(cases: Sequence[Case], traces: dict[str, Trace]) -> Fleet:
    """All cases as rows of one fleet."""
    load = np.stack([traces[case.trace].at(case.replicas) for case in cases])
    minimum = np.ones(len(cases), dtype=np.int64)
    return Fleet(
        load,
        start_up_s=np.array([case.start_up_s for case in cases]),
        initial=first_replicas(load, minimum=minimum),
        minimum=minimum,
        maximum=np.full(len(cases), MAXIMUM),
    )


def groups(cases: Sequence[Case], traces: dict[str, Trace]) -> Iterator[list[Case]]:
    """Cases of equal length together, not too many at once."""
    by_length: dict[int, list[Case]] = {}
    for case in cases:
        by_length.setdefault(len(traces[case.trace].work), []).append(case)
    for _, same in sorted(by_length.items()):
        for first in range(0, len(same), MOST_ROWS):
            yield same[first : first + MOST_ROWS]


def outcomes(rule: Rule, cases: Sequence[Case], traces: dict[str, Trace]) -> dict[Case, Outcome]:
    """Play one rule over all cases."""
    found: dict[Case, Outcome] = {}
    for group in groups(cases, traces):
        fleet = fleet_of(group, traces)
        ledger = Ledger.of(play(fleet, rule.make(fleet)))
        for case, figures, (low, high) in zip(group, ledger.figures(), ledger.intervals(), strict=True):
            found[case] = Outcome(rule.name, figures, low, high)
    return found


def known_future(cases: Sequence[Case], traces: dict[str, Trace]) -> dict[Case, Outcome]:
    """Search the plan that knows the future, per case; a case that no setting holds is left out."""
    best: dict[Case, Outcome] = {}
    for width in hindsight.WIDTHS_S:
        left = list(cases)
        for margin in hindsight.MARGINS:
            if not left:
                break
            rule = Rule("known future", partial(_plan, width_s=width, margin=margin))
            for case, outcome in outcomes(rule, left, traces).items():
                if outcome.figures.late10 > LATE_SHARE:
                    continue
                left.remove(case)
                if case not in best or outcome.figures.cost < best[case].figures.cost:
                    best[case] = outcome
    return best


def _plan(fleet: Fleet, *, width_s: float, margin: float) -> hindsight.Plan:
    rows = [
        hindsight.known_future(fleet.load[row : row + 1], start_up_s=steps * STEP_S, width_s=width_s, margin=margin)
        for row, steps in enumerate(fleet.start_up)
    ]
    return hindsight.Plan(np.concatenate(rows))


def static_peak(cases: Sequence[Case], traces: dict[str, Trace]) -> dict[Case, Outcome]:
    """The load's highest minute as a fixed number."""

    def make(fleet: Fleet) -> Policy:
        minutes = np.apply_along_axis(lambda row: np.convolve(row, np.full(12, 1 / 12), "valid").max(), 1, fleet.load)
        fixed = np.ceil(minutes - 1e-9).astype(np.int64)
        fleet.ready = fixed.copy()
        return hindsight.Plan(hindsight.static(fleet.load, replicas=fixed))

    return outcomes(Rule("static peak", make), cases, traces)


def tuned(swept: dict[str, dict[Case, Outcome]], case: Case) -> Outcome | None:
    """The cheapest swept HPA that keeps 1 % late and has no more incidents than 0.7, chosen with hindsight."""
    reference = swept["HPA rate 0.7"][case].figures
    held = [
        outcomes_of[case]
        for outcomes_of in swept.values()
        if outcomes_of[case].figures.late10 <= LATE_SHARE
        and outcomes_of[case].figures.incidents <= reference.incidents + 1e-9
    ]
    return min(held, key=lambda one: one.figures.cost, default=None)


def timed_fleet(workloads: int, *, ticks: int = 44) -> float:
    """Seconds of CPU for one decision of a fleet, mean over ticks that hold two refreshes of the weights."""
    generator = np.random.default_rng(20261121)
    load = generator.uniform(2.0, 30.0, size=(workloads, 1)) * generator.uniform(
        0.8, 1.2, size=(workloads, ticks * STEPS_PER_SYNC)
    )
    starts = generator.choice([60.0, 180.0, 600.0], workloads)
    minimum = np.ones(workloads, dtype=np.int64)
    fleet = Fleet(
        load,
        start_up_s=starts,
        initial=first_replicas(load, minimum=minimum),
        minimum=minimum,
        maximum=np.full(workloads, MAXIMUM),
    )
    learned = Learned(fleet)
    spent: list[float] = []

    def policy(view: View) -> IntArray:
        began = time.process_time()
        asked = learned(view)
        spent.append(time.process_time() - began)
        return asked

    play(fleet, policy)
    return float(np.mean(spent[4:]))
