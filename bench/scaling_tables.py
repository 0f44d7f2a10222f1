"""Tables of the scaling bench, as Markdown: what each rule came to, and what was reached of what is needed.

No figure is printed without the others beside it: `cost (late10, incidents per 30 days, worst hour)`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.scaling_runs import LATE_SHARE, Case, Outcome, tuned
from optiinfra.domain.replay.figures import Figures

MULTI_DAY = 3.0
"""Days from which a trace has a history to learn from."""


@dataclass(frozen=True, slots=True)
class Judged:
    """All outcomes that the tables are made of."""

    cases: tuple[Case, ...]
    days: dict[str, float]
    ours: dict[Case, Outcome]
    swept: dict[str, dict[Case, Outcome]]
    others: dict[str, dict[Case, Outcome]]
    future: dict[Case, Outcome]

    def tuned(self, case: Case) -> Outcome | None:
        """The tuned HPA of a case."""
        return tuned(self.swept, case)


def cell(figures: Figures) -> str:
    """One run in a cell."""
    return f"{figures.cost:.3f} ({figures.late10:.2%}, {figures.incidents:.0f}, {figures.worst_hour:.0%})"


def short(figures: Figures) -> str:
    """One run in a narrow cell: cost (late10, incidents per 30 days)."""
    return f"{figures.cost:.2f} ({figures.late10:.1%}, {figures.incidents:.0f})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def name_of(outcome: Outcome | None) -> str:
    """Show an outcome, or that there is none."""
    return "-" if outcome is None else cell(outcome.figures)


def by_rule(judged: Judged, *, replicas: float, start_up_s: float) -> str:
    """Every rule at one size and start-up, one table a trace."""
    text = ""
    for case in judged.cases:
        if (case.replicas, case.start_up_s) != (replicas, start_up_s):
            continue
        text += f"\n### {case.trace}, {judged.days[case.trace]:.2g} days\n\n"
        found = [judged.ours[case], *(each[case] for each in judged.swept.values())]
        found += [each[case] for each in judged.others.values() if case in each]
        if case in judged.future:
            found.append(judged.future[case])
        text += table(
            ("rule", "cost", "90 %", "late10", "late60", "incidents / 30 d", "90 %", "worst hour", "actions / d"),
            [
                (
                    one.rule,
                    f"{one.figures.cost:.3f}",
                    f"{one.low.cost:.3f} - {one.high.cost:.3f}",
                    f"{one.figures.late10:.2%}",
                    f"{one.figures.late60:.2%}",
                    f"{one.figures.incidents:.0f}",
                    f"{one.low.incidents:.0f} - {one.high.incidents:.0f}",
                    f"{one.figures.worst_hour:.0%}",
                    f"{one.figures.actions_per_day:.0f}",
                )
                for one in found
            ],
        )
    return text


def by_start_up(judged: Judged) -> str:
    """Ours beside plain, tuned and known-future over sizes and start-ups."""
    rows = [
        (
            case.trace,
            f"{case.replicas:g}",
            f"{case.start_up_s:g} s",
            cell(judged.ours[case].figures),
            cell(judged.swept["HPA rate 0.7"][case].figures),
            name_of(judged.tuned(case)),
            name_of(judged.future.get(case)),
            f"{judged.ours[case].figures.actions_per_day:.0f} / "
            + (f"{one.figures.actions_per_day:.0f}" if (one := judged.tuned(case)) else "-"),
        )
        for case in judged.cases
    ]
    header = (
        "trace",
        "R",
        "start-up",
        "OptiInfra",
        "HPA 0.7",
        "tuned HPA",
        "known future",
        "actions / d, ours / tuned",
    )
    return table(header, rows)


def by_baseline(judged: Judged, *, rules: Sequence[str]) -> str:
    """Ours beside what else people run, over sizes and start-ups, on the traces of several days."""
    played = {"OptiInfra": judged.ours, **{name: (judged.swept | judged.others)[name] for name in rules}}
    rows = [
        (
            case.trace,
            f"{case.replicas:g}",
            f"{case.start_up_s:g} s",
            *(short(found[case].figures) if case in found else "-" for found in played.values()),
        )
        for case in judged.cases
        if judged.days[case.trace] >= MULTI_DAY
    ]
    return table(("trace", "R", "start-up", *played), rows)


@dataclass(frozen=True, slots=True)
class Line:
    """One demand: what was asked, what was reached, and whether."""

    what: str
    needed: str
    aim: str
    reached: str
    verdict: str


def verdict(*, needed: bool, aim: bool) -> str:
    """Say how far a demand was met."""
    return "aim reached" if needed and aim else "reached" if needed else "MISSED"


def demands(judged: Judged, *, replicas: float, start_up_s: float, fleet_s: float) -> list[Line]:
    """Every demand at one size and start-up, one line a trace where it is about traces."""
    lines: list[Line] = []
    for case in judged.cases:
        if (case.replicas, case.start_up_s) != (replicas, start_up_s):
            continue
        ours, plain = judged.ours[case].figures, judged.swept["HPA rate 0.7"][case].figures
        half, best = judged.swept["HPA rate 0.5"][case].figures, judged.tuned(case)
        if judged.days[case.trace] >= MULTI_DAY and best is not None:
            lines += _multi_day(case, ours, plain, half, best.figures, judged.future.get(case))
        elif best is not None:
            lines += _short(case, ours, plain, best.figures)
        else:
            lines += _impossible(case, judged)
    verdict_fleet = verdict(needed=fleet_s <= 10.0, aim=fleet_s <= 3.0)
    lines.append(Line("decide for 10,000 workloads, one core", "<= 10 s", "<= 3 s", f"{fleet_s:.2f} s", verdict_fleet))
    return lines


def _multi_day(
    case: Case, ours: Figures, plain: Figures, half: Figures, best: Figures, future: Outcome | None
) -> list[Line]:
    late = verdict(needed=ours.late10 <= LATE_SHARE, aim=ours.late10 <= LATE_SHARE / 2)
    few = verdict(needed=ours.incidents <= plain.incidents, aim=ours.incidents <= plain.incidents / 2)
    saved, saved_half = 1.0 - ours.cost / plain.cost, 1.0 - ours.cost / half.cost
    cheap = verdict(needed=saved >= 0.18, aim=saved >= 0.25)
    cheap_half = verdict(needed=saved_half >= 0.40, aim=saved_half >= 0.46)
    middle = best.cost if future is None else (best.cost + future.figures.cost) / 2.0
    below = verdict(needed=ours.cost < best.cost, aim=ours.cost <= middle)
    quiet = verdict(
        needed=ours.actions_per_day <= best.actions_per_day, aim=ours.actions_per_day <= best.actions_per_day
    )
    name = case.trace
    return [
        Line(f"{name}: late10", "<= 1 %", "<= 0.5 %", f"{ours.late10:.2%}", late),
        Line(f"{name}: incidents", f"<= {plain.incidents:.0f}", "half", f"{ours.incidents:.0f}", few),
        Line(f"{name}: cost against HPA 0.5", "-40 %", "-46 %", f"{-saved_half:.1%}", cheap_half),
        Line(f"{name}: cost against HPA 0.7", "-18 %", "-25 %", f"{-saved:.1%}", cheap),
        Line(
            f"{name}: cost against the tuned HPA", f"< {best.cost:.3f}", f"<= {middle:.3f}", f"{ours.cost:.3f}", below
        ),
        Line(f"{name}: actions a day", f"<= {best.actions_per_day:.0f}", "", f"{ours.actions_per_day:.0f}", quiet),
    ]


def _short(case: Case, ours: Figures, plain: Figures, best: Figures) -> list[Line]:
    needed = ours.late10 <= LATE_SHARE and ours.incidents <= plain.incidents and ours.cost <= plain.cost
    aim = needed and ours.cost < best.cost
    return [
        Line(
            f"{case.trace}: cost (late10, incidents, worst hour)",
            f"<= {plain.cost:.3f} (1 %, {plain.incidents:.0f})",
            f"< {best.cost:.3f}",
            cell(ours),
            verdict(needed=needed, aim=aim),
        )
    ]


def _impossible(case: Case, judged: Judged) -> list[Line]:
    """No swept target holds the objective: the lowest lateness at equal cost counts."""
    ours = judged.ours[case].figures
    causal = [*judged.swept.values(), *(each for name, each in judged.others.items() if name != "static peak")]
    rivals = [each[case] for each in causal if case in each]
    cheaper = [one for one in rivals if one.figures.cost <= ours.cost * 1.02]
    lowest = min(cheaper, key=lambda one: one.figures.late10, default=None)
    needed = lowest is None or ours.late10 <= lowest.figures.late10
    told = "no rival at this cost" if lowest is None else f"{lowest.rule}: {cell(lowest.figures)}"
    what = f"{case.trace}: lowest late10 at its cost (nothing causal holds 1 %)"
    return [Line(what, told, "", cell(ours), verdict(needed=needed, aim=False))]


def demand_table(lines: Sequence[Line]) -> str:
    """Return the demands as a table."""
    rows = [(one.what, one.needed, one.aim, one.reached, one.verdict) for one in lines]
    return table(("what", "needed", "aim", "measured", ""), rows)
