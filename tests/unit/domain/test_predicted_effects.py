"""Predicted effects against what happens: advice is followed on a simulated engine, and the effect is measured."""

import random

import pytest

from optiinfra.domain import tuning
from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.bottleneck import Diagnosis
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.gpu_models import recognise
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import PaceHistory
from optiinfra.domain.readings import EngineKind, Unknown
from optiinfra.domain.signals import summarise
from optiinfra.engines import page
from optiinfra_sim.engine import Engine
from optiinfra_sim.pages import PageTimes, render
from optiinfra_sim.request import Request
from optiinfra_sim.settings import EngineSettings as Simulated
from tests.unit.domain.advised import effect, is_complete

TICK = 4
COST = {"step_seconds": 0.02, "sequence_seconds": 0.0005, "prefill_token_seconds": 2e-5}


class Service:
    """One simulated engine with a number of users who each wait for an answer before they ask again."""

    def __init__(self, *, limit, seed=5, **changes):
        self.limit, self.source, self.pages = limit, random.Random(seed), []
        self.history, self.due, self.number, self.users = PaceHistory(), [], 0, 0
        self.engine = Engine(
            settings=Simulated(max_num_seqs=limit, max_num_batched_tokens=2048, **COST | changes),
            on_finished=lambda request: self.due.append(self.engine.now),
        )

    def ask(self, time):
        self.number += 1
        prompt, answer = self.source.randint(200, 1000), self.source.randint(60, 180)
        self.engine.submit(Request(self.number, time, prompt, answer))

    def run(self, *, users, seconds):
        start = self.pages[-1].time if self.pages else 0.0
        for _ in range(users - self.users):
            self.ask(start)
        self.users = max(self.users, users)
        for tick in range(int(start) + TICK, int(start + seconds) + 1, TICK):
            self.engine.advance(to=float(tick))
            for _ in self.due:
                self.ask(float(tick))
            self.due.clear()
            times = PageTimes(started=0.0, serving=0.0)
            self.pages.append(page.read(render(self.engine, times=times), at=float(tick)))
            if tick % 60 == 0:
                self.history.observe(self.signals(60.0))
        return self

    def signals(self, span):
        recent = [one for one in self.pages if one.time >= self.pages[-1].time - span]
        return summarise({"a": recent}, now=self.pages[-1].time, window=span, stale_after=30.0, replicas_expected=1)

    def advice(self, bottleneck, *, objectives=None):
        given = AdviceInput(
            self.signals(300.0),
            EngineSettings(engine=EngineKind.VLLM, batch_limit=float(self.limit), batch_limit_source="argument"),
            Diagnosis(bottleneck, 0.9, "Stated", "Stated by the test.", (), float(self.limit), "argument"),
            objectives or Objectives(),
            gpu=recognise("NVIDIA H100 80GB HBM3"),
            pace=self.history.fit(),
        )
        return is_complete(tuning.advise(given)[0])


def per_second(service):
    return service.signals(300.0).generation_token_rate


def test_a_larger_batch_brings_what_was_predicted():
    service = Service(limit=24)
    for users in (4, 8, 12, 16, 20, 24):
        service.run(users=users, seconds=180)
    service.run(users=80, seconds=420)
    advice = service.advice(Bottleneck.BATCH)
    assert advice.reason == "RaiseBatchLimit"
    after = Service(limit=int(advice.proposed)).run(users=80, seconds=600)
    gain = effect(advice, "generation_tokens")
    assert gain.before == pytest.approx(per_second(service), rel=0.01)
    measured = per_second(after)
    # The interval is that of the fit; what is left is the luck of both runs.
    assert gain.lower * 0.97 <= measured <= gain.upper * 1.03
    assert measured > 1.1 * gain.before
    latency = effect(advice, "inter_token_latency_p95")
    p95 = after.signals(300.0).inter_token_latency_p95
    assert not isinstance(p95, Unknown)
    assert latency.lower <= p95 <= latency.upper
    assert p95 <= Objectives().inter_token_latency_p95


def test_a_smaller_batch_keeps_the_objective_that_was_missed():
    service = Service(limit=96)
    for users in (8, 16, 24, 32, 48, 64):
        service.run(users=users, seconds=180)
    service.run(users=90, seconds=420)
    promised = Objectives(inter_token_latency_p95=0.06)
    advice = service.advice(Bottleneck.COMPUTE, objectives=promised)
    assert advice.reason == "LowerBatchLimit"
    after = Service(limit=int(advice.proposed)).run(users=90, seconds=600)
    p95, before = (one.signals(300.0).inter_token_latency_p95 for one in (after, service))
    assert before > 0.06
    assert p95 <= 0.06 * 1.1
    loss = effect(advice, "generation_tokens")
    assert per_second(after) == pytest.approx(loss.expected, rel=0.15)


def test_a_batch_that_never_moved_gets_a_trial_that_tells():
    service = Service(limit=24).run(users=80, seconds=600)
    advice = service.advice(Bottleneck.BATCH)
    assert advice.reason == "RaiseBatchLimitToLearn"
    trial = Service(limit=int(advice.proposed), seed=6)
    trial.history = service.history
    offset = service.pages[-1].time
    trial.run(users=80, seconds=840)
    # The history goes on where it stood: the clock of the second engine begins anew, its windows count all the same.
    assert trial.pages[-1].time < offset + 300.0
    fit = trial.history.fit()
    assert fit.batch_highest > fit.batch_lowest
