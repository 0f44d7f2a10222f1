"""What the second judge plays: a trace at a size, on an engine whose capacity was measured on the trace's own requests.

A long trace is judged on a stated span. What comes before the span is history: every decider lives through it in the
fluid model, so that a rule that learns has something learned. Dense spans are cut to whole hours.
"""

from dataclasses import dataclass

import numpy as np

from bench.scaling_judge_drawn import Source
from bench.scaling_judge_engines import Capacity, Regime, measured, regime_for
from bench.scaling_judge_requests import Requests
from optiinfra.domain.replay.fluid import STEP_S, FloatArray
from optiinfra_sim.routing import Routing
from optiinfra_sim.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class Span:
    """What of a trace is judged: so many seconds after so much history, in whole hours fewer where requests abound."""

    history_s: float
    length_s: float
    most_requests: int = 400_000

    def within(self, requests: Requests) -> tuple[float, float]:
        """Return (begin, end) of the span: less history where the trace is short, fewer hours where it is dense."""
        begin = max(0.0, min(self.history_s, requests.length_s - self.length_s)) // STEP_S * STEP_S
        end = min(begin + self.length_s, requests.length_s)
        while end - begin > 3600.0 and ((requests.at >= begin) & (requests.at < end)).sum() > self.most_requests:
            end = begin + max(3600.0, (end - begin - 1.0) // 3600.0 * 3600.0)
        return begin, end


@dataclass(frozen=True, slots=True)
class Case:
    """A trace at a size, on an engine whose capacity was measured."""

    name: str
    regime: Regime
    settings: EngineSettings
    capacity: Capacity
    history: FloatArray
    """Load before the span, in replicas, on steps of 5 s."""
    requests: Requests
    """Those of the span."""
    replicas: float
    start_up_s: float
    routing: Routing = Routing.LEAST_LOADED
    gateway: bool = False

    @property
    def load(self) -> FloatArray:
        """Load of history and span, in replicas."""
        return np.concatenate([self.history, self.requests.load() / self.capacity.work])


def prepared(
    source: Source,
    *,
    replicas: float,
    start_up_s: float,
    span: Span,
    seed: int,
    regime: Regime | None = None,
    routing: Routing = Routing.LEAST_LOADED,
    gateway: bool = False,
) -> Case:
    """Measure the engine on the trace's requests, then bring the trace to size; a short trace is judged as a whole."""
    shapes = source.shapes()
    chosen = regime or regime_for(shapes)
    shapes = shapes.within(chosen.max_model_len)
    context = float((shapes.prompt + shapes.output / 2.0).mean())
    settings = chosen.settings(mean_context=context, prefix_caching=bool(shapes.content))
    capacity = measured(settings, shapes, routing=routing, seed=seed)
    requests = source.make(replicas * capacity.work).within(chosen.max_model_len)
    history_s, end_s = span.within(requests)
    steps = round(history_s / STEP_S)
    return Case(
        name=requests.name,
        regime=chosen,
        settings=settings,
        capacity=capacity,
        history=requests.load()[:steps] / capacity.work,
        requests=requests.between(history_s, end_s),
        replicas=replicas,
        start_up_s=start_up_s,
        routing=routing,
        gateway=gateway,
    )
