"""What one window says about each resource, put as yes, no, or not known: the columns of the decision table.

Gauges of this moment count first, because a window still holds what was before; its extremes only bridge the moment
between a request that left and the next one that is taken in. A clue that nothing was measured for is not the same as
one that says no: each has its own answer. Which verdict follows is decided in `bottleneck`, never here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.units import Seconds

KV_FULL: Final = 0.9
"""KV usage from which requests are kept out or preempted."""
KV_STILL_FULL: Final = 0.85
"""The same while the verdict is that the KV cache is short."""
EASE_LATENCY: Final = 0.85
"""Share of a latency's bound below which a verdict that rests on missing it is given up."""
KV_CROWDED: Final = 0.75
"""KV usage from which it is asked whether one more request of the present size would still fit."""
KV_BESIDE_BATCH: Final = 0.95
"""KV usage from which a batch that stands at its limit too would gain nothing from a higher one."""
BATCH_SLACK: Final = 0.1
"""Share of the batch limit (at least one request) that may be free for the moment between two requests."""
QUEUE_SHARE: Final = 0.3
"""Share of pages with waiting requests from which a queue counts, though it is empty at this moment."""
DRAINED: Final = 0.6
"""Share of the largest queue by which it fell over the window where it is called drained once it is empty."""
PASSING_SHARE: Final = 0.05
"""Fewer waiting requests than this share of the running ones are just being taken in."""
PASSING_COUNT: Final = 2.0
PASSING_TIME: Final = 0.1
"""Mean time in the queue, seconds, below which a few waiting requests are just being taken in."""
PLATEAU: Final = 0.85
"""Where no limit is known: running requests this close to their maximum, with a queue, are taken for the limit."""
STEADY: Final = 0.08
"""Share of the plateau by which the mean of a window may lie below it: a batch at its limit is filled up at once."""
EVEN: Final = 0.75
"""Mean batch fill below which a full replica beside a queue means uneven routing."""
PROMPT_HEAVY: Final = 4.0
"""Prompt tokens computed for each generated one from which prefill is most of the work (weights 1 and 4)."""
STEP_FULL: Final = 0.8
"""Share of the step's token budget from which the budget counts as used up."""
SATURATING_STEP: Final = 512.0
"""Tokens of a step from which arithmetic takes longer than reading weights: today's GPUs need some 300 for that."""
PROMPTS_ONLY: Final = 20.0
"""Prompt tokens for each generated one that say prefill-bound where the size of steps is not known."""
SMALL_BATCH: Final = 32.0
"""Requests up to which a step mostly reads weights: a larger batch then gains although memory is busy."""
FEW_REQUESTS: Final = 40.0
TENSOR_LIMIT: Final = 0.6
SM_LIMIT: Final = 0.9
DRAM_LIMIT: Final = 0.85
SM_LOW: Final = 0.35
GPU_LOW: Final = 0.5
"""NVML's utilisation below which the GPU waits for somebody: any active decode shows nearly 1."""
LINK_BUSY: Final = 0.85
"""Use of a network link or of PCIe from which transfers wait for it."""
HEAT_COUNTS: Final = 0.05
"""Share of time with clocks held down by heat from which it is told: it should be none."""
POWER_COUNTS: Final = 0.5
"""The same for heat or power together: under full load a limit on power holds now and then, and on purpose."""
MEMORY_WAITS: Final = 0.1
"""Share of time in which the engine's container waits for memory from which that holds its steps up: with memory to
spare there is no such time at all."""
DISK_WAITS: Final = 0.3
"""The same of disks, which are waited for while weights are loaded and when prompts are logged, too."""
RETRIEVE_SHARE: Final = 0.3
"""Share of the time to first token from which fetching keys and values is what takes long."""


_OF_LATENCY: Final = frozenset({Bottleneck.COMPUTE, Bottleneck.HOST, Bottleneck.NETWORK})
_Value = TypeVar("_Value")


class _Once(Generic[_Value]):
    """A property computed when it is first asked for; without the lock that costs functools' more than the clue."""

    def __init__(self, compute: Callable[[Any], _Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, clues: object, _owner: type) -> _Value:
        value = self._compute(clues)
        # Stands before this descriptor from now on.
        clues.__dict__[self._compute.__name__] = value
        return value


class GpuState(StrEnum):
    """What the GPUs say."""

    AT_LIMIT = "AtLimit"
    """Arithmetic or memory bandwidth is used up: a larger batch would not help."""
    BUSY = "Busy"
    LOW = "Low"
    """Mostly waiting for somebody else."""
    UNMEASURED = "Unmeasured"


class CpuState(StrEnum):
    """What the host's CPU says."""

    SATURATED = "Saturated"
    FREE = "Free"
    UNMEASURED = "Unmeasured"


@dataclass(frozen=True)
class Clues:
    """One window of a service with everything known around it. `blocked` windows must not be asked for clues."""

    signals: ServiceSignals
    settings: EngineSettings
    objectives: Objectives
    surroundings: Surroundings
    quiet: Seconds
    idle_span: Seconds
    pause: Seconds
    """Shortest span without work that is called idle at all."""
    promised: bool
    """Whether somebody set the objectives; else missing them says nothing until something else confirms it."""
    held: Bottleneck | None = None
    """The verdict that holds; the bounds that led to it are easier to keep than to reach."""

    @_Once
    def replicas(self) -> int:
        """Replicas that report, at least 1."""
        return max(self.signals.replicas_reporting, 1)

    @_Once
    def waiting(self) -> float:
        """Requests that wait now."""
        return known(self.signals.waiting)

    @_Once
    def running(self) -> float:
        """Requests that run now, mean of a replica."""
        return known(self.signals.running) / self.replicas

    @_Once
    def crowd(self) -> float:
        """Requests that run in a replica while others wait: those of now, where nobody told these moments apart.

        What waiting requests found is asked only beside a known limit: without one it has nothing to be measured by.
        """
        found = self.signals.running_when_waiting
        if isinstance(found, Unknown) or isinstance(self.settings.batch_limit, Unknown):
            return self.running
        return max(self.running, found)

    @_Once
    def waits(self) -> bool:
        """Tell whether requests wait now; the few that a busy engine takes in with its next steps are no queue."""
        running = known(self.signals.running)
        if self.waiting < max(1.0, PASSING_SHARE * running):
            return False
        passing = not at_least(self.signals.queue_time_mean, PASSING_TIME) and not isinstance(
            self.signals.queue_time_mean, Unknown
        )
        return not (passing and self.waiting <= max(PASSING_COUNT, 2.0 * PASSING_SHARE * running))

    @_Once
    def waited(self) -> bool:
        """Tell whether requests waited for a good part of the window, and the queue is not just running empty."""
        if not at_least(self.signals.waiting_share, QUEUE_SHARE):
            return False
        slope, most = self.signals.waiting_slope, self.signals.waiting_max
        if isinstance(slope, Unknown) or isinstance(most, Unknown) or self.waits:
            return True
        return slope * self.signals.window > -DRAINED * most

    # ---- batch

    @_Once
    def limit(self) -> tuple[Value, str]:
        """Return the batch limit of one replica and where it is from: "argument", "page", "inferred" or nowhere."""
        highest = self.signals.running_per_replica_max
        if not isinstance(self.settings.batch_limit, Unknown):
            if self.settings.batch_limit_source != "inferred":
                return self.settings.batch_limit, self.settings.batch_limit_source or "argument"
            highest = self.settings.batch_limit
        if isinstance(highest, Unknown):
            return self.settings.batch_limit, ""
        # A plateau is a limit only while more requests would have run: a queue, and a KV cache with room.
        level = self.crowd >= highest * PLATEAU and self._level
        if self.waits and self.kv_room and highest > 0.0 and level and not self.steps_saturate:
            return highest, "inferred"
        return Unknown(UnknownReason.NOT_MEASURED, "not among the arguments, and running requests do not level off"), ""

    @_Once
    def _level(self) -> bool:
        """Tell whether running requests stay where they are; asked where prompts may be what holds them back."""
        mean, highest = self.signals.running_mean, self.signals.running_per_replica_max
        if isinstance(mean, Unknown) or isinstance(highest, Unknown):
            return True
        if not self.prompt_heavy or not at_least(self.signals.waiting_share, 1.0):
            return True
        return mean >= highest - max(0.4, STEADY * highest)

    @_Once
    def batch_full(self) -> bool:
        """Tell whether some replica stands at its batch limit."""
        limit, highest = self.limit[0], self.signals.running_per_replica_max
        if isinstance(limit, Unknown) or isinstance(highest, Unknown):
            return False
        slack = max(1.0, limit * BATCH_SLACK)
        # Of several replicas only the mean of this moment is known: the fullest one of the window stands for them.
        now = highest if self.replicas > 1 else self.crowd
        return highest > limit - max(1.0, limit * BATCH_SLACK / 2.0) and now >= limit - slack

    @_Once
    def batches_full(self) -> bool:
        """Tell whether all replicas together stand at their batch limits now."""
        limit = self.limit[0]
        return self.batch_full and not isinstance(limit, Unknown) and self.running >= limit * (1.0 - 2.0 * BATCH_SLACK)

    @_Once
    def uneven(self) -> bool:
        """Tell whether one replica is full while the others have room."""
        limit = self.limit[0]
        if self.replicas < 2:
            return False
        if self.batch_full and not isinstance(limit, Unknown):
            return self.crowd < limit * EVEN
        mean = self.signals.kv_cache_usage_mean
        return self.kv_short and not isinstance(mean, Unknown) and mean < KV_FULL * EVEN

    # ---- KV cache

    @_Once
    def kv_live(self) -> Value:
        """KV usage now, without prefixes that are only kept in case they come back.

        vLLM's gauge is without them already; SGLang's newer pages tell them apart. TGI tells reservations only.
        """
        usage = self.signals.kv_cache_usage
        if isinstance(usage, Unknown):
            return self.signals.kv_cache_reserved
        spare = self.signals.kv_cache_evictable
        # Usage and what can be evicted add up to at most the pool, unless the usage holds the latter as well.
        if not isinstance(spare, Unknown) and usage + spare > 1.02:
            return max(0.0, usage - spare)
        return usage

    @_Once
    def kv_peak(self) -> Value:
        """Highest KV usage of the window; the present one where cached prefixes had to be taken off."""
        peak, usage = self.signals.kv_cache_usage_max, self.signals.kv_cache_usage
        if isinstance(peak, Unknown) or self.kv_live != usage:
            return self.kv_live
        return peak

    @_Once
    def kv_reserved_only(self) -> bool:
        """Tell whether the KV figure is about reservations, not residency."""
        return isinstance(self.signals.kv_cache_usage, Unknown) and not isinstance(self.kv_live, Unknown)

    @_Once
    def kv_short(self) -> bool:
        """Tell whether the next request does not fit into the KV cache now."""
        usage = self.kv_live
        if isinstance(usage, Unknown):
            return False
        if usage >= (KV_STILL_FULL if self.held is Bottleneck.KV_CACHE else KV_FULL):
            return True
        return usage >= KV_CROWDED and usage * (self.running + 1.0) >= max(self.running, 1.0)

    @_Once
    def kv_room(self) -> bool:
        """Tell whether the KV cache surely has room."""
        return not isinstance(self.kv_live, Unknown) and not self.kv_short and not self.preempts

    @_Once
    def preempts(self) -> bool:
        """Tell whether running requests were pushed out in the window."""
        return above(self.signals.preemption_rate, 0.0)

    # ---- waits that no capacity ends

    @_Once
    def deferred(self) -> bool:
        """Tell whether most of what waits is held back by something else than capacity."""
        held = self.signals.deferred
        return not isinstance(held, Unknown) and held > 0.0 and held >= self.waiting / 2.0

    @_Once
    def adapters_full(self) -> bool:
        """Tell whether requests wait for a place among the LoRA adapters that may run at once."""
        limit = self.signals.lora_limit if known_positive(self.signals.lora_limit) else self.settings.lora_limit
        busy = self.signals.lora_running
        if not above(self.signals.lora_waiting, 0.0) or isinstance(limit, Unknown) or isinstance(busy, Unknown):
            return False
        return busy >= limit

    # ---- work

    @_Once
    def prompt_rate(self) -> Value:
        """Prompt tokens computed per second; all of them where the engine does not tell cached ones apart."""
        computed = self.signals.prompt_computed_rate
        return self.signals.prompt_token_rate if isinstance(computed, Unknown) else computed

    @_Once
    def prompt_heavy(self) -> bool:
        """Tell whether most of the work is prefill."""
        prompt, generated = self.prompt_rate, self.signals.generation_token_rate
        if isinstance(prompt, Unknown) or isinstance(generated, Unknown):
            return False
        return prompt > 0.0 and prompt >= PROMPT_HEAVY * generated

    @_Once
    def steps_saturate(self) -> bool:
        """Tell whether steps carry so many prompt tokens that arithmetic takes the time, not weights."""
        used = self.signals.step_tokens_mean
        if isinstance(used, Unknown):
            return self.prompts_only
        return self.prompt_heavy and used >= SATURATING_STEP

    @_Once
    def prompts_only(self) -> bool:
        """Tell whether next to nothing is generated for what is prefilled."""
        prompt, generated = self.prompt_rate, self.signals.generation_token_rate
        if isinstance(prompt, Unknown) or isinstance(generated, Unknown):
            return False
        return prompt > 0.0 and prompt >= PROMPTS_ONLY * generated

    @_Once
    def steps_capped(self) -> bool:
        """Tell whether steps use up a token budget that leaves the GPU room.

        Where the budget is not known, steps that take prompts in and still stay small while requests wait show it.
        """
        budget, used = self.settings.step_tokens, self.signals.step_tokens_mean
        if isinstance(used, Unknown):
            return False
        if not isinstance(budget, Unknown):
            return used >= STEP_FULL * budget
        return self.prompt_heavy and 2.0 * self.running <= used < SATURATING_STEP

    @_Once
    def first_token_late(self) -> bool:
        """Tell whether first tokens come too late, for another reason than that their requests waited.

        The histogram fills when a request leaves the queue, so that a miss outlives the queue that caused it. Where
        steps are full of prompts, that is what queues come from too.
        """
        first, bound = self.signals.time_to_first_token_p95, self._eased(self.objectives.time_to_first_token_p95)
        if isinstance(first, Unknown) or first <= bound:
            return False
        if self.steps_saturate:
            return True
        median = self.signals.time_to_first_token_p50
        # Of few requests the 95th percentile is the slowest one.
        if self._few_requests and not isinstance(median, Unknown) and median < bound / 2.0:
            return False
        return not above(self.signals.waiting_max, 0.0) and not at_least(self.signals.queue_time_p95, first / 2.0)

    @_Once
    def _few_requests(self) -> bool:
        """Tell whether too few requests ended in the window for a 95th percentile to be about more than two of them."""
        rate = self.signals.request_rate
        return not isinstance(rate, Unknown) and rate * self.signals.window < FEW_REQUESTS

    @_Once
    def tokens_slow(self) -> bool:
        """Tell whether the time between tokens misses its objective."""
        return above(self.signals.inter_token_latency_p95, self._eased(self.objectives.inter_token_latency_p95))

    def _eased(self, bound: float) -> float:
        """Return a latency's bound, lower while a verdict holds that missing it led to."""
        return bound * EASE_LATENCY if self.held in _OF_LATENCY else bound

    # ---- GPU, host, network

    @_Once
    def gpu(self) -> GpuState:
        """What the GPUs say. Profiling counters come before NVML's utilisation, which any active decode drives up."""
        around = self.surroundings
        tensor, memory, active = around.gpu_tensor_active, around.gpu_dram_active, around.gpu_sm_active
        if at_least(tensor, TENSOR_LIMIT) or (at_least(memory, DRAM_LIMIT) and self.running > SMALL_BATCH):
            return GpuState.AT_LIMIT
        if at_least(active, SM_LIMIT) and (isinstance(tensor, Unknown) or at_least(tensor, TENSOR_LIMIT / 2.0)):
            # Multiprocessors that only wait for weights to be read have room for a larger batch.
            reads = at_least(memory, DRAM_LIMIT) and not at_least(tensor, TENSOR_LIMIT / 2.0)
            return GpuState.BUSY if reads else GpuState.AT_LIMIT
        if not isinstance(active, Unknown):
            return GpuState.LOW if active < SM_LOW else GpuState.BUSY
        if not isinstance(around.gpu_utilization, Unknown):
            return GpuState.LOW if around.gpu_utilization < GPU_LOW else GpuState.BUSY
        return GpuState.UNMEASURED if isinstance(tensor, Unknown) and isinstance(memory, Unknown) else GpuState.BUSY

    @_Once
    def cpu(self) -> CpuState:
        """What the host says."""
        around = self.surroundings
        bounds = (
            (around.container_cpu, 0.9),
            (around.cpu_throttled, 0.2),
            (around.cpu_pressure, 0.3),
            (around.node_cpu, 0.95),
        )
        if any(at_least(value, bound) for value, bound in bounds):
            return CpuState.SATURATED
        # A node with free cores says nothing about a container that is held at its own limit.
        if not isinstance(around.container_cpu, Unknown) or not isinstance(around.cpu_throttled, Unknown):
            return CpuState.FREE
        return CpuState.UNMEASURED

    @_Once
    def host_stalls(self) -> tuple[str, str] | None:
        """Return reason and text where the engine's tasks wait for the host's memory or disks."""
        around = self.surroundings
        for field, bound, reason, what in (
            ("memory_pressure", MEMORY_WAITS, "MemoryPressure", "memory"),
            ("io_pressure", DISK_WAITS, "DiskPressure", "a disk"),
        ):
            value = getattr(around, field)
            if at_least(value, bound):
                return reason, f"tasks wait for {what} in {share(value)} of the time{at(around, field)}"
        return None

    @_Once
    def page_process_busy(self) -> bool:
        """Tell whether the process that takes requests in uses its whole core: Python runs on one at a time."""
        return at_least(self.signals.process_cpu_cores, 0.95)

    @_Once
    def remote(self) -> tuple[str, str] | None:
        """Return reason and text where a cache outside the engine, or the way to it, is what takes long."""
        signals = self.signals
        fetch, first = signals.lmcache_retrieve_p95, signals.time_to_first_token_p95
        reads = above(signals.lmcache_remote_read_rate, 0.0)
        if at_least(signals.lmcache_remote_get_p95, 0.0) and reads:
            fetch = signals.lmcache_remote_get_p95 if isinstance(fetch, Unknown) else fetch
        if not isinstance(fetch, Unknown) and not isinstance(first, Unknown) and fetch >= RETRIEVE_SHARE * first > 0.0:
            where = "a remote cache" if reads else "the cache outside the engine"
            return (
                "RemoteCacheSlow",
                f"keys and values from {where} take {fetch:.2g} s of {first:.2g} s (p95)",
            )
        if above(signals.lmcache_ping_error_rate, 0.0):
            return "RemoteCacheUnreachable", "the remote cache does not answer"
        if signals.lmcache_healthy == 0.0:
            return "RemoteCacheUnhealthy", "LMCache says that it is not well"
        around = self.surroundings
        if at_least(around.network_busy, LINK_BUSY):
            where = at(around, "network_busy")
            return "NetworkBusy", f"the busiest network link is {share(around.network_busy)} used{where}"
        if at_least(around.pcie_busy, LINK_BUSY):
            return "PCIeBusy", f"PCIe is {share(around.pcie_busy)} used{at(around, 'pcie_busy')}"
        return None


def known(value: Value) -> float:
    """Return a value that was checked to be known."""
    assert not isinstance(value, Unknown)
    return value


def known_positive(value: Value) -> bool:
    """Tell whether a value is known and above zero."""
    return not isinstance(value, Unknown) and value > 0.0


def above(value: Value, bound: float) -> bool:
    """Tell whether a value is known and above a bound."""
    return not isinstance(value, Unknown) and value > bound


def at_least(value: Value, bound: float) -> bool:
    """Tell whether a value is known and reaches a bound."""
    return not isinstance(value, Unknown) and value >= bound


def at(around: Surroundings, field: str) -> str:
    """Write where a quantity was found, in brackets; nothing where nobody says."""
    place = around.places.get(field, "")
    return f" ({place})" if place else ""


def share(value: Value) -> str:
    """Write a ratio for people."""
    return str(value) if isinstance(value, Unknown) else f"{value:.0%}"


def count(value: Value) -> str:
    """Write a count for people, at the start of a sentence."""
    return "An unknown number of" if isinstance(value, Unknown) else f"{value:.0f}"
