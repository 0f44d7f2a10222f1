"""The real HPA controller: the baselines checked against it tick by tick, and a closed loop in which it decides.

`python -m bench hpa` (or `python -m bench.hpa`) starts a control plane on loopback whose kube-controller-manager syncs
every second instead of every 15 s, and plays a piece of a trace fifteen times as fast. `--traces FOLDER` takes other
traces than the one beside this module, each with up to two days of its past as history; the piece is the one with the
steepest rise after the first third, or the one that begins `--at` hours after the trace does. docs/real-hpa.md says
what comes of it.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from bench.hpa_loop import Fate, Party, Slice, fate
from bench.hpa_runs import REPLICAS, START_UP_S, Played, run, settings, steepest
from bench.hpa_steps import Stepped, Verdict, counts
from bench.result import Result
from bench.scaling_loads import SEED
from bench.traces import Trace, TraceError, folder
from hack.binaries import BinaryError
from hack.binaries.catalogue import KUBERNETES
from hack.cluster.errors import ClusterError
from hack.real_hpa import SPEED
from optiinfra.domain.replay.figures import DAY_S, MONTH_DAYS, Figures
from optiinfra.domain.replay.fluid import STEPS_PER_SYNC, SYNC_S

OWN_TRACE: Final = Path(__file__).resolve().parent / "data" / "servegen"
MINUTES: Final = 45.0
HISTORY_HOURS: Final = 48.0
"""What is forgotten after two days hardly counts, and a longer past takes minutes to live through."""
COUNT: Final = 1.0
"""AverageValue of an HPA whose metric is the count itself."""
DIFFERENT: Final = 0.02
"""Share of ticks that may differ without a known reason: a process that the machine held up, not a rule."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One HPA's line of the comparison."""

    name: str
    syncs: int
    changes: int
    """Of the real controller."""
    verdicts: dict[Verdict, int]
    alone: float
    """Mean distance, in replicas, to what the baseline runs when it is left alone with the same load from the start.

    Within the tolerance an HPA stays where it is: one sync more or less in a window can part two runs for a long time.
    """

    @classmethod
    def of(cls, stepped: Stepped) -> "Compared":
        """Judge a finished comparison."""
        real = np.array([tick.real for tick in stepped.ticks])
        changed = int((np.diff(real, prepend=stepped.setting.initial) != 0).sum())
        alone = float(np.abs(stepped.setting.alone()[: len(real)] - real).mean())
        return cls(stepped.setting.name, len(real), changed, counts(stepped.ticks), alone)

    @property
    def different(self) -> float:
        """Share of ticks that nothing explains."""
        return self.verdicts[Verdict.OTHER] / self.syncs


def pieces_of(traces: Sequence[Trace], *, minutes: float, at_hours: float | None, most: int) -> list[Slice]:
    """Cut the piece to play out of each trace; a trace that is too short is played from its beginning, whole."""
    pieces = []
    for trace in traces[:most]:
        load = trace.at(REPLICAS)
        syncs = min(round(minutes * 60.0 / SYNC_S), len(load) // STEPS_PER_SYNC)
        start = steepest(load, syncs=syncs) if at_hours is None else round(at_hours * 3600.0 / SYNC_S)
        end = (start + syncs) * STEPS_PER_SYNC
        if end > len(load):
            raise TraceError(f"{trace.name} has {trace.days * 24.0:.1f} h: choose an earlier --at or fewer --minutes")
        forgotten = max(0, start - round(HISTORY_HOURS * 3600.0 / SYNC_S))
        pieces.append(Slice(trace.name, load[forgotten * STEPS_PER_SYNC : end], start - forgotten, START_UP_S))
    return pieces


def comparison_table(compared: Sequence[Compared]) -> str:
    """Table of verdicts, Markdown."""
    used = [verdict for verdict in Verdict if any(one.verdicts[verdict] for one in compared)]
    lines = [
        f"| HPA | syncs | changes | {' | '.join(used)} | alone |",
        f"|---|---:|---:|{'---:|' * len(used)}---:|",
    ]
    for one in compared:
        cells = " | ".join(str(one.verdicts[verdict] or "") for verdict in used)
        lines.append(f"| {one.name} | {one.syncs} | {one.changes} | {cells} | {one.alone:.2f} |")
    return "\n".join(lines)


def _counts(figures: Figures, *, seconds: float) -> tuple[float, float]:
    """Return incidents and actions of a piece, from figures a month and a day."""
    return figures.incidents * seconds / DAY_S / MONTH_DAYS, figures.actions_per_day * seconds / DAY_S


def _cell(figures: Figures, *, seconds: float) -> str:
    windows, actions = _counts(figures, seconds=seconds)
    return f"{figures.cost:.3f} | {figures.late10:.2%} | {windows:.0f} | {actions:.0f}"


def loop_table(parties: Sequence[Party]) -> str:
    """Table of the closed loops, Markdown: first what the rule alone came to, then what it came to with the controller.

    Incidents and actions are counts of the piece: an hour says nothing about a month.
    """
    lines = [
        (
            "| piece | decided by | cost | late10 | incidents | actions "
            "| with the real HPA: cost | late10 | incidents | actions |"
        ),
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for party in parties:
        seconds = party.piece.syncs * SYNC_S
        direct, real = (_cell(figures, seconds=seconds) for figures in (party.direct, party.figures))
        lines.append(f"| {party.piece.name} | {party.way.name} | {direct} | {real} |")
    return "\n".join(lines)


def fate_table(fates: Sequence[tuple[Party, Fate]]) -> str:
    """Table of what became of published counts, Markdown."""
    lines = [
        (
            "| piece | published as | bent | counts | followed | within 10 %, ignored | falls held back | overtaken "
            "| s until read | s until scaled up |"
        ),
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for party, one in fates:
        read, scaled = ("-" if seconds is None else f"{seconds:.1f}" for seconds in (one.until_read, one.until_scaled))
        lines.append(
            f"| {party.piece.name} | {party.way.name} | {one.bent} | {one.orders} | {one.followed} | {one.tolerance} "
            f"| {one.held} | {one.late} | {read} | {scaled} |"
        )
    return "\n".join(lines)


def differences(played: Played) -> list[str]:
    """List the ticks that nothing explains."""
    return [
        f"- {one.setting.name}, sync {number}: {tick.seen.running} pods of {tick.seen.asked}, the baseline asks for "
        f"{tick.baseline}, the controller for {tick.real}"
        for one in played.stepped
        for number, tick in enumerate(one.ticks)
        if tick.verdict is Verdict.OTHER
    ]


def told(played: Played) -> str:
    """Everything that one run came to, as text."""
    compared = [Compared.of(stepped) for stepped in played.stepped]
    syncs = np.concatenate([np.diff([tick.moment.asked for tick in one.ticks]) for one in played.stepped]) * SPEED
    counted = [(party, fate(party)) for party in played.parties if party.way.average == COUNT]
    where = [
        f"{party.piece.name}: {party.piece.syncs * SYNC_S / 60.0:.0f} minutes after "
        f"{party.piece.start * SYNC_S / 3600.0:.1f} h of history, start-up {party.piece.start_up_s:.0f} s, "
        f"R = {REPLICAS:g}."
        for party in {party.piece.name: party for party in played.parties}.values()
    ]
    conditions = (
        f"{datetime.now(UTC):%Y-%m-%d}, Kubernetes {KUBERNETES}, {SPEED} times as fast, {played.seconds:.0f} s on "
        f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), Python {platform.python_version()}."
    )
    return "\n".join(
        [
            conditions,
            *where,
            "",
            "Tick by tick:",
            "",
            comparison_table(compared),
            "",
            *differences(played),
            f"A sync every {syncs.mean():.1f} s of the trace (p95 {np.quantile(syncs, 0.95):.1f}).",
            "",
            "Closed loop:",
            "",
            loop_table(played.parties),
            "",
            fate_table(counted),
            "",
            f"The closed loops took {played.stretched:.2f} times as long as planned.",
        ]
    )


def results(played: Played) -> list[Result]:
    """Return the figures for machines; only unexplained differences have a limit."""
    found = [
        Result(f"{one.name}: ticks that differ for no known reason", one.different, "share", DIFFERENT)
        for one in map(Compared.of, played.stepped)
    ]
    for party in played.parties:
        name = f"{party.piece.name}, {party.way.name}"
        for where, figures in (("alone", party.direct), ("with the real HPA", party.figures)):
            windows, actions = _counts(figures, seconds=party.piece.syncs * SYNC_S)
            found.append(Result(f"{name}, {where}: cost", figures.cost, ""))
            found.append(Result(f"{name}, {where}: late10", figures.late10, "share"))
            found.append(Result(f"{name}, {where}: incidents", windows, ""))
            found.append(Result(f"{name}, {where}: actions", actions, ""))
        if party.way.average == COUNT:
            came_of = fate(party)
            found.append(Result(f"{name}: counts ignored within the tolerance", came_of.tolerance, ""))
            if came_of.until_read is not None:
                found.append(Result(f"{name}: until the controller reads a count", came_of.until_read, "s"))
            if came_of.until_scaled is not None:
                found.append(Result(f"{name}: until a rise is carried out", came_of.until_scaled, "s"))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Play and print; 1 when ticks differ for no known reason, 2 when it could not be played."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=OWN_TRACE, help="folder of trace files (default: the one here)")
    parser.add_argument("--only", default="bursty", help="part of the names of the traces to play (%(default)s)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="length of the piece (%(default)g)")
    parser.add_argument("--at", type=float, metavar="HOURS", help="begin of the piece (default: the steepest rise)")
    parser.add_argument("--most", type=int, default=3, help="traces played at once at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of drawn arrivals")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if not 5.0 <= options.minutes <= 240.0 or options.most < 1:
        parser.error("--minutes must be 5 to 240 and --most at least 1")
    try:
        traces = [one for one in folder(options.traces, bursty_seed=options.seed) if options.only in one.name]
        if not traces:
            parser.error(f"no trace whose name contains {options.only!r}")
        pieces = pieces_of(traces, minutes=options.minutes, at_hours=options.at, most=options.most)
        first = pieces[0]
        played = run(
            settings(first.load[first.start * STEPS_PER_SYNC :]),
            pieces,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    except TraceError as error:
        parser.error(str(error))
    except (ClusterError, BinaryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = results(played)
    if options.json:
        print(json.dumps([{"name": r.name, "value": r.value, "unit": r.unit, "limit": r.limit} for r in found]))
    else:
        print(told(played))
    return 0 if all(one.kept for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
