"""Idle GPUs, one by one, and idle services.

An idle GPU is the dearest waste there is, and a wrong verdict the dearest mistake: so the maximum of a window counts
and never the mean, several signals must agree, a gap in the samples is not idleness, a pod that still loads its model
is not idle, and whatever is missing makes the verdict `Unknown`. Verdicts are reports; nothing here acts.

NVML's utilisation is the share of time with any kernel at all: fit to prove idleness, unfit to prove good use. Hence
"under-used" prefers the share of active multiprocessors where the hardware tells it. Power vetoes: a GPU that draws
more than half its limit is not idle, whatever its counters say. Thresholds below half would need a learned floor (a
small card draws 40 % of its limit at rest with its memory clocked up), and a floor learned under load is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from optiinfra.domain import gpus
from optiinfra.domain.evidence import Evidence, Finding, FindingType
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Bytes, Ratio, Seconds, UnixTime
from optiinfra.domain.utilization import Utilization
from optiinfra.domain.workload import AgentReading, NodeFacts, PodFacts


class GpuState(StrEnum):
    """What a GPU was doing in the window."""

    IDLE_UNALLOCATED = "IdleUnallocated"
    """Nobody requested it."""
    IDLE_ALLOCATED_EMPTY = "IdleAllocatedEmpty"
    """A pod holds it, and neither computes on it nor keeps anything in its memory."""
    IDLE_HELD_MEMORY = "IdleHeldMemory"
    """Something is kept in its memory, and nothing is computed."""
    UNDER_USED = "UnderUsed"
    ACTIVE = "Active"
    UNKNOWN = "Unknown"


IDLE_STATES: Final = frozenset({GpuState.IDLE_UNALLOCATED, GpuState.IDLE_ALLOCATED_EMPTY, GpuState.IDLE_HELD_MEMORY})


@dataclass(frozen=True, slots=True)
class IdlePolicy:
    """From when a GPU counts as idle."""

    minimum_samples: int = 10
    minimum_span: Seconds = Seconds(600.0)
    """Time that the samples must cover."""
    largest_gap: Seconds = Seconds(120.0)
    """Longest time between two samples; in a longer one anything may have happened."""
    idle_utilization: Ratio = Ratio(0.05)
    """Highest utilisation of an idle GPU, at any moment."""
    under_used_utilization: Ratio = Ratio(0.4)
    """95th percentile of activity below which a GPU is under-used."""
    empty_memory: Bytes = Bytes(1.5 * 2**30)
    """Memory that a driver and a bare context may hold."""
    power_veto: Ratio = Ratio(0.5)
    """Share of the power limit above which a GPU is not idle."""
    warm_up: Seconds = Seconds(600.0)
    """Time that a pod gets to load its model."""


@dataclass(frozen=True, slots=True)
class GpuVerdict:
    """The verdict on one GPU."""

    node: str
    uuid: str
    model: str
    state: GpuState
    confidence: Ratio
    reason: str
    """CamelCase reason code."""
    message: str
    pod: str
    """namespace/name of the pod that holds it; empty when none does or it is not known."""
    evidence: tuple[Evidence, ...]

    def finding(self) -> Finding | None:
        """Return the verdict as a finding; None where there is nothing to find fault with."""
        if self.state in IDLE_STATES:
            kind = FindingType.IDLE_GPU
        elif self.state is GpuState.UNDER_USED:
            kind = FindingType.UNDER_USED
        else:
            return None
        return Finding(kind, self.reason, self.message, self.confidence, self.evidence, subject=self.uuid)


def verdicts(
    node: NodeFacts,
    *,
    now: UnixTime,
    window: Seconds,
    stale_after: Seconds,
    policy: IdlePolicy = IdlePolicy(),
) -> tuple[GpuVerdict, ...]:
    """Judge every GPU that the node's agent showed in the window."""
    readings = gpus.recent(node, now=now, window=window)
    latest = gpus.latest(node, now=now, window=window, stale_after=stale_after)
    models = {gpu.uuid: gpu.model for reading in readings for gpu in reading.gpus}
    judged = []
    for uuid in sorted(models):
        judge = _Judge(node, uuid, models[uuid], gpus.series(readings, uuid), policy)
        if isinstance(latest, Unknown):
            judged.append(judge.unknown("NoFreshReading", f"its agent's reading is {latest}"))
        else:
            judged.append(judge.verdict(latest, now=now))
    return tuple(judged)


def node_findings(judged: Sequence[GpuVerdict]) -> tuple[Finding, ...]:
    """Return the findings of one node's verdicts, for the cluster's object."""
    return tuple(finding for one in judged if (finding := one.finding()) is not None)


def idle_gpus(judged: Sequence[GpuVerdict]) -> int:
    """Count the GPUs that were surely idle."""
    return sum(one.state in IDLE_STATES for one in judged)


def workload_idle(
    signals: ServiceSignals,
    utilization: Utilization,
    *,
    minimum_span: Seconds = Seconds(600.0),
    policy: IdlePolicy = IdlePolicy(),
) -> Finding | Unknown | None:
    """Judge a service: a finding when it is idle or hardly used, None when it works, `Unknown` when it cannot be said.

    The engines' own word comes first; GPUs that work for an engine without requests contradict it, and then nothing is
    found.
    """
    blocked = _cannot_say(signals, minimum_span)
    if blocked is not None:
        return blocked
    busiest = utilization.gpu_ratio_max
    evidence = (
        Evidence("requests_running", signals.running_max, "", signals.window, "engine", "max"),
        Evidence("requests_waiting", signals.waiting_max, "", signals.window, "engine", "max"),
        Evidence("generation_tokens", signals.generation_token_rate, "tokens/s", signals.window, "engine", "rate"),
        Evidence("busy_share", signals.busy_share, "ratio", signals.window, "engine"),
        Evidence("gpu_utilization", busiest, "ratio", signals.window, "agent", "max"),
    )
    minutes = f"{signals.window / 60:.0f} min"
    held = f", while {utilization.gpus_expected:g} GPUs are held" if utilization.gpus_expected else ""
    if not any(_number(value) for value in (signals.running_max, signals.waiting_max, signals.generation_token_rate)):
        if not isinstance(busiest, Unknown) and busiest > policy.idle_utilization:
            return Unknown(UnknownReason.INVALID, f"the engines report no work, and a GPU was {busiest:.0%} busy")
        sure = 0.7 if isinstance(busiest, Unknown) else 0.95
        message = f"No request ran or waited in the last {minutes}{held}."
        return Finding(FindingType.IDLE_GPU, "ServiceIdle", message, Ratio(sure), evidence)
    share = _number(signals.busy_share)
    if share < 0.2 and _number(signals.waiting_max) == 0.0:
        message = f"Requests ran in {share:.0%} of the last {minutes}{held}."
        return Finding(FindingType.UNDER_USED, "ServiceRarelyBusy", message, Ratio(0.7), evidence)
    return None


def _cannot_say(signals: ServiceSignals, minimum_span: Seconds) -> Unknown | None:
    if signals.replicas_reporting < signals.replicas_expected or signals.replicas_reporting == 0:
        detail = f"{signals.replicas_reporting} of {signals.replicas_expected} replicas report"
        return Unknown(UnknownReason.NOT_MEASURED, detail)
    if signals.window < minimum_span:
        detail = f"pages cover {signals.window:.0f} s, {minimum_span:.0f} s are needed"
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, detail)
    for value in (signals.running_max, signals.waiting_max, signals.generation_token_rate, signals.busy_share):
        if isinstance(value, Unknown):
            return value
    return None


@dataclass(frozen=True)
class _Judge:
    node: NodeFacts
    uuid: str
    model: str
    samples: tuple[gpus.GpuSample, ...]
    policy: IdlePolicy

    def verdict(self, latest: AgentReading, *, now: UnixTime) -> GpuVerdict:
        blocked = self._too_little(latest)
        if blocked is not None:
            return blocked
        activity = [_activity(sample) for sample in self.samples]
        unknown = next((value for value in activity if isinstance(value, Unknown)), None)
        if unknown is not None:
            return self.unknown("ActivityUnknown", f"its activity is {unknown}")
        known = [value for value in activity if not isinstance(value, Unknown)]
        if max(known) > self.policy.idle_utilization:
            return self._used(latest)
        veto = self._power_share()
        if not isinstance(veto, Unknown) and veto > self.policy.power_veto:
            return self.unknown(
                "PowerContradicts", f"it shows no activity, yet draws up to {veto:.0%} of its power limit"
            )
        return self._idle(latest, now=now)

    def unknown(self, reason: str, why: str) -> GpuVerdict:
        return self._verdict(GpuState.UNKNOWN, 0.0, reason, f"GPU {self.uuid} cannot be judged: {why}.", "")

    def _too_little(self, latest: AgentReading) -> GpuVerdict | None:
        policy, samples = self.policy, self.samples
        if samples[-1].time < latest.time:
            return self.unknown("Lost", "its agent no longer shows it")
        span = samples[-1].time - samples[0].time
        if len(samples) < policy.minimum_samples or span < policy.minimum_span:
            return self.unknown(
                "TooFewSamples",
                f"{len(samples)} samples over {span:.0f} s; {policy.minimum_samples} over {policy.minimum_span:.0f} s "
                "are needed",
            )
        gap = max(later.time - earlier.time for earlier, later in pairwise(samples))
        if gap > policy.largest_gap:
            return self.unknown("Gap", f"nothing was measured for {gap:.0f} s in between")
        return None

    def _used(self, latest: AgentReading) -> GpuVerdict:
        pod = self._holder(latest)
        shown = pod if isinstance(pod, str) else ""
        multiprocessors = _known([sample.gpu.sm_active_ratio for sample in self.samples])
        time_busy = _known([sample.gpu.utilization_ratio for sample in self.samples])
        values = multiprocessors if len(multiprocessors) == len(self.samples) else time_busy
        high = sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]
        if high < self.policy.under_used_utilization:
            sure = 0.8 if values is multiprocessors else 0.6
            message = f"GPU {self.uuid} was at most {high:.0%} active in 95 % of the window."
            return self._verdict(GpuState.UNDER_USED, sure, "LowActivity", message, shown)
        return self._verdict(GpuState.ACTIVE, 0.9, "Active", f"GPU {self.uuid} works.", shown)

    def _idle(self, latest: AgentReading, *, now: UnixTime) -> GpuVerdict:
        used = [sample.gpu.memory_used_bytes for sample in self.samples]
        memory = self.samples[-1].gpu.memory_used_bytes
        if isinstance(memory, Unknown) or len(_known(used)) < len(used):
            return self.unknown("MemoryUnknown", "it computes nothing, but what its memory holds is not known")
        empty = max(_known(used)) <= self.policy.empty_memory
        pod = self._holder(latest)
        minutes = f"for {(self.samples[-1].time - self.samples[0].time) / 60:.0f} min"
        if isinstance(pod, Unknown):
            if empty:
                return self.unknown("AllocationUnknown", f"it is idle {minutes}, but whose it is, is {pod}")
            message = f"GPU {self.uuid} holds {memory / 2**30:.0f} GiB and computed nothing {minutes}."
            return self._verdict(GpuState.IDLE_HELD_MEMORY, self._sure() - 0.1, "IdleHeldMemory", message, "")
        if not pod and empty:
            message = f"GPU {self.uuid} is free and computed nothing {minutes}."
            return self._verdict(GpuState.IDLE_UNALLOCATED, self._sure(), "IdleUnallocated", message, "")
        if self._warming_up(pod, now=now):
            return self.unknown("WarmUp", f"pod {pod} may still load its model")
        if empty:
            message = f"GPU {self.uuid} is held by pod {pod} and was neither filled nor used {minutes}."
            return self._verdict(GpuState.IDLE_ALLOCATED_EMPTY, self._sure(), "IdleAllocatedEmpty", message, pod)
        holder = f"pod {pod}" if pod else "a process outside Kubernetes"
        message = f"GPU {self.uuid}: {holder} keeps {memory / 2**30:.0f} GiB there and computed nothing {minutes}."
        return self._verdict(GpuState.IDLE_HELD_MEMORY, self._sure(), "IdleHeldMemory", message, pod)

    def _holder(self, latest: AgentReading) -> str | Unknown:
        """Return the pod that holds the GPU, empty for none."""
        holders = sorted(f"{one.namespace}/{one.pod}" for one in latest.allocations if one.gpu_uuid == self.uuid)
        if holders:
            return holders[0]
        requested = sum(pod.gpus for pod in self.node.pods)
        if requested <= 0.0:
            return ""
        attributed = {one.gpu_uuid for one in latest.allocations}
        if len(attributed) >= requested:
            return ""
        on_gpus = [pod for pod in self.node.pods if pod.gpus > 0]
        if len(on_gpus) == 1 and requested >= len(latest.gpus):
            return f"{on_gpus[0].namespace}/{on_gpus[0].name}"
        return Unknown(UnknownReason.UNSUPPORTED, "not known (agent without pod-resources)")

    def _warming_up(self, pod: str, *, now: UnixTime) -> bool:
        holder: PodFacts | None = next((one for one in self.node.pods if f"{one.namespace}/{one.name}" == pod), None)
        if holder is None:
            return False
        since = holder.created if holder.became_ready is None else holder.became_ready
        return now - since < self.policy.warm_up

    def _power_share(self) -> Value:
        limit = self.samples[-1].gpu.power_limit_watts
        drawn = _known([sample.gpu.power_watts for sample in self.samples])
        if isinstance(limit, Unknown):
            return limit
        if not drawn or limit <= 0.0:
            return Unknown(UnknownReason.NOT_MEASURED, "no power reading")
        return max(drawn) / limit

    def _sure(self) -> float:
        """Say how sure: each signal that agrees adds."""
        sure = 0.7
        if len(_known([sample.gpu.sm_active_ratio for sample in self.samples])) == len(self.samples):
            sure += 0.15
        if not isinstance(self._power_share(), Unknown):
            sure += 0.1
        return sure

    def _verdict(self, state: GpuState, sure: float, reason: str, message: str, pod: str) -> GpuVerdict:
        samples = self.samples
        span = Seconds(samples[-1].time - samples[0].time)
        watts = _known([sample.gpu.power_watts for sample in samples])
        evidence = (
            Evidence("gpu_utilization", _largest(samples, "utilization_ratio"), "ratio", span, "agent", "max"),
            Evidence("gpu_sm_active", _largest(samples, "sm_active_ratio"), "ratio", span, "agent", "max"),
            Evidence("gpu_memory_used", samples[-1].gpu.memory_used_bytes, "bytes", Seconds(0.0), "agent"),
            Evidence("gpu_power", max(watts) if watts else samples[-1].gpu.power_watts, "watts", span, "agent", "max"),
        )
        return GpuVerdict(
            self.node.name, self.uuid, self.model, state, Ratio(round(sure, 2)), reason, message, pod, evidence
        )


def _activity(sample: gpus.GpuSample) -> Value:
    """Return the larger of what is known; without either the moment is dark."""
    values = _known([sample.gpu.utilization_ratio, sample.gpu.sm_active_ratio])
    return max(values) if values else sample.gpu.utilization_ratio


def _known(values: Sequence[Value]) -> list[float]:
    return [value for value in values if not isinstance(value, Unknown)]


def _largest(samples: tuple[gpus.GpuSample, ...], name: str) -> Value:
    values: list[Value] = [getattr(sample.gpu, name) for sample in samples]
    known = _known(values)
    return max(known) if known else values[-1]


def _number(value: Value) -> float:
    assert not isinstance(value, Unknown)
    return value
