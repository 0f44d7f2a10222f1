"""How far the simulated engine is from the recorded ones, and how much faster than real time it runs.

Run it as `python -m bench.simulator`, with `--json` for machines, `--recordings FOLDER` for others than those that the
simulator ships. Every recorded figure is computed from the recorded pages in this run, by the function that measures
the simulated pages as well. What is fitted on what is printed above the table; `optiinfra_sim.calibration` says how.

Two columns of the model: with one pace of the machine for the whole phase, and with the pace that the recorded steps
had in each second. Their difference is what the machine did (two cores, shared with the load generator), not the
engine; in the second one throughput and inter-token latency are nearly given, the other figures are predicted.

The ratio to real time is that of CPU time, which is a core of its own; wall time is printed beside it.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import optiinfra_sim
from optiinfra_sim import calibration
from optiinfra_sim.calibration import Costs, Figures, Look, Phase, Shape
from optiinfra_sim.fleet import Fleet
from optiinfra_sim.replay import Recording, read_recording
from optiinfra_sim.settings import EngineSettings
from optiinfra_sim.trace import LoadPoint, read_trace, shape

PACKAGE = Path(optiinfra_sim.__file__).parent
NEAR = 0.15
REPLICAS = 8
SIMULATED_SECONDS = 300.0
LOADS = (3.0, 10.0)
"""Times the trace's own 4.8 requests a second; the second keeps some twenty requests in each batch."""
NEEDED_RATIO = 50.0
RUNS = 2


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded run and the batch limit that its pages do not tell."""

    name: str
    file: str
    max_num_seqs: int


RUNS_RECORDED = (
    Run("A", "vllm-0.32-cpu-batch-bound.tar.gz", 8),
    Run("B", "vllm-0.32-cpu-memory-bound-part1.tar.gz", 32),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one phase."""

    phase: str
    figure: str
    recorded: float
    one_pace: float
    own_pace: float
    reason: str
    """Why neither is near; empty where one is."""

    def off(self, value: float) -> float:
        """How far a value is from the recorded one; counts and queues near zero by their difference."""
        if self.recorded:
            return value / self.recorded - 1
        return 0.0 if abs(value) < 0.5 else float("inf")


def near(row: Row) -> bool:
    """Whether one of the two is within the bound."""
    return min(abs(row.off(row.one_pace)), abs(row.off(row.own_pace))) <= NEAR


def reason(figure: str, phase: Phase, row: Row) -> str:
    """Why a figure is off, from what the pages show."""
    if near(row):
        moved = abs(row.off(row.one_pace)) > NEAR
        return "only with the machine's pace of each second" if moved else ""
    measured = calibration.window(phase.looks, saturated=phase.saturated)
    first, last = measured[0], measured[-1]
    unended = int(phase.looks[-1].running + phase.looks[-1].waiting)
    drawn = f"; {unended} answers unended where the recording stops, drawn from run A" if unended else ""
    if figure == "preemptions":
        return f"{row.recorded:.0f} events: a difference of {row.one_pace - row.recorded:+.0f} is chance{drawn}"
    stall = longest_stall(measured)
    if figure == "time_to_first_token":
        tokens = last.started - first.started
        return f"{tokens:.0f} first tokens in all, while the machine stood still for up to {stall:.0f} s{drawn}"
    return f"the machine stood still for up to {stall:.0f} s{drawn}"


def longest_stall(looks: Sequence[Look]) -> float:
    """The longest time in which a busy engine took no more than one step, in seconds."""
    longest = since = 0.0
    for before, here in itertools.pairwise(looks):
        since = since + here.at - before.at if before.running else 0.0
        longest = max(longest, since if here.steps - before.steps <= 1 else 0.0)
        if here.steps != before.steps:
            since = 0.0
    return longest


def compared(run: Run, recording: Recording, costs: Costs, *, unknown: Sequence[Shape]) -> tuple[list[Row], list[str]]:
    """All rows of a run, and what was fitted for each of its phases."""
    rows, notes = [], []
    for phase in calibration.phases(recording):
        requests = calibration.shapes(phase, unknown=unknown)
        pace = calibration.pace(phase, costs)
        recorded = calibration.figures(phase.looks, saturated=phase.saturated)
        one, own = (
            calibration.figures(
                calibration.replayed(
                    phase,
                    requests,
                    engine_settings=calibration.settings(recording, max_num_seqs=run.max_num_seqs, costs=chosen),
                    machine=machine,
                ),
                saturated=phase.saturated,
            )
            for chosen, machine in ((costs.scaled(pace), ()), (costs, calibration.paces(phase, costs)))
        )
        name = f"{run.name} {phase.name}"
        notes.append(
            f"{name}: {phase.clients} clients, {len(requests)} requests, {len(phase.looks)} pages; "
            f"fitted on this phase: pace {pace:.2f}"
        )
        for field in fields(Figures):
            measured, first, second = (float(getattr(figures, field.name)) for figures in (recorded, one, own))
            row = Row(name, field.name, measured, first, second, "")
            rows.append(replace(row, reason=reason(field.name, phase, row)))
    return rows, notes


@dataclass(frozen=True, slots=True)
class Speed:
    """How much faster than real time all replicas ran under so many times the trace."""

    load: float
    requests: int
    batch: float
    """Requests in each batch at the end."""
    ratio: float
    """To CPU time."""
    wall_ratio: float


def speed(load: float) -> Speed:
    """Run all replicas in virtual time; the best of several runs."""
    arrivals = shape(
        read_trace(PACKAGE / "traces" / "azure-conversation.csv.gz"),
        duration=SIMULATED_SECONDS,
        load=[LoadPoint(0.0, load)],
    )
    best = Speed(load, len(arrivals), 0.0, 0.0, 0.0)
    for _ in range(RUNS):
        fleet = Fleet(settings=EngineSettings(), arrivals=arrivals)
        for index in range(REPLICAS):
            fleet.add(f"replica-{index}", ready_at=0.0)
        began, began_wall = time.process_time(), time.perf_counter()
        fleet.advance(to=SIMULATED_SECONDS)
        taken, wall = time.process_time() - began, time.perf_counter() - began_wall
        if SIMULATED_SECONDS / taken > best.ratio:
            batch = fleet.state().running / REPLICAS
            best = Speed(load, len(arrivals), batch, SIMULATED_SECONDS / taken, SIMULATED_SECONDS / wall)
    return best


def print_table(rows: Sequence[Row]) -> None:
    """Print the comparison for people."""
    heads = ("phase", "figure", "recorded", "one pace", "off", "own pace", "off")
    print(f"\n{heads[0]:<13}{heads[1]:<21}{heads[2]:>9}{heads[3]:>10}{heads[4]:>7}{heads[5]:>10}{heads[6]:>7}")
    for row in rows:
        offs = [f"{row.off(value):+.0%}" for value in (row.one_pace, row.own_pace)]
        print(
            f"{row.phase:<13}{row.figure:<21}{row.recorded:>9.3g}{row.one_pace:>10.3g}{offs[0]:>7}"
            f"{row.own_pace:>10.3g}{offs[1]:>7}  {'' if near(row) else 'MISSED: '}{row.reason}".rstrip()
        )


def main() -> None:
    """Print the table and the speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--recordings", type=Path, default=PACKAGE / "recordings", help="folder of both recordings")
    options = parser.parse_args()
    recordings = {run: read_recording(options.recordings / run.file) for run in RUNS_RECORDED}
    calibrating = calibration.phases(recordings[RUNS_RECORDED[0]])
    costs = calibration.fit(calibrating)
    unknown = calibration.shapes(calibrating[-1], unknown=())
    rows: list[Row] = []
    notes: list[str] = []
    for run, recording in recordings.items():
        more, told = compared(run, recording, costs, unknown=unknown)
        rows += more
        notes += told
    speeds = [speed(load) for load in LOADS]
    if options.json:
        print(json.dumps(_figures(rows, speeds), indent=1))
        return
    print(
        f"fitted on run A: {costs.step * 1e3:.1f} ms a step, {costs.sequence * 1e3:.2f} ms a sequence, "
        f"{costs.prefill_token * 1e3:.3f} ms a prompt token; run B: none of them, only the pace of each phase"
    )
    print("\n".join(notes))
    print_table(rows)
    within = sum(near(row) for row in rows)
    constant = sum(abs(row.off(row.one_pace)) <= NEAR for row in rows)
    print(f"\nwithin {NEAR:.0%}: {constant} of {len(rows)} with one pace a phase, {within} with the better of both")
    for one in speeds:
        print(
            f"{REPLICAS} replicas, {one.requests / SIMULATED_SECONDS:.1f} requests/s (trace x{one.load:g}), "
            f"{one.batch:.0f} in each batch: {one.ratio:.0f} times real time on a core of its own "
            f"(needed {NEEDED_RATIO:g}), {one.wall_ratio:.0f} times by the clock of this run"
        )


def _figures(rows: Sequence[Row], speeds: Sequence[Speed]) -> list[dict[str, object]]:
    """The same as the runner of all benches wants it; what has a stated reason is told, not judged."""
    told: list[dict[str, object]] = []
    for row in rows:
        off = min(abs(row.off(row.one_pace)), abs(row.off(row.own_pace))) * 100
        why = f" ({row.reason})" if row.reason else ""
        told.append(
            {
                "name": f"{row.phase} {row.figure}{why}",
                "value": off,
                "unit": "% off",
                "limit": NEAR * 100 if near(row) else None,
            }
        )
    told.extend(
        {
            "name": f"CPU time of 1000 s of {REPLICAS} replicas, trace x{one.load:g} ({one.ratio:.0f} x real time)",
            "value": 1000 / one.ratio,
            "unit": "s",
            "limit": 1000 / NEEDED_RATIO,
        }
        for one in speeds
    )
    return told


if __name__ == "__main__":
    main()
