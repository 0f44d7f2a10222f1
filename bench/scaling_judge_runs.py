"""One decider over one case, played by both judges: simulated engines, and the fluid queue on the same load.

In the history that precedes the span every decider plays in the fluid model; its replicas at the end of it are there,
ready, when the span begins. Only the span is counted, by both judges. The record of what was seen is extended step by
step with what the simulated fleet did; the loads to come are not in it.
"""

from dataclasses import dataclass

import numpy as np

from bench.scaling_judge_cases import Case
from bench.scaling_judge_engines import quantile
from bench.scaling_judge_fleet import Look, Replicas
from bench.scaling_judge_rules import Decider, Gauges
from optiinfra.domain.replay.figures import WINDOW_S, Figures, Ledger, windows
from optiinfra.domain.replay.fluid import (
    STEP_S,
    STEPS_PER_SYNC,
    Fleet,
    FloatArray,
    Policy,
    View,
    first_replicas,
    play,
    rise_limited,
)

MAXIMUM = 500
LATE_S = 10.0
RUN_ON_S = 120.0
"""What is unanswered at the end is lived through so long without orders, unpaid: a late first token is seen."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one decider came to."""

    decider: str
    figures: Figures
    """From the simulated engines; late is what had no first token after 10 s (60 s)."""
    fluid: Figures
    """From the fluid queue, on the same load and span."""
    first_token: tuple[float, float, float]
    """p50, p95, p99 of all requests, seconds."""
    inter_token: tuple[float, float]
    """p50, p95 of all tokens, seconds."""
    preemptions: int
    kv_use: float
    """Mean over steps and serving replicas."""
    requests: int


def judge(case: Case, decider: Decider) -> Judged:
    """Play one decider in both models."""
    simulated = Simulated.of(case, decider)
    simulated.play()
    return simulated.judged(decider.name, fluid=in_fluid(case, decider))


def in_fluid(case: Case, decider: Decider) -> Figures:
    """Play one decider in the fluid model alone, on the load of the same requests; days take seconds."""
    fluid = _record(case, case.load)
    play(fluid, decider.fluid(fluid))
    return Ledger.of(fluid, count_from_s=len(case.history) * STEP_S).figures()[0]


def _record(case: Case, load: FloatArray) -> Fleet:
    minimum = np.ones(1, dtype=np.int64)
    return Fleet(
        load[None, :],
        start_up_s=np.array([case.start_up_s]),
        initial=first_replicas(load[None, :], minimum=minimum),
        minimum=minimum,
        maximum=np.full(1, MAXIMUM),
    )


@dataclass(slots=True)
class Simulated:
    """A decider's run on simulated engines, with the record that the decider sees."""

    case: Case
    record: Fleet
    policy: Policy
    gauges: Gauges
    replicas: Replicas
    paid: list[float]
    """Replica-seconds of each step."""

    @classmethod
    def of(cls, case: Case, decider: Decider) -> "Simulated":
        """Let the decider live through the history in the fluid model, and start the engines."""
        steps = len(case.history)
        # What is to come is not in the record: the span's loads are zero until they have happened.
        record = _record(case, np.concatenate([case.history, np.zeros(len(case.load) - steps)]))
        if not steps:
            record.ready = first_replicas(case.load[None, :], minimum=record.minimum)
        gauges = Gauges(case.capacity, float(case.settings.max_num_seqs), first=steps)
        policy = decider.judged(record, gauges)
        view = View(record)
        while record.step < steps:
            record.order(policy(view))
            record.advance()
        replicas = Replicas(
            case.settings, case.requests, start_up_s=case.start_up_s, routing=case.routing, gateway=case.gateway
        )
        replicas.begin(int(record.replicas[0]))
        record.ready, record.starting = record.replicas, np.zeros(1, dtype=np.int64)
        return cls(case, record, policy, gauges, replicas, [])

    def play(self) -> None:
        """Decide every 15 s, to the end of the span; then let what is under way be answered."""
        view = View(self.record)
        end = self.record.load.shape[1]
        load = self.case.load
        while self.record.step < end:
            asked = np.clip(self.policy(view), self.record.minimum, self.record.maximum)
            self.replicas.order(int(rise_limited(asked, self.record.replicas)[0]))
            self.record.asked[0, self.record.step // STEPS_PER_SYNC] = self.replicas.asked
            self._note(self.replicas)
            for _ in range(min(STEPS_PER_SYNC, end - self.record.step)):
                before = self.replicas.paid_s
                look = self.replicas.step()
                self.paid.append(self.replicas.paid_s - before)
                self._see(look, load=float(load[self.record.step]))
        for _ in range(round(RUN_ON_S / STEP_S)):
            self.replicas.step()

    def _note(self, replicas: Replicas) -> None:
        """The API server knows at once what was asked for and what is ready."""
        self.record.ready = np.array([len(replicas.serving)])
        self.record.starting = np.array([len(replicas.starting)])

    def _see(self, look: Look, *, load: float) -> None:
        """Write one step into the record, as scrapes would have shown it."""
        record, step = self.record, self.record.step
        record.load[0, step] = load
        record.arrived[0, step + 1] = record.arrived[0, step] + load
        waiting = look.waiting_work / self.case.capacity.work
        record.backlog[0, step] = waiting
        record.queue = np.array([waiting])
        record.serving[0, step] = look.serving
        self.gauges.looks.append(look)
        record.step += 1
        self._note(self.replicas)
        if self.gauges.scrape is not None:
            self.gauges.scrape(self.replicas.engines(), record.step * STEP_S, self.replicas.now)

    def ledger(self) -> Ledger:
        """The counted span by windows of five minutes, as the fluid judge's figures want it."""
        requests, capacity = self.case.requests, self.case.capacity.work
        steps = len(self.paid)
        index = np.minimum((requests.at / STEP_S).astype(np.int64), steps - 1)
        work = requests.work / capacity

        def by_step(weights: FloatArray) -> FloatArray:
            sums: FloatArray = np.bincount(index, weights=weights, minlength=steps).astype(np.float64)[None, :]
            return sums

        width = round(WINDOW_S / STEP_S)
        first = self.replicas.first_token
        asked = self.record.asked[:, len(self.case.history) // STEPS_PER_SYNC :].astype(np.float64)
        changes = np.zeros_like(asked)
        changes[:, 1:] = asked[:, 1:] != asked[:, :-1]
        return Ledger(
            paid=windows(np.array(self.paid)[None, :], steps=width),
            work=windows(by_step(work), steps=width),
            late10=windows(by_step(work * (first > LATE_S)), steps=width),
            late60=windows(by_step(work * (first > 60.0)), steps=width),
            actions=windows(changes, steps=width // STEPS_PER_SYNC),
            seconds=windows(np.full((1, steps), STEP_S), steps=width),
        )

    def judged(self, name: str, *, fluid: Figures) -> Judged:
        """All figures of the run."""
        answered = self.replicas.first_token
        # What never came waits at least until the end of the run.
        waits = np.where(
            np.isfinite(answered), answered, self.case.requests.length_s + RUN_ON_S - self.case.requests.at
        )
        middle, high, highest = (float(value) for value in np.quantile(waits, (0.5, 0.95, 0.99)))
        return Judged(
            decider=name,
            figures=self.ledger().figures()[0],
            fluid=fluid,
            first_token=(middle, high, highest),
            inter_token=(quantile(self.replicas.inter_token, 0.5), quantile(self.replicas.inter_token, 0.95)),
            preemptions=self.replicas.all_preemptions,
            kv_use=float(np.mean([look.kv_use for look in self.gauges.looks])),
            requests=len(waits),
        )
