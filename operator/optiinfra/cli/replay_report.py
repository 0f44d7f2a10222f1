"""What a scaling replay prints: a table for people, one document for machines. Nothing is computed here but shares."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from optiinfra.cli.replay_sources import Source
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.replay.comparison import TARGETS, Comparison, TunedHpa
from optiinfra.domain.replay.figures import Figures
from optiinfra.domain.replay.fluid import STEP_S, SYNC_S

_NAME: Final = 26
_HEADER: Final = (
    f"{'':<{_NAME}} {'cost':>6} {'late 10 s':>9} {'late 60 s':>9} {'incidents/30 d':>15} {'worst hour':>10} "
    f"{'actions/d':>9}"
)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica serves, and how that is known."""

    value: float
    """Work per second."""
    basis: str
    """"given", "learned", or "at least": the most that was seen where no queue lasted long enough."""

    @property
    def sentence(self) -> str:
        """For people."""
        told = f"a replica serves {self.value:.6g} work a second"
        if self.basis == "given":
            return f"{told}, as given"
        if self.basis == "learned":
            return f"{told}, learned from the times in which requests waited throughout"
        return (
            f"what a replica serves is unknown, because no queue lasted long enough: at least {self.value:.6g} work a "
            "second, which is used here. So every rule runs more replicas than it needs; costs stay comparable; give "
            "--replica-capacity for exact ones"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is printed."""

    source: Source
    capacity: Capacity
    done: Comparison
    seconds: float
    """CPU time of all decisions."""

    def as_it_ran(self) -> tuple[float, float] | None:
        """(cost, changes a day) of the replicas that were ready; None where that was not recorded."""
        first = round(self.done.setup.count_from_s / STEP_S)
        ready, work = self.source.past.ready[first:], self.source.past.work[first:]
        known = np.isfinite(ready) & np.isfinite(work)
        served = float(work[known].sum()) / self.capacity.value
        if not known.any() or served <= 0.0:
            return None
        changes = int((np.diff(ready[known]) != 0.0).sum())
        return float(ready[known].sum()) / served, changes * 86_400.0 / (known.sum() * STEP_S)

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        done, setup, decision = self.done, self.done.setup, self.done.decision
        ran = self.as_it_ran()
        return {
            **asdict(done.ours.figures),
            "late": done.ours.late,
            "late_after_s": setup.late_after_s,
            "decisions": done.fleet.syncs,
            "cpu_ms_per_decision": 1000.0 * self.seconds / max(1, done.fleet.syncs),
            "initial": setup.initial,
            "start_up_s": setup.start_up_s,
            "rule": decision.rule,
            "rule_weight": decision.weight,
            "reason": str(decision.reason),
            "hpa_target": _known(decision.hpa_target),
            "shrink_delay_s": decision.shrink_delay_s,
            "infeasible": None if decision.infeasible is None else asdict(decision.infeasible),
            "hpa": [{"target": target, **asdict(run.figures)} for target, run in zip(TARGETS, done.plain, strict=True)],
            "tuned_hpa": _tuned(done.tuned),
            "known_future": _unless(done.plan),
            "as_it_ran": None if ran is None else {"cost": ran[0], "actions_per_day": ran[1]},
            "source": {
                "name": self.source.name,
                "days": self.source.past.days,
                "unknown_share": self.source.past.unknown_share,
                "waited_share": _known(self.source.past.waited_share),
                "notes": list(self.source.notes),
            },
            "replica_capacity": asdict(self.capacity),
        }

    def lines(self) -> list[str]:
        """Return the summary, line by line."""
        done, setup = self.done, self.done.setup
        days = (done.fleet.load.shape[1] * STEP_S - setup.count_from_s) / 86_400.0
        lines = [f"{days:.2f} days counted, start-up {setup.start_up_s:g} s, from {setup.initial} replicas", _HEADER]
        lines.append(_row("OptiInfra", done.ours.figures))
        lines += [_row(run.name, run.figures) for run in done.plain]
        if isinstance(done.tuned, Unknown):
            lines.append(f"{'tuned HPA, hindsight':<{_NAME}} {done.tuned.detail}")
        else:
            lines.append(_row(f"tuned HPA {done.tuned.target:g}, hindsight", done.tuned.figures))
        if isinstance(done.plan, Unknown):
            lines.append(f"{'known-future plan':<{_NAME}} {done.plan.detail}")
        else:
            lines.append(_row("known-future plan", done.plan))
        ran = self.as_it_ran()
        if ran is not None:
            lines.append(f"{'as it ran':<{_NAME}} {ran[0]:>6.3f} {'-':>9} {'-':>9} {'-':>15} {'-':>10} {ran[1]:>9.0f}")
        return [*lines, "", *self._sentences()]

    def _sentences(self) -> list[str]:
        setup, decision, past = self.done.setup, self.done.decision, self.source.past
        best = decision.hpa_target
        target = "none holds the objective" if isinstance(best, Unknown) else f"{best}"
        lines = [
            f"source: {self.source.name}, {past.days:.2f} days; {self.capacity.sentence}",
            f"leading rule at the end: {decision.rule} ({decision.weight:.0%} of the decision), {decision.reason}",
            f"best target of a plain HPA: {target}; shrink delay {decision.shrink_delay_s:.0f} s",
        ]
        if decision.infeasible is not None:
            told = decision.infeasible
            lines.append(
                f"infeasible at a bearable price: {told.late_share:.2%} late of the last two days where "
                f"{setup.late_share:.2%} may be; the safest rule would have {told.best_late_share:.2%} at cost "
                f"{told.best_cost:.2f}, with a quarter of the start-up {told.shorter_start_late_share:.2%}, with "
                f"{told.spares} warm spares {told.spares_late_share:.2%}"
            )
        if past.unknown_share > 0.0:
            lines.append(
                f"{past.unknown_share:.2%} of the time the load is not known: lived through as unknown, not counted"
            )
        waited = past.waited_share
        if not isinstance(waited, Unknown) and waited > 0.0:
            lines.append(
                f"{waited:.2%} of the time requests waited: there the record tells what was served, and more was asked "
                "for"
            )
        lines += self.source.notes
        return [*lines, "cost 1.00 is every replica always busy; it is computed in a fluid model, not measured"]

    def decisions(self) -> str:
        """Return `time_s,replicas`, a row a sync."""
        rows = "".join(f"{sync * SYNC_S:g},{replicas:.0f}\n" for sync, replicas in enumerate(self.done.fleet.asked[0]))
        return f"time_s,replicas\n{rows}"


def _row(name: str, one: Figures) -> str:
    return (
        f"{name:<{_NAME}} {one.cost:>6.3f} {one.late10:>9.2%} {one.late60:>9.2%} {one.incidents:>15.0f} "
        f"{one.worst_hour:>10.0%} {one.actions_per_day:>9.0f}"
    )


def _known(value: Value) -> float | None:
    return None if isinstance(value, Unknown) else value


def _tuned(value: TunedHpa | Unknown) -> dict[str, Any]:
    return _unless(value) if isinstance(value, Unknown) else {"target": value.target, **asdict(value.figures)}


def _unless(value: Figures | Unknown) -> dict[str, Any]:
    return {"unknown": value.detail} if isinstance(value, Unknown) else asdict(value)
