"""One load under the operator's decision, under plain HPAs, and under a plan that knew the future.

The plain HPAs are swept over targets, so that the cheapest one that would have held the objective is known too: with
hindsight, which nobody has. So is the known-future plan, the cheapest of a grid. All live the same model, start-up and
limits. A load beyond `PLAN_DAYS` is compared without the plan, which would need more memory than it is worth.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.replay import hindsight
from optiinfra.domain.replay.baselines import HpaRate
from optiinfra.domain.replay.figures import Figures
from optiinfra.domain.replay.fluid import STEP_S, Fleet, FloatArray, Policy, Recorded, play
from optiinfra.domain.replay.gaps import Bools, Gaps
from optiinfra.domain.replay.learned import Learned
from optiinfra.domain.scaler.decision import Decision

TARGETS: Final[tuple[float, ...]] = (0.5, 0.7, 0.8)
"""Targets that are always shown."""
SWEPT: Final[tuple[float, ...]] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
REFERENCE: Final = 0.7
"""The tuned HPA may have no more incidents than this one."""
PLAN_DAYS: Final = 14.0
MOST_CELLS: Final = 2_500_000
"""Runs x steps that are played at once: about 300 MB."""

Stage: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(label, syncs) -> a context that gives a function to call with each sync: how progress is told."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What is replayed."""

    load: FloatArray
    """(1, steps): in replicas, 0 where it is not known."""
    known: Bools
    """(steps,)"""
    start_up_s: float
    minimum: int
    maximum: int
    initial: int
    count_from_s: float = 0.0
    late_after_s: float = 10.0
    late_share: float = 0.01

    @property
    def gaps(self) -> Gaps:
        """Where nothing is known."""
        return Gaps(self.known)

    def fleet(self, runs: int = 1) -> Fleet:
        """Return a fleet at the beginning, the same run several times."""
        return Fleet(
            np.repeat(self.load, runs, axis=0),
            start_up_s=np.full(runs, self.start_up_s),
            initial=np.full(runs, self.initial),
            minimum=np.full(runs, self.minimum),
            maximum=np.full(runs, self.maximum),
        )

    def groups(self, values: Sequence[float]) -> Iterator[tuple[float, ...]]:
        """Cut settings, each a run, into groups that fit the memory."""
        size = max(1, MOST_CELLS // self.load.shape[1])
        for first in range(0, len(values), size):
            yield tuple(values[first : first + size])


@dataclass(frozen=True, slots=True)
class Run:
    """One rule's figures and curves."""

    name: str
    figures: Figures
    late: float
    """Share of the work that waited longer than the setup's objective."""
    ready: Recorded
    """(steps,)"""
    backlog: Recorded
    """(steps,): replica-seconds."""

    def wait(self) -> FloatArray:
        """(steps,): seconds that work waits which arrives then."""
        seconds: FloatArray = self.backlog / np.maximum(self.ready.astype(np.float64), 1.0)
        return seconds


@dataclass(frozen=True, slots=True)
class TunedHpa:
    """The cheapest plain HPA that held the objective, known only afterwards."""

    target: float
    figures: Figures


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was played."""

    setup: Setup
    ours: Run
    fleet: Fleet
    """Our run, with what was asked for."""
    decision: Decision
    """The last one."""
    plain: tuple[Run, ...]
    """Plain HPAs at `TARGETS`."""
    tuned: TunedHpa | Unknown
    plan: Figures | Unknown
    """The known-future plan."""


def compare(setup: Setup, *, stage: Stage) -> Comparison:
    """Play every rule over the load."""
    fleet = setup.fleet()
    learned = Learned(fleet, late_after_s=setup.late_after_s, late_share=setup.late_share)
    with stage("the decision", fleet.syncs) as on_sync:
        play(fleet, setup.gaps.seeing(learned), on_sync=on_sync)
    ours = _runs(setup, fleet, ("OptiInfra",))[0]
    swept = _swept(setup, stage=stage)
    return Comparison(
        setup=setup,
        ours=ours,
        fleet=fleet,
        decision=learned.last.of(0),
        plain=tuple(swept[target] for target in TARGETS),
        tuned=_tuned(setup, swept),
        plan=_plan(setup, stage=stage),
    )


def _runs(setup: Setup, fleet: Fleet, names: tuple[str, ...]) -> list[Run]:
    gaps = setup.gaps
    figures = gaps.ledger(fleet, count_from_s=setup.count_from_s).figures()
    judged = gaps.ledger(fleet, count_from_s=setup.count_from_s, late_after_s=setup.late_after_s).figures()
    return [
        Run(name, told, late.late10, fleet.serving[row], fleet.backlog[row])
        for row, (name, told, late) in enumerate(zip(names, figures, judged, strict=True))
    ]


def _swept(setup: Setup, *, stage: Stage) -> dict[float, Run]:
    found: dict[float, Run] = {}
    for targets in setup.groups(SWEPT):
        fleet = setup.fleet(len(targets))
        policy: Policy = setup.gaps.holding(HpaRate(np.array(targets)))
        with stage(f"plain HPAs at {targets[0]} to {targets[-1]}", fleet.syncs) as on_sync:
            play(fleet, policy, on_sync=on_sync)
        runs = _runs(setup, fleet, tuple(f"HPA at {target}" for target in targets))
        found |= dict(zip(targets, runs, strict=True))
    return found


def _tuned(setup: Setup, swept: dict[float, Run]) -> TunedHpa | Unknown:
    allowed = swept[REFERENCE].figures.incidents + 1e-9
    held = [
        TunedHpa(target, run.figures)
        for target, run in swept.items()
        if run.late <= setup.late_share and run.figures.incidents <= allowed
    ]
    if not held:
        detail = f"no target from {SWEPT[0]} to {SWEPT[-1]} keeps {setup.late_share:.2%} late"
        return Unknown(UnknownReason.NOT_MEASURED, detail)
    return min(held, key=lambda one: one.figures.cost)


def _plan(setup: Setup, *, stage: Stage) -> Figures | Unknown:
    """Search the cheapest plan of the grid that keeps the late share."""
    if setup.load.shape[1] * STEP_S > PLAN_DAYS * 86_400.0:
        return Unknown(UnknownReason.NOT_CONFIGURED, f"not searched on more than {PLAN_DAYS:g} days")
    steps = np.arange(setup.load.shape[1])
    # A gap is planned through on a straight line: nothing is known of it, and a plan of zero would be a cold start.
    filled = np.interp(steps, steps[setup.known], setup.load[0, setup.known])[None, :]
    held: list[Figures] = []
    for width in hindsight.WIDTHS_S:
        for margins in setup.groups(hindsight.MARGINS):
            asked = [
                hindsight.known_future(filled, start_up_s=setup.start_up_s, width_s=width, margin=margin)
                for margin in margins
            ]
            fleet = setup.fleet(len(margins))
            with stage(f"plans that know {width:g} s", fleet.syncs) as on_sync:
                play(fleet, hindsight.Plan(np.concatenate(asked)), on_sync=on_sync)
            runs = _runs(setup, fleet, tuple(str(margin) for margin in margins))
            found = [run.figures for run in runs if run.late <= setup.late_share]
            held += found
            if found:  # wider margins only cost more
                break
    if not held:
        return Unknown(UnknownReason.NOT_MEASURED, f"no plan of the grid keeps {setup.late_share:.2%} late")
    return min(held, key=lambda one: one.cost)
