"""The operator's own path as a decider: pages of the simulated replicas in, replicas out, nothing else known.

Every 15 s each serving engine's page is rendered as the engine would serve it, parsed by the operator's reader, joined
by `domain.signals.summarise` and decided by `domain.scaling.decide`. What a replica serves, a request's work and the
time of a step are learned from those pages: neither the judge's C nor the work of a request is told. Pages are 5 s old
when they are used; the operator scrapes every 5 s, here every third page is rendered. What `policy` adds in a cluster
(steps, cooldowns, windows) is left out: the published count is taken at once.
"""

from collections import deque
from collections.abc import Mapping
from functools import partial

import numpy as np

from bench.scaling_judge_rules import Decider, Gauges
from optiinfra.domain import replica_load, scaling
from optiinfra.domain.objectives import NOT_PROMISED, Objectives
from optiinfra.domain.pace import PaceHistory, key_of
from optiinfra.domain.readings import EngineReading, Unknown, UnknownReason
from optiinfra.domain.replay.fluid import SYNC_S, Fleet, IntArray, View
from optiinfra.domain.replay.learned import Learned
from optiinfra.domain.scaler.rows import rows_of
from optiinfra.domain.signals import summarise
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import ContainerFacts
from optiinfra.engines import page, settings
from optiinfra_sim.engine import Engine
from optiinfra_sim.exposition import PageTimes
from optiinfra_sim.pages import render
from optiinfra_sim.settings import EngineSettings

NAME = "OptiInfra (pages)"
WINDOW = Seconds(60.0)
SAMPLE = Seconds(30.0)
STALE_AFTER = Seconds(45.0)
SCRAPED_AT_S = 10.0
"""Second of a sync at which pages are read: five before they are used."""
_NOT_SAID = Unknown(UnknownReason.NOT_MEASURED, "the judge's pods say nothing of it")
KEPT = 6
"""Pages of a replica that are kept; a window of a minute needs five."""


DEFAULTS = Objectives()
"""Those of the custom resource: first token 2 s, between tokens 0.1 s, queue 10 s."""
QUEUE_ONLY = Objectives(time_to_first_token_p95=NOT_PROMISED, inter_token_latency_p95=NOT_PROMISED)
"""What the judge itself counts: nothing later than 10 s."""


class OperatorPath:
    """Lives through the history like `Learned`, then decides by what the pages say."""

    def __init__(self, fleet: Fleet, gauges: Gauges, *, objectives: Objectives = DEFAULTS) -> None:
        self._before = Learned(fleet)
        self._gauges = gauges
        self._objectives = objectives
        self._pages: dict[str, deque[EngineReading]] = {}
        self._born: dict[str, float] = {}
        self._pace = PaceHistory()
        self._memory: scaling.ScalerMemory | None = None
        self._container: ContainerFacts | None = None
        self._start_up = Seconds(float(fleet.start_up[0]) * 5.0)
        self.told: list[scaling.ScalingDecision] = []
        """Every decision that was not unknown."""
        self.unknown = 0
        """Decisions that were unknown: nothing was changed then."""
        gauges.scrape = self.scrape

    def scrape(self, engines: Mapping[str, Engine], now: float, reached: float) -> None:
        """Read the pages, once a sync; a replica that is gone takes its pages with it.

        `now` is the record's time, `reached` the same moment by the engines' clock.
        """
        if now % SYNC_S != SCRAPED_AT_S:
            return
        for gone in self._pages.keys() - engines.keys():
            del self._pages[gone]
        for name, engine in engines.items():
            # Tokens of steps that are under way together are counted now, as a real engine would have.
            engine.advance(to=reached, settle=True)
            born = self._born.setdefault(name, now)
            body = render(engine, times=PageTimes(started=born - float(self._start_up), serving=born))
            self._pages.setdefault(name, deque(maxlen=KEPT)).append(page.read(body, at=UnixTime(now)))
            if self._container is None:
                self._container = container_of(engine.settings)

    def __call__(self, view: View) -> IntArray:
        """Ask for replicas."""
        if view.fleet.step <= self._gauges.first or not self._pages or self._container is None:
            return self._before(view) if view.fleet.step < self._gauges.first else view.replicas
        if self._memory is None:
            self._memory = self._inherited()
        now = UnixTime(view.now)
        ready = int(view.ready[0])
        newest = next(iter(self._pages.values()))[-1]
        found = settings.read((self._container,), newest)
        signals = summarise(self._pages, now=now, window=WINDOW, stale_after=STALE_AFTER, replicas_expected=ready)
        self._pace.observe(signals, key=key_of(found))
        samples = tuple(
            replica_load.sample(self._pages, now=end, window=SAMPLE, stale_after=STALE_AFTER, expected=ready)
            for end in self._memory.ticks_due(now=now, tick=scaling.DEFAULT_TICK)
        )
        given = scaling.ScalingInput(
            signals=signals,
            samples=samples,
            fresh=samples[-1] if samples else None,
            settings=found,
            current=int(view.replicas[0]),
            ready=ready,
            minimum=int(view.fleet.minimum[0]),
            maximum=int(view.fleet.maximum[0]),
            start_up_p50=self._start_up,
            start_up_p95=self._start_up,
            memory=self._memory,
            objectives=self._objectives,
            pace=self._pace.fit(),
        )
        (outcome,) = scaling.decide([given], now=now)
        self._memory = outcome.memory
        if not isinstance(outcome.decision, scaling.ScalingDecision):
            self.unknown += 1
            return view.replicas
        self.told.append(outcome.decision)
        return np.array([outcome.decision.desired])

    def _inherited(self) -> scaling.ScalerMemory:
        """What the history taught about the load; what a replica serves is still to be learned."""
        state = self._before.scaler.state
        if int(state.tick[0]) < 0:
            return scaling.ScalerMemory()
        return scaling.ScalerMemory(rows_of(state)[0], int(state.tick[0]))


def container_of(engine: EngineSettings) -> ContainerFacts:
    """The container of a pod that runs such an engine."""
    arguments = (
        "serve",
        engine.model_name,
        f"--max-num-seqs={engine.max_num_seqs}",
        f"--max-num-batched-tokens={engine.max_num_batched_tokens}",
        f"--max-model-len={engine.max_model_len}",
        f"--gpu-memory-utilization={engine.gpu_memory_utilization}",
        f"--block-size={engine.block_size}",
        "--enable-prefix-caching" if engine.prefix_caching else "--no-enable-prefix-caching",
    )
    return ContainerFacts(
        name="vllm",
        cpu_request_cores=_NOT_SAID,
        cpu_limit_cores=_NOT_SAID,
        memory_request_bytes=_NOT_SAID,
        memory_limit_bytes=_NOT_SAID,
        gpus=1.0,
        arguments=("vllm", *arguments),
    )


def operator_paths() -> list[Decider]:
    """With the default objectives and with the judge's; the fluid model has no pages: there it is fed with work / C."""
    return [
        Decider(NAME, Learned, OperatorPath),
        Decider(f"{NAME}, queue objective only", Learned, partial(OperatorPath, objectives=QUEUE_ONLY)),
    ]
