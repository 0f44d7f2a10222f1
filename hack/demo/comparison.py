"""What the same load would have cost under plain scalers, computed by the same simulator.

Every row but the last uses the fleet model that also served the metric pages, in virtual time; "what was really run"
replays the replica counts that were recorded. The last row is what the simulator counted while the demonstration ran.
"""

from dataclasses import dataclass
from pathlib import Path

from optiinfra_sim.compare import Load, Outcome, under_decisions, under_hpa, under_static_peak
from optiinfra_sim.main import read_decisions
from optiinfra_sim.scenario import read_scenario

HPA_TARGETS = (32.0, 44.8)
STABILISATIONS = (300.0, 75.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scaler."""

    scaler: str
    gpu_hours: float
    late_share: float
    ttft_p95: float | None
    peak: int
    ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All rows, and what was compared."""

    rows: tuple[Row, ...]
    load: str
    """What was done to the trace."""
    horizon_seconds: float
    late_after_seconds: float
    startup_seconds: float


def compare(scenario: Path, *, service: str, record: Path) -> Comparison:
    """Compute all rows."""
    simulated = read_scenario(scenario).simulated(service)
    load = simulated.load(folder=scenario.parent)
    ours = under_decisions(load, read_decisions(record, service=service))
    rows = [_row(ours, "OptiInfra, as it really ran (killed once)", ours=True)]
    rows += [_hpa(load, target=target, window=window) for window in STABILISATIONS for target in HPA_TARGETS]
    static = under_static_peak(load)
    rows.append(_row(static, f"{static.peak_replicas} replicas all the time (the best count, known only afterwards)"))
    return Comparison(
        rows=tuple(rows),
        load=simulated.trace.describe(),
        horizon_seconds=load.horizon_seconds,
        late_after_seconds=load.late_after_seconds,
        startup_seconds=load.startup_seconds,
    )


def _hpa(load: Load, *, target: float, window: float) -> Row:
    outcome = under_hpa(load, target=target, stabilisation_seconds=window)
    return _row(outcome, f"plain HPA, {target:g} requests in flight a replica, stabilisation {window:g} s")


def _row(outcome: Outcome, name: str, *, ours: bool = False) -> Row:
    return Row(
        scaler=name,
        gpu_hours=outcome.gpu_hours,
        late_share=outcome.late_share,
        ttft_p95=outcome.ttft_p95,
        peak=outcome.peak_replicas,
        ours=ours,
    )


def differences(comparison: Comparison) -> list[str]:
    """Say against each plain scaler where ours was better and where it was worse."""
    ours = next(row for row in comparison.rows if row.ours)
    lines = []
    for row in comparison.rows:
        if row.ours:
            continue
        cost = ours.gpu_hours / row.gpu_hours - 1
        late = (ours.late_share - row.late_share) * 100
        ttft = (
            "" if ours.ttft_p95 is None or row.ttft_p95 is None else f", TTFT p95 {ours.ttft_p95 - row.ttft_p95:+.1f} s"
        )
        lines.append(f"against {row.scaler}: GPU-hours {cost:+.0%}, late {late:+.1f} points{ttft}")
    return lines
