"""Scalers made for LLM services, from their rules: llm-d's WVA (version 1 and 2) and Dynamo's load planner.

Sources: llm-d-incubation/workload-variant-autoscaler (saturation analysis, February 2026), ai-dynamo/dynamo
`components/src/dynamo/planner/core/{throughput_scaling,load_scaling}.py`. They decide on KV cache, queue length and
latency, which a fluid model has not; what stands for each is said here and is the same for all of them: a replica that
is busy all the time uses `FULL_USE` of its KV cache, and what waits is counted in requests of `SERVICE_S` seconds.
"""

from typing import Final

import numpy as np

from optiinfra.domain.replay.baselines import Stabilized, ceiled
from optiinfra.domain.replay.fluid import FloatArray, IntArray, View, rise_limited

FULL_USE: Final = 0.85
"""KV cache in use on a replica that is exactly busy."""
SERVICE_S: Final = 8.0
"""Seconds of a replica's slot that a request needs."""
SLOTS: Final = 16.0
"""Requests that a replica serves at once: busy for 8 s each, it serves two a second."""


def kv_use(view: View, *, steps: int) -> FloatArray:
    """Share of the KV cache in use: what is served, and as far as there is room what waits."""
    ready = np.maximum(view.capacity(steps), 1e-9)
    use: FloatArray = np.minimum(FULL_USE * (view.served(steps) / ready) + waiting(view) / SLOTS * 0.1, 1.0)
    return use


def waiting(view: View) -> FloatArray:
    """Requests that wait at each ready replica."""
    requests = view.backlog() * SLOTS / SERVICE_S
    each: FloatArray = requests / np.maximum(view.ready, 1)
    return each


class Seen:
    """How full the engines are: rules read it through these methods, which a judge with real engines overrides."""

    def kv_use(self, view: View, *, steps: int) -> FloatArray:
        """Share of the KV cache in use, mean over the ready replicas."""
        return kv_use(view, steps=steps)

    def waiting(self, view: View) -> FloatArray:
        """Requests that wait at each ready replica."""
        return waiting(view)

    def pressure(self, view: View) -> FloatArray:
        """Work ahead of a request: requests in flight over slots, of each ready replica."""
        load: FloatArray = view.served(3) / np.maximum(view.capacity(3), 1e-9) + waiting(view) / SLOTS
        return load


class Every:
    """Let a rule speak every `syncs`-th sync; its last word stands between."""

    def __init__(self, *, syncs: int) -> None:
        self._syncs = syncs
        self._last: IntArray | None = None

    def due(self, view: View) -> bool:
        """Tell whether it is time."""
        return self._last is None or view.sync % self._syncs == 0

    def keep(self, asked: IntArray) -> IntArray:
        """Remember and pass on."""
        self._last = asked
        return asked

    @property
    def last(self) -> IntArray:
        """What it said last."""
        assert self._last is not None
        return self._last


class WvaV1(Seen):
    """WVA version 1: one more when the mean spare KV is below 0.10 or the mean spare queue below 3; one less when safe.

    A replica is saturated at KV >= 0.80 or queue >= 5. With all alike, the mean is each one. It speaks every 60 s,
    skips while replicas start, and an HPA behind `wva_desired_replicas` keeps its own stabilisation.
    """

    KV: Final = 0.80
    QUEUE: Final = 5.0
    SPARE_KV: Final = 0.10
    SPARE_QUEUE: Final = 3.0

    def __init__(self) -> None:
        self._every = Every(syncs=4)
        self._stabilized = Stabilized()

    def __call__(self, view: View) -> IntArray:
        """Ask for replicas."""
        current = view.replicas
        if not self._every.due(view):
            return rise_limited(self._stabilized(self._every.last, sync=view.sync, current=current), current)
        kv, queue = self.kv_use(view, steps=12), self.waiting(view)
        more = (kv > self.KV - self.SPARE_KV) | (queue > self.QUEUE - self.SPARE_QUEUE)
        left = np.maximum(view.ready - 1, 1)
        spread_kv, spread_queue = kv * view.ready / left, queue * view.ready / left
        less = (view.ready >= 2) & (self.KV - spread_kv >= self.SPARE_KV)
        less &= self.QUEUE - spread_queue >= self.SPARE_QUEUE
        pending = view.ready < current
        asked = current + np.where(pending, 0, np.where(more, 1, np.where(less, -1, 0)))
        return rise_limited(self._stabilized(self._every.keep(asked), sync=view.sync, current=current), current)


class WvaV2(Seen):
    """WVA version 2: demand in tokens over the capacity of a replica; up at 0.85, down below 0.70 of it.

    Required = demand / 0.85 - (ready + pending), rounded up; spare = supply - demand / 0.70, rounded down.
    A replica's capacity is min(k1, k2), k1 = 0.80 of its KV cache; demand = tokens in use + what waits.
    """

    UP: Final = 0.85
    DOWN: Final = 0.70
    K1: Final = 0.80

    def __init__(self) -> None:
        self._every = Every(syncs=4)
        self._stabilized = Stabilized()

    def __call__(self, view: View) -> IntArray:
        """Ask for replicas."""
        current = view.replicas
        if not self._every.due(view):
            return rise_limited(self._stabilized(self._every.last, sync=view.sync, current=current), current)
        demand = (self.kv_use(view, steps=12) * view.ready + self.waiting(view) * view.ready / SLOTS) / self.K1
        required = ceiled(demand / self.UP - current)
        spare = np.floor(view.ready - demand / self.DOWN + 1e-9).astype(np.int64)
        asked = current + np.where(required > 0, required, np.where(spare > 0, -spare, 0))
        return rise_limited(
            self._stabilized(self._every.keep(np.maximum(asked, 1)), sync=view.sync, current=current), current
        )


class DynamoLoad(Seen):
    """Dynamo's load planner (aggregated engines): one up when all exceed the objective, one down below 0.8 of it.

    Its tick is 5 s; here it speaks with every sync, so it is given three steps at once up and down. Latency is stood
    for by the work ahead of a request: requests in flight over slots. Down only if the same load on one replica less
    still fits; nothing while replicas start.
    """

    UP: Final = 1.0
    DOWN: Final = 0.6

    def __call__(self, view: View) -> IntArray:
        """Ask for replicas."""
        current = view.replicas
        ready = np.maximum(view.ready, 1)
        load = self.pressure(view)
        more = load >= self.UP - 1e-3
        fits = load * ready / np.maximum(ready - 1, 1) < self.UP * 0.8
        less = (load < self.DOWN) & fits & (ready >= 2)
        stable = view.ready == current
        asked: IntArray = current + np.where(stable, np.where(more, 1, np.where(less, -1, 0)), 0)
        return asked
