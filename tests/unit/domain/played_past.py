"""The past of a played fleet as the report gets it from a metrics server, without the server: arrays on its grid.

What a server would do to the player's scrapes is done here with numpy: means, highest values and rates over each step,
added up over a model's pods. Only what the rules on limits look at is made; the whole way, queries and joining, is
tested on real servers (`tests/unit/test_report_real.py`). Everything in it is simulated.
"""

from dataclasses import replace

import numpy as np

from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.report.history import EngineConfig, GpuHistory, GpuSource, HolderSource, Load, ModelHistory
from optiinfra.domain.report.hours import hours_of, settings_of
from optiinfra.domain.report.limits import judged
from optiinfra_sim.history_engines import PodCourse
from optiinfra_sim.history_fleet import STEP_S, Fleet
from optiinfra_sim.history_gpus import DRAM_OF_SM, TENSOR_OF_SM
from tests.unit.domain.report_fleet import gpu, model

GRID_S = 300.0
EACH = round(GRID_S / STEP_S)
KINDS = {"vllm": EngineKind.VLLM, "sglang": EngineKind.SGLANG, "tgi": EngineKind.TGI}
NOT_TOLD = Unknown(UnknownReason.NOT_MEASURED, "the engine does not tell it")


def grid(values, join=np.nanmean):
    """Join the scrapes of each step; the grid begins with the first whole one."""
    whole = values[len(values) % EACH :].reshape(-1, EACH)
    known = np.isfinite(whole).any(axis=1)
    joined = np.full(len(whole), np.nan)
    joined[known] = join(whole[known], axis=1)
    return joined


class Pods:
    """One model's pods, each over the whole time: NaN where it did not serve."""

    def __init__(self, fleet: Fleet, played) -> None:
        self.points = len(fleet.times)
        self.courses = [
            PodCourse(pod, np.random.default_rng((fleet.seed, *pod.name.encode())))
            for pod in fleet.pods
            if pod.model is played and pod.serving < pod.last
        ]

    def each(self, pick):
        for course in self.courses:
            values = np.full(self.points, np.nan)
            values[course.pod.serving : course.pod.last] = pick(course)
            yield values

    def added(self, pick, join=np.nanmean):
        steps = [grid(values, join) for values in self.each(pick)]
        return np.where(np.isfinite(steps).any(axis=0), np.nansum(steps, axis=0), np.nan)

    def highest(self, pick):
        return np.fmax.reduce([grid(values, np.nanmax) for values in self.each(pick)])


def past_of(fleet: Fleet, played):
    """Return a model of a played fleet as `ModelHistory`, its GPUs, and the grid, (points,)."""
    pods, settings, course = Pods(fleet, played), played.plan.settings, played.course
    kind = KINDS[settings.kind.value]
    times = grid(fleet.times, np.nanmax)
    capacity = float(settings.usable_blocks * settings.block_size)
    prompts = pods.added(lambda one: one.tokens(played.traffic.prompt_tokens) / STEP_S)
    answers = pods.added(lambda one: one.tokens(played.traffic.output_tokens) / STEP_S)
    requests = pods.added(lambda one: one.served / STEP_S)
    usage = NOT_TOLD if kind is EngineKind.TGI else pods.added(lambda one: one.kv_tokens / capacity)
    count = grid(played.serving)
    load = Load(
        prompt_tokens=prompts,
        generation_tokens=answers,
        requests=requests,
        running=pods.added(lambda one: one.running),
        running_highest=pods.highest(lambda one: one.running),
        waiting=pods.added(lambda one: one.waiting),
        waiting_highest=pods.added(lambda one: one.waiting, np.nanmax),
        kv_usage=usage if isinstance(usage, Unknown) else usage / np.maximum(count, 1.0),
        kv_usage_highest=usage if isinstance(usage, Unknown) else pods.highest(lambda one: one.kv_tokens / capacity),
        kv_reserved=pods.added(lambda one: one.kv_tokens / capacity) / count
        if isinstance(usage, Unknown)
        else NOT_TOLD,
        preemptions=pods.added(lambda one: one.part(course.preempted)),
        ttft_mean=grid(course.first_token_s),
        itl_mean=grid(course.step_s),
        queue_mean=grid(course.wait_s),
        aborted=pods.added(lambda one: one.part(course.aborted)),
        prompt_length_mean=prompts / np.maximum(requests, 1e-9),
        generation_length_mean=answers / np.maximum(requests, 1e-9),
        work=prompts + 4.0 * answers,
    )
    config = EngineConfig(kv_capacity_tokens=capacity, memory_share=settings.gpu_memory_utilization)
    zero = np.zeros(len(times))
    told = model(times, played.plan.workload, busy=zero, replicas=1, namespace=played.plan.namespace)
    found: ModelHistory = replace(
        told,
        engines=((kind, told.engines[0][1]),),
        load=load,
        config=config,
        serving=count,
        available=count,
        spec_replicas=grid(played.held),
        gpus_per_replica=float(played.plan.size.gpus),
    )
    active = grid(course.sm_active)
    measured: GpuHistory = replace(
        gpu(times, "GPU-x", "n", grid(course.busy)),
        sm_active=active,
        tensor_active=active * TENSOR_OF_SM,
        dram_active=active * DRAM_OF_SM,
        source=GpuSource.DCGM,
        holder_source=HolderSource.EXPORTER,
    )
    return found, (measured,), times


def verdicts_of(fleet: Fleet, played, *, promised=False):
    """Return the verdicts on each hour of a played model."""
    history, gpus, times = past_of(fleet, played)
    hours = hours_of(history, gpus, times, step_s=GRID_S)
    return judged(hours, settings=settings_of(history), objectives=Objectives(), promised=promised)
