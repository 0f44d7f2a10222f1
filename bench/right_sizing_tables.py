"""Tables of right-sizing, Markdown; nothing is computed here but words."""

from collections.abc import Sequence
from typing import Final

from bench.right_sizing_fleet import Cost
from bench.right_sizing_runs import OOM_DAYS, OURS, OVER_TIME, Judged, Outcome
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.replay.sizing_figures import SizingFigures

COLUMNS: Final = (
    ("cpu_provisioned", "CPU requested / provisioned"),
    ("cpu_slack", "CPU slack"),
    ("cpu_over_time", "over-time"),
    ("throttled_days", "throttled days"),
    ("memory_provisioned", "memory requested / provisioned"),
    ("memory_slack", "memory slack"),
    ("oom_days_per_100", "OOM days / 100"),
)
FLEET_S: Final = 5.0
CHECKPOINT_BYTES: Final = 1536


def rules(judged: Judged) -> str:
    """Every rule on one fleet, with 90 % intervals."""
    days = judged.of(OURS).figures
    lines = [
        f"### {judged.fleet.name}: {days.containers} containers, {days.cpu_days:.0f} container-days judged",
        "",
        f"| rule | {' | '.join(title for _, title in COLUMNS)} |",
        f"|---|{'---:|' * len(COLUMNS)}",
    ]
    lines += [f"| {one.rule} | {' | '.join(_cell(one, name) for name, _ in COLUMNS)} |" for one in judged.outcomes]
    return "\n".join([*lines, ""])


def harm(judged: Sequence[Judged]) -> str:
    """What peers reserve when all their requests are raised until they do as little harm as is wanted."""
    lines = [
        f"| fleet | rule | CPU at over-time <= {OVER_TIME:.1%} | memory at OOM days <= {OOM_DAYS:g} / 100 |",
        "|---|---|---:|---:|",
    ]
    for one in judged:
        mine = one.of(OURS).figures
        lines.append(
            f"| {one.fleet.name} | {OURS}, as it is | {_share(mine.cpu_provisioned)} "
            f"(over-time {_share(mine.cpu_over_time, 2)}) | {_share(mine.memory_provisioned)} "
            f"(OOM days {_number(mine.oom_days_per_100)}) |"
        )
        measured = not isinstance(mine.oom_days_per_100, Unknown)
        for name, cpu, memory in one.needed:
            told = _reached(memory, "memory_provisioned") if measured else "-"
            lines.append(f"| {one.fleet.name} | {name}, raised | {_reached(cpu, 'cpu_provisioned')} | {told} |")
    return "\n".join([*lines, ""])


def demands(judged: Sequence[Judged], cost: Cost) -> str:
    """What is needed, and what was reached, missed or not."""
    lines = ["| needed | fleet | measured | |", "|---|---|---|---|"]
    for one in judged:
        mine, vpa, krr = (one.of(name).figures for name in (OURS, "VPA", "KRR"))
        lines.append(
            f"| CPU over-time <= {OVER_TIME:.1%} at <= VPA's reservation | {one.fleet.name} "
            f"| {_share(mine.cpu_over_time, 2)} at {_share(mine.cpu_provisioned)} "
            f"(VPA {_share(vpa.cpu_over_time, 2)} at {_share(vpa.cpu_provisioned)}) "
            f"| {_met((mine.cpu_over_time, OVER_TIME), (mine.cpu_provisioned, vpa.cpu_provisioned))} |"
        )
        if isinstance(mine.memory_provisioned, Unknown):
            continue
        lines.append(
            f"| OOM days <= {OOM_DAYS:g} / 100 at less memory than KRR | {one.fleet.name} "
            f"| {_number(mine.oom_days_per_100)} at {_share(mine.memory_provisioned)} (KRR "
            f"{_number(krr.oom_days_per_100)} at {_share(krr.memory_provisioned)}) "
            f"| {_met((mine.oom_days_per_100, OOM_DAYS), (mine.memory_provisioned, krr.memory_provisioned))} |"
        )
    spent = cost.update_s + cost.estimate_s
    lines.append(
        f"| update and estimate {cost.containers:,} containers <= {FLEET_S:g} s of one core | made up, 35 days "
        f"| {spent:.2f} s | {_met((spent, FLEET_S))} |"
    )
    lines.append(
        f"| checkpoint <= {CHECKPOINT_BYTES} B a container | the same; one that uses every value "
        f"| {cost.checkpoint_bytes} B; {cost.worst_checkpoint_bytes} B "
        f"| {_met((float(cost.worst_checkpoint_bytes), float(CHECKPOINT_BYTES)))} |"
    )
    return "\n".join([*lines, ""])


def stated(judged: Sequence[Judged]) -> str:
    """Stated probabilities against what happened."""
    lines = [
        "| fleet | over-time stated | happened | OOM days / 100 stated | happened |",
        "|---|---:|---:|---:|---:|",
    ]
    for one in judged:
        mine = one.of(OURS).figures
        memory = "-" if isinstance(mine.oom_days_per_100, Unknown) else f"{100.0 * one.sized.stated_exceedance:.2f}"
        lines.append(
            f"| {one.fleet.name} | {one.sized.stated_over_time:.2%} | {_share(mine.cpu_over_time, 2)} | {memory} "
            f"| {_number(mine.oom_days_per_100)} |"
        )
    return "\n".join([*lines, ""])


def _cell(one: Outcome, name: str) -> str:
    value: Value = getattr(one.figures, name)
    if isinstance(value, Unknown) or name not in one.intervals:
        return "-"
    low, high = one.intervals[name]
    if name == "oom_days_per_100":
        return f"{value:.2f} ({low:.2f} - {high:.2f})"
    digits = 2 if name == "cpu_over_time" else 1
    return f"{value:.{digits}%} ({low:.{digits}%} - {high:.{digits}%})"


def _share(value: Value, digits: int = 1) -> str:
    return "-" if isinstance(value, Unknown) else f"{value:.{digits}%}"


def _number(value: Value) -> str:
    return "-" if isinstance(value, Unknown) else f"{value:.2f}"


def _reached(one: SizingFigures | None, name: str) -> str:
    return "not at 3.3 times" if one is None else _share(getattr(one, name))


def _met(*pairs: tuple[Value, Value]) -> str:
    """Say whether every first is at most its second."""
    kept = [not isinstance(a, Unknown) and not isinstance(b, Unknown) and a <= b for a, b in pairs]
    if all(kept):
        return "ok"
    return "MISSED" if not any(kept) else "half missed"
