"""How often an action that did nothing is called harmful, and how soon a harmful one is found, on simulated engines.

Run it as `python -m bench.verification [--minutes 55] [--step 2]`. Four simulated replicas behind a router serve the
Azure conversation trace again and again (its own arrivals and lengths, copied to the load). Each replica's page is read
every ten seconds by the operator's own readers, and joined into windows of a minute. Every action is judged as the
operator does it, at every window and at the end:

- Sham actions: nothing is changed, at every second minute of the run. Whatever is called harm is a false alarm.
- Falls: one, two or three of the four replicas are taken away half-way, under the same load.

The objectives are set relative to what the calm run measured, so that false alarms are possible at all: with latencies
far below the objective there are none by construction.
"""

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import optiinfra_sim
from optiinfra.domain.evidence import Direction, Savings
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import EngineReading, Unknown
from optiinfra.domain.signals import summarise
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verification import Block, Outcome, Trialled, Verdict, block_of, expect, judge
from optiinfra.domain.verification.judge import LEAST_EARLY
from optiinfra.engines.page import read
from optiinfra_sim.fleet import Fleet
from optiinfra_sim.pages import PageTimes, render
from optiinfra_sim.settings import EngineSettings
from optiinfra_sim.trace import LoadPoint, read_trace, shape

TRACE = Path(optiinfra_sim.__file__).parent / "traces" / "azure-conversation.csv.gz"
REPLICAS = 4
WINDOW = 60.0
PAGE_EVERY = 10.0
BEFORE, AFTER = 12, 9
START = 1.8e9
SIGNALS = ("time_to_first_token", "inter_token_latency", "queue_time")


def play(*, minutes: int, load: float, fall_at: int | None = None, taken: int = 0) -> list[Block]:
    """Return the windows of one run; `taken` replicas are removed at a minute."""
    trace = read_trace(TRACE)
    fleet = Fleet(settings=EngineSettings())
    for number in range(math.ceil(minutes * 60.0 / trace[-1].at)):
        # The trace again and again, each time with other copies of its requests.
        part = shape(trace, duration=trace[-1].at, load=[LoadPoint(0.0, load)], seed=number + 1)
        fleet.feed([replace(arrival, at=arrival.at + number * trace[-1].at) for arrival in part], begin=0.0)
    for number in range(REPLICAS):
        fleet.add(f"replica-{number}", ready_at=0.0)
    pages: dict[str, list[EngineReading]] = {name: [] for name in fleet.replicas}
    blocks: list[Block] = []
    moment = 0.0
    while moment < minutes * 60.0:
        if fall_at is not None and moment == fall_at * 60.0:
            for number in range(taken):
                fleet.remove(f"replica-{number}")
        moment += PAGE_EVERY
        fleet.advance(to=moment)
        for name, replica in fleet.replicas.items():
            if replica.engine is not None:
                text = render(replica.engine, times=PageTimes(started=0.0, serving=1.0))
                pages[name].append(read(text, at=UnixTime(START + moment)))
        if moment % WINDOW == 0.0:
            now, living = UnixTime(START + moment), {name: pages[name] for name in fleet.replicas}
            seen = summarise(
                living, now=now, window=Seconds(WINDOW), stale_after=Seconds(45.0), replicas_expected=len(living)
            )
            blocks.append(block_of(seen, replicas=len(living)))
    return blocks


def judged(
    before: Sequence[Block], after: Sequence[Block], objectives: Objectives, *, to_replicas: int
) -> tuple[Verdict, int]:
    """Judge at every window and at the end; returns the windows that it took."""
    expectation = expect(
        before,
        from_replicas=REPLICAS,
        to_replicas=to_replicas,
        objectives=objectives,
        growth=1.0,
        ready_within=Seconds(90.0),
        ready_basis="",
        verify_window=Seconds(AFTER * WINDOW),
        savings=Savings(),
    )
    verdict = Verdict(Outcome.TOO_EARLY, "", "")
    for count in range(LEAST_EARLY, len(after) + 1):
        verdict = judge(
            Trialled(
                direction=Direction.SCALE_DOWN,
                expectation=expectation,
                before=tuple(before),
                after=tuple(after[:count]),
                settled=True,
                over=count == len(after),
            )
        )
        if verdict.outcome is not Outcome.TOO_EARLY:
            return verdict, count
    return verdict, len(after)


def typical(blocks: Sequence[Block], signal: str) -> list[float]:
    """Known values of a signal."""
    return [value for block in blocks if not isinstance(value := getattr(block, signal), Unknown) and value > 0.0]


def relative(blocks: Sequence[Block], share: float) -> Objectives:
    """Objectives of which the calm run's typical latencies are a share."""
    levels = [math.exp(fmean(map(math.log, typical(blocks, signal) or [1.0]))) for signal in SIGNALS]
    first, between, queue = (Seconds(level / share) for level in levels)
    return Objectives(time_to_first_token_p95=first, inter_token_latency_p95=between, queue_delay=queue)


def describe(blocks: Sequence[Block]) -> None:
    """Print how the signals vary from window to window: the yardstick of every verdict."""
    for signal in SIGNALS:
        values = [math.log(value) for value in typical(blocks, signal)]
        if len(values) < 3:
            print(f"{signal}: too few windows have it")
            continue
        mean, spread = fmean(values), stdev(values)
        products = sum((one - mean) * (after - mean) for one, after in pairwise(values))
        neighbours = products / (spread**2 * (len(values) - 1)) if spread else 0.0
        print(
            f"{signal}: typical {math.exp(mean):.3g} s, deviation of the logarithm {spread:.3f}, lag-1 {neighbours:.2f}"
        )


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=55)
    parser.add_argument("--step", type=int, default=2, help="minutes between two sham actions")
    parser.add_argument(
        "--loads", type=float, nargs="+", default=[3.0, 6.0], help="times the trace's own 4.8 requests/s"
    )
    options = parser.parse_args()
    for load in options.loads:
        calm = play(minutes=options.minutes, load=load)
        print(f"load {load:g} on {REPLICAS} replicas, {len(calm)} windows")
        describe(calm)
        for share in (0.5, 0.8, 0.95):
            promised = relative(calm, share)
            cuts = range(BEFORE, len(calm) - AFTER + 1, options.step)
            verdicts = [judged(calm[c - BEFORE : c], calm[c : c + AFTER], promised, to_replicas=REPLICAS) for c in cuts]
            counted = Counter(f"{one.outcome} {one.reason}" for one, _ in verdicts)
            print(f"  sham actions at {share:.0%} of the objectives: {len(verdicts)}: {dict(counted)}")
        for taken in range(1, REPLICAS):
            half = BEFORE + 2
            fallen = play(minutes=half + 1 + AFTER, load=load, fall_at=half, taken=taken)
            before, after = fallen[half - BEFORE : half], fallen[half + 1 :]
            for share in (0.5, 0.8):
                verdict, took = judged(before, after, relative(calm, share), to_replicas=REPLICAS - taken)
                head = f"  {REPLICAS} to {REPLICAS - taken} at {share:.0%}"
                print(f"{head}: {verdict.outcome} {verdict.reason}, {took} windows: {verdict.message}")


if __name__ == "__main__":
    main()
