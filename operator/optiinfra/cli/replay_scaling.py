"""`optiinfra replay scaling`: what would the operator have done with this load, beside plain HPAs.

LOAD.csv has the columns `time_s,work` on equal steps: work units per second offered (input tokens + 4 x output tokens
in the benchmark; any unit will do if the capacity has the same). The operator's own decision code is played over it in
the fluid model of `optiinfra.domain.replay.fluid`, which docs/benchmarks.md describes well enough to rebuild: whoever
simulates the printed decisions again gets the printed figures. It is a model: latency, batches and KV caches are not
in it.
"""

import csv
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from optiinfra.cli.replay_plot import page
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replay.baselines import HpaRate
from optiinfra.domain.replay.figures import Figures, Ledger
from optiinfra.domain.replay.fluid import STEP_S, SYNC_S, Fleet, FloatArray, first_replicas, play
from optiinfra.domain.replay.learned import Learned
from optiinfra.domain.scaler.decision import Decision
from optiinfra.domain.scaler.pipeline import MOST_REPLICAS
from optiinfra.errors import OptiInfraError

TARGETS: Final = (0.5, 0.7, 0.8)
MOST_BYTES: Final = 256 << 20
MOST_STEPS: Final = 1_000_000
"""Steps of 5 s: 58 days."""
MOST_LOAD: Final = MOST_REPLICAS / 4.0
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, None: 1.0}


class LoadError(OptiInfraError):
    """A load that cannot be replayed; the message names the row and what is expected there."""


class Duration(click.ParamType[float]):
    """Seconds, as `180s`, `3m` or a plain number."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a duration: say 180s, 3m or a number of seconds", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class Setup:
    """What is replayed."""

    load: FloatArray
    """(1, steps): in replicas."""
    start_up_s: float
    minimum: int
    maximum: int
    initial: int
    count_from_s: float
    late_after_s: float
    late_share: float

    def fleet(self, runs: int = 1) -> Fleet:
        """Return a fleet at the beginning, the same run several times."""
        return Fleet(
            np.repeat(self.load, runs, axis=0),
            start_up_s=np.full(runs, self.start_up_s),
            initial=np.full(runs, self.initial),
            minimum=np.full(runs, self.minimum),
            maximum=np.full(runs, self.maximum),
        )


@dataclass(frozen=True, slots=True)
class Replayed:
    """Everything that is printed."""

    setup: Setup
    fleet: Fleet
    plain: Fleet
    decision: Decision
    seconds: float

    def figures(self, fleet: Fleet) -> list[Figures]:
        """Figures of a played fleet."""
        return Ledger.of(fleet, count_from_s=self.setup.count_from_s).figures()

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        decision, counted = self.decision, self.setup.count_from_s
        judged = Ledger.of(self.fleet, count_from_s=counted, late_after_s=self.setup.late_after_s).figures()[0]
        target = decision.hpa_target
        return {
            **asdict(self.figures(self.fleet)[0]),
            "late": judged.late10,
            "late_after_s": self.setup.late_after_s,
            "decisions": self.fleet.syncs,
            "cpu_ms_per_decision": 1000.0 * self.seconds / max(1, self.fleet.syncs),
            "initial": self.setup.initial,
            "start_up_s": self.setup.start_up_s,
            "rule": decision.rule,
            "rule_weight": decision.weight,
            "reason": str(decision.reason),
            "hpa_target": None if isinstance(target, Unknown) else target,
            "shrink_delay_s": decision.shrink_delay_s,
            "infeasible": None if decision.infeasible is None else asdict(decision.infeasible),
            "hpa": [
                {"target": target, **asdict(one)} for target, one in zip(TARGETS, self.figures(self.plain), strict=True)
            ],
        }


def read_load(path: Path) -> FloatArray:
    """Work per second on steps of 5 s. Raises `LoadError`."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise LoadError(f"{path.name}: larger than {MOST_BYTES >> 20} MiB; cut the load")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    rows = csv.reader(io.StringIO(text))
    header = [name.strip() for name in next(rows, [])]
    if header[:2] != ["time_s", "work"]:
        raise LoadError(f"{path.name}: the first line must read time_s,work")
    times, work = [], []
    for number, row in enumerate(rows, start=2):
        try:
            moment, value = float(row[0]), float(row[1])
        except (ValueError, IndexError) as error:
            raise LoadError(f"{path.name}, line {number}: two numbers are expected, time_s,work") from error
        if not (np.isfinite(value) and value >= 0.0 and np.isfinite(moment)):
            raise LoadError(f"{path.name}, line {number}: work must be a number that is not negative")
        times.append(moment)
        work.append(value)
    return _on_steps(np.array(times), np.array(work), name=path.name)


def _on_steps(times: FloatArray, work: FloatArray, *, name: str) -> FloatArray:
    """Bring equal steps of another length to 5 s: longer ones are repeated, shorter ones averaged."""
    if len(times) < 2:
        raise LoadError(f"{name}: at least two rows are needed")
    step = float(times[1] - times[0])
    if step <= 0.0 or np.abs(np.diff(times) - step).max() > 1e-3 * step:
        line = int(np.abs(np.diff(times) - step).argmax()) + 3
        raise LoadError(f"{name}, line {line}: time_s must go up in equal steps ({step:g} s at the beginning)")
    if len(times) * step > MOST_STEPS * STEP_S:
        raise LoadError(f"{name}: longer than {MOST_STEPS * STEP_S / 86_400:.0f} days; cut the load")
    count = round(step / STEP_S) if step >= STEP_S else round(STEP_S / step)
    if abs((step / STEP_S if step >= STEP_S else STEP_S / step) - count) > 1e-6:
        raise LoadError(f"{name}: a step of {step:g} s; it must be a multiple or a part of {STEP_S:g} s")
    if step >= STEP_S:
        return np.repeat(work, count)
    if len(work) < count:
        raise LoadError(f"{name}: at least {STEP_S:g} s are needed")
    averaged: FloatArray = work[: len(work) // count * count].reshape(-1, count).mean(axis=1)
    return averaged


@contextmanager
def _progress(syncs: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on the error stream, where somebody looks at it."""
    if not (shown and sys.stderr.isatty()):
        yield lambda _sync: None
        return
    with click.progressbar(length=syncs, label="replaying", file=sys.stderr) as bar:

        def update(sync: int) -> None:
            if sync % 100 == 99:
                bar.update(100)

        yield update


def replay(setup: Setup, *, bar: bool = False) -> Replayed:
    """Play the operator's decision and the plain HPAs over the load."""
    fleet, plain = setup.fleet(), setup.fleet(len(TARGETS))
    learned = Learned(fleet, late_after_s=setup.late_after_s, late_share=setup.late_share)
    with _progress(fleet.syncs, shown=bar) as update:
        began = time.process_time()
        play(fleet, learned, on_sync=update)
        seconds = time.process_time() - began
    play(plain, HpaRate(np.array(TARGETS)))
    return Replayed(setup, fleet, plain, learned.last.of(0), seconds)


@click.command("scaling")
@click.argument("load", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--replica-capacity",
    type=click.FloatRange(min=0.0, min_open=True),
    required=True,
    help="Work per second that one replica serves at the objective.",
)
@click.option("--startup", type=Duration(), required=True, help="From asking for a replica until it serves, like 180s.")
@click.option("--min", "minimum", type=click.IntRange(1, MOST_REPLICAS), default=1, show_default=True)
@click.option("--max", "maximum", type=click.IntRange(1, MOST_REPLICAS), default=MOST_REPLICAS, show_default=True)
@click.option("--initial", type=click.IntRange(0, MOST_REPLICAS), help="Ready replicas at the beginning.")
@click.option("--count-from", type=Duration(), default=0.0, help="What comes before is lived through, not counted.")
@click.option("--late-after", type=Duration(), default=10.0, help="Work that waits longer is late.")
@click.option(
    "--late-share", type=click.FloatRange(1e-6, 1.0), default=0.01, help="Share of the work that may be late."
)
@click.option(
    "--decisions", type=click.Path(dir_okay=False, path_type=Path), help="Write time_s,replicas, a row a sync."
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write a page (.html) with the curves.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def scaling(
    *,
    load: Path,
    replica_capacity: float,
    startup: float,
    minimum: int,
    maximum: int,
    initial: int | None,
    count_from: float,
    late_after: float,
    late_share: float,
    decisions: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Replay a load through the operator's scaling and through plain HPAs."""
    if minimum > maximum:
        raise click.UsageError("--min is above --max: raise --max")
    if plot is not None and plot.suffix != ".html":
        raise click.UsageError("--plot writes .html: name a file that ends so")
    try:
        offered = _in_replicas(load, capacity=replica_capacity, count_from_s=count_from)
    except LoadError as error:
        raise click.ClickException(str(error)) from error
    begin = initial if initial is not None else int(first_replicas(offered, minimum=np.array([minimum]))[0])
    done = replay(
        Setup(
            offered, startup, minimum, maximum, min(max(begin, minimum), maximum), count_from, late_after, late_share
        ),
        bar=True,
    )
    try:
        if decisions is not None:
            decisions.write_text(_decisions(done.fleet), encoding="utf-8")
        if plot is not None:
            plot.write_text(page(load.name, done.fleet, done.plain, targets=TARGETS), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{error.filename} cannot be written: {error.strerror}") from error
    if as_json:
        click.echo(json.dumps(done.document(), indent=1))
    else:
        _print(done)


def _in_replicas(path: Path, *, capacity: float, count_from_s: float) -> FloatArray:
    """(1, steps): the load over a replica's capacity. Raises `LoadError`."""
    offered = read_load(path)[None, :] / capacity
    if float(offered.max()) > MOST_LOAD:
        raise LoadError(f"{path.name}: {offered.max():.0f} replicas at once; give --replica-capacity in its unit")
    if count_from_s >= offered.shape[1] * STEP_S:
        raise LoadError(f"{path.name}: nothing is left to count after --count-from {count_from_s:g} s")
    return offered


def _decisions(fleet: Fleet) -> str:
    rows = "".join(f"{sync * SYNC_S:g},{replicas:.0f}\n" for sync, replicas in enumerate(fleet.asked[0]))
    return f"time_s,replicas\n{rows}"


def _print(done: Replayed) -> None:
    days = (done.fleet.load.shape[1] * STEP_S - done.setup.count_from_s) / 86_400.0
    click.echo(f"{days:.2f} days counted, start-up {done.setup.start_up_s:g} s, from {done.setup.initial} replicas")
    click.echo(
        f"{'':<16} {'cost':>6} {'late 10 s':>9} {'late 60 s':>9} {'incidents/30 d':>15} {'worst hour':>10} "
        f"{'actions/d':>9}"
    )
    rows = [("OptiInfra", done.figures(done.fleet)[0])]
    rows += [(f"HPA at {target}", one) for target, one in zip(TARGETS, done.figures(done.plain), strict=True)]
    for name, one in rows:
        click.echo(
            f"{name:<16} {one.cost:>6.3f} {one.late10:>9.2%} {one.late60:>9.2%} {one.incidents:>15.0f} "
            f"{one.worst_hour:>10.0%} {one.actions_per_day:>9.0f}"
        )
    decision = done.decision
    target = "none holds the objective" if isinstance(decision.hpa_target, Unknown) else f"{decision.hpa_target}"
    click.echo(f"\nleading rule at the end: {decision.rule} ({decision.weight:.0%} of the decision), {decision.reason}")
    click.echo(f"best target of a plain HPA: {target}; shrink delay {decision.shrink_delay_s:.0f} s")
    if decision.infeasible is not None:
        told = decision.infeasible
        click.echo(
            f"infeasible at a bearable price: {told.late_share:.2%} late of the last two days where "
            f"{done.setup.late_share:.2%} may be; the safest rule would have {told.best_late_share:.2%} at cost "
            f"{told.best_cost:.2f}, with a quarter of the start-up {told.shorter_start_late_share:.2%}, with "
            f"{told.spares} warm spares {told.spares_late_share:.2%}"
        )
    click.echo("cost 1.00 is every replica always busy; it is computed in a fluid model, not measured")
