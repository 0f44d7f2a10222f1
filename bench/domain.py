"""What the decisions cost: a fleet of workloads, histories and sketches, timed on one core.

`python -m bench.domain` prints a table, `--json` the same for machines. Inputs are made up and seeded; they measure
time and size, not quality. The limits that the project promises are printed beside the figures they are about, and
the exit status is 1 when one is missed.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.result import Result, shown
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.history import MOST_BYTES, POINTS, LoadHistory
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.replica_load import LoadSample
from optiinfra.domain.right_sizing import ContainerUsage, UsageHistory, estimate
from optiinfra.domain.scaling import ScalerMemory, ScalingDecision, ScalingInput, decide
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime

NOW = UnixTime(1.7e9 - 1.7e9 % 15.0)
STEP = 15.0
GIB = 2.0**30
UNMEASURED = Unknown(UnknownReason.NOT_MEASURED)


def timed(work: Callable[[], object], *, times: int = 3) -> float:
    """Best of a few runs, seconds."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


def signals_at(moment: float, *, running: float, waiting: float, replicas: int) -> ServiceSignals:
    """Signals of one healthy service."""
    return ServiceSignals(
        time=UnixTime(moment),
        window=Seconds(60.0),
        replicas_expected=replicas,
        replicas_reporting=replicas,
        running=running,
        waiting=waiting,
        waiting_slope=0.0,
        waiting_max=waiting,
        running_max=running,
        running_per_replica_max=running / replicas,
        kv_cache_usage=0.5,
        kv_cache_usage_mean=0.4,
        kv_cache_usage_max=0.5,
        kv_cache_capacity_tokens=400_000.0,
        request_rate=running / 8.0,
        prompt_token_rate=running * 100.0,
        generation_token_rate=running * 30.0,
        work_rate=running * 220.0,
        preemption_rate=0.0,
        prefix_hit_ratio=0.3,
        lmcache_hit_ratio=UNMEASURED,
        time_to_first_token_p95=0.4,
        inter_token_latency_p95=0.03,
        queue_time_p95=0.1,
        request_latency_p95=8.0,
        prompt_tokens_mean=800.0,
        generation_tokens_mean=240.0,
        busy_share=1.0,
    )


def history_of(rng: np.random.Generator, *, points: int) -> LoadHistory:
    """A day-like wave with noise, ending now."""
    history = LoadHistory()
    phase, level = rng.uniform(0.0, 6.28), rng.uniform(5.0, 500.0)
    wave = level * (1.0 + 0.6 * np.sin(phase + np.arange(points) / 400.0)) * rng.normal(1.0, 0.08, points)
    for index, value in enumerate(np.maximum(np.round(wave), 0.0).tolist()):
        moment = UnixTime(NOW - (points - 1 - index) * STEP)
        history.observe(signals_at(moment, running=value, waiting=0.0, replicas=4), 4)
    return history


def input_at(now: UnixTime, *, running: float, waiting: float, memory: ScalerMemory) -> ScalingInput:
    """Four replicas of 64 slots, at one moment."""
    finished, work = running / 10.0, 1000.0
    one = LoadSample(now, 4, 4, running, waiting, finished * work, finished, finished, min(0.9, running / 300.0))
    return ScalingInput(
        signals=signals_at(now, running=running, waiting=waiting, replicas=4),
        samples=(one,),
        fresh=None,
        settings=EngineSettings(batch_limit=64.0, batch_limit_source="argument"),
        current=4,
        ready=4,
        minimum=1,
        maximum=64,
        start_up_p50=Seconds(150.0),
        start_up_p95=Seconds(180.0),
        memory=memory,
    )


def fleet(rng: np.random.Generator, *, size: int) -> list[ScalingInput]:
    """Workloads that have lived through a few ticks each."""
    loads = rng.uniform(5.0, 200.0, size)
    memories = [ScalerMemory() for _ in range(size)]
    for tick in range(4):
        now = UnixTime(NOW - STEP * (4 - tick))
        given = [input_at(now, running=load, waiting=0.0, memory=m) for load, m in zip(loads, memories, strict=True)]
        memories = [outcome.memory for outcome in decide(given, now=now)]
    return [
        input_at(NOW, running=load, waiting=float(rng.choice([0.0, 0.0, 20.0])), memory=memory)
        for load, memory in zip(loads, memories, strict=True)
    ]


def scaling_results(rng: np.random.Generator, *, size: int) -> list[Result]:
    """Deciding for a fleet, with what a decision remembers taken apart and put together."""
    inputs = fleet(rng, size=size)
    decisions = [outcome.decision for outcome in decide(inputs, now=NOW)]
    changed = sum(1 for d in decisions if isinstance(d, ScalingDecision) and d.desired != d.current)
    return [
        Result(f"decide, {size} workloads ({changed} changes)", timed(lambda: decide(inputs, now=NOW)), "s", 10.0),
        Result("decide, one workload", timed(lambda: decide(inputs[:1], now=NOW), times=50) * 1e3, "ms", 5.0),
    ]


def history_results(rng: np.random.Generator) -> list[Result]:
    """Keeping and saving the load of one workload."""
    usual = history_of(rng, points=POINTS)
    noise = LoadHistory()
    for index in range(POINTS):
        running, waiting, work = (float(value) for value in rng.uniform(0.0, 1e4, 3))
        seen = signals_at(NOW + index * STEP, running=running, waiting=waiting, replicas=4)
        noise.observe(replace(seen, work_rate=work, kv_cache_usage_mean=float(rng.random())), 4)
    seen = signals_at(NOW, running=100.0, waiting=0.0, replicas=4)
    data = usual.to_bytes()
    return [
        Result("load history observe", timed(lambda: usual.observe(seen, 4), times=200) * 1e6, "us"),
        Result("load history of six hours, day-like", len(data), "bytes", MOST_BYTES),
        Result("load history of six hours, pure noise", len(noise.to_bytes()), "bytes", MOST_BYTES),
        Result("load history save", timed(usual.to_bytes, times=10) * 1e3, "ms"),
        Result("load history load", timed(lambda: LoadHistory.from_bytes(data), times=10) * 1e3, "ms"),
    ]


def right_sizing_results(rng: np.random.Generator) -> list[Result]:
    """Learning and estimating for one container; a fleet is measured by `bench.right_sizing`."""
    history = UsageHistory()
    minutes = 8 * 1440
    cpu, memory = rng.gamma(2.0, 0.3, minutes).tolist(), rng.normal(4e9, 3e8, minutes).tolist()
    began = time.perf_counter()
    for minute in range(minutes):
        history.observe(ContainerUsage(UnixTime(NOW + minute * 60.0), cpu[minute], memory[minute]))
    each = (time.perf_counter() - began) / minutes
    now = UnixTime(NOW + minutes * 60.0)
    return [
        Result("container usage observe", each * 1e6, "us"),
        Result("container usage, eight days", len(history.to_bytes()), "bytes", 1536),
        Result("right-sizing of one container", timed(lambda: estimate([history], now=now), times=50) * 1e6, "us"),
    ]


def main() -> int:
    """Run all and print; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=5000, help="workloads (default 5000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    results = [
        *scaling_results(rng, size=options.size),
        *history_results(rng),
        *right_sizing_results(rng),
    ]
    return shown(results, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
