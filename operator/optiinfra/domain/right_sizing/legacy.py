"""CPU and memory requests from usage: the Vertical Pod Autoscaler's estimate, with its bounds, as a proposal.

Usage is kept as two decaying histograms and one running daily memory peak per container: a few hundred floats instead
of months of samples. The estimate is the VPA's own, so that it can be checked against it and becomes the baseline for
what replaces it. It refuses usage that was not measured or not for long enough, and changes too small to be worth a
restart. It never applies anything, never raises a limit, and does not size GPUs or replicas.
"""

import json
import math
import struct
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.evidence import Direction, Evidence, Proposal, RecommendationType, Refusal, Savings
from optiinfra.domain.histogram import CPU_BUCKETS, DAY, MEMORY_BUCKETS, DecayingHistogram, InvalidCheckpointError
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.right_sizing.sizing import MEBIBYTE, Resource
from optiinfra.domain.right_sizing.usage import ContainerUsage
from optiinfra.domain.units import Bytes, Cores, Ratio, Seconds, UnixTime
from optiinfra.domain.workload import ContainerFacts

MARGIN: Final = 0.15
TARGET_SHARE: Final = Ratio(0.9)
LOWER_SHARE: Final = Ratio(0.5)
UPPER_SHARE: Final = Ratio(0.95)
POD_LEAST_CPU: Final = Cores(0.025)
POD_LEAST_MEMORY: Final = Bytes(250.0 * 1e6)
LEAST_CHANGE: Final = Ratio(0.1)
LEAST_HISTORY: Final = Seconds(3600.0)
MINUTES_PER_DAY: Final = 1440.0
_CPU_WEIGHT: Final = 0.1
_OUT_OF_MEMORY_FACTOR: Final = 1.2
_OUT_OF_MEMORY_LEAST: Final = 100.0 * MEBIBYTE
_MAGIC: Final = b"OIRU"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sBdddddqHH")


class ContainerUsageHistory:
    """Usage of one container over all pods of its workload."""

    def __init__(self) -> None:
        self._cpu = DecayingHistogram(CPU_BUCKETS)
        self._memory = DecayingHistogram(MEMORY_BUCKETS)
        self._first = UnixTime(0.0)
        self._last = UnixTime(0.0)
        self._samples = 0
        self._peak = 0.0
        self._peak_end = UnixTime(0.0)

    @property
    def samples(self) -> int:
        """Number of moments at which CPU was measured."""
        return self._samples

    @property
    def lifespan(self) -> Seconds:
        """From the first measurement to the last."""
        return Seconds(self._last - self._first)

    @property
    def last(self) -> UnixTime | None:
        """When it was last measured; None when never."""
        return self._last if self._last > 0.0 else None

    @property
    def confidence(self) -> float:
        """Days of evidence as the VPA counts them: the shorter of the span and the samples at one a minute."""
        return min(self.lifespan / DAY, self._samples / MINUTES_PER_DAY)

    def observe(self, usage: ContainerUsage) -> bool:
        """Note a measurement. False when it held nothing that is known, or is older than the last one."""
        if usage.time < self._last:
            return False
        known = False
        if not isinstance(usage.cpu_cores, Unknown):
            self._cpu.add(usage.cpu_cores, weight=_CPU_WEIGHT, time=usage.time)
            self._samples += 1
            known = True
        if not isinstance(usage.memory_bytes, Unknown):
            self._observe_memory(usage.memory_bytes, usage.time)
            known = True
        if known:
            self._last = usage.time
            self._first = self._first if self._first > 0.0 else usage.time
        return known

    def observe_out_of_memory(self, *, time: UnixTime, used: Bytes) -> None:
        """Note that the container was killed for memory while it used (or was allowed) this much."""
        self._observe_memory(max(used * _OUT_OF_MEMORY_FACTOR, used + _OUT_OF_MEMORY_LEAST), time)
        self._last = max(self._last, time)
        self._first = self._first if self._first > 0.0 else time

    def cpu(self, share: Ratio) -> Value:
        """Percentile of CPU use, cores."""
        return self._cpu.percentile(share)

    def memory(self, share: Ratio) -> Value:
        """Percentile of the daily memory peaks, bytes."""
        return self._memory.percentile(share)

    def to_bytes(self) -> bytes:
        """Return a checkpoint, versioned and compressed; at most about 2 KiB."""
        cpu, memory = self._cpu.to_bytes(), self._memory.to_bytes()
        numbers = (self._first, self._last, self._peak, self._peak_end, 0.0)
        return _HEADER.pack(_MAGIC, _VERSION, *numbers, self._samples, len(cpu), len(memory)) + cpu + memory

    @classmethod
    def from_bytes(cls, data: bytes) -> "ContainerUsageHistory":
        """Read a checkpoint back. Raises InvalidCheckpointError."""
        if len(data) < _HEADER.size:
            raise InvalidCheckpointError(f"usage checkpoint: {len(data)} bytes are too few; begin with none")
        magic, version, first, last, peak, peak_end, _, samples, cpu, memory = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != _VERSION or len(data) != _HEADER.size + cpu + memory:
            raise InvalidCheckpointError("usage checkpoint: damaged or not of this version; begin with none")
        if not all(map(math.isfinite, (first, last, peak, peak_end))) or samples < 0 or last < first or peak < 0.0:
            raise InvalidCheckpointError("usage checkpoint: impossible values; begin with none")
        usage = cls()
        usage._cpu = DecayingHistogram.from_bytes(data[_HEADER.size : _HEADER.size + cpu])
        usage._memory = DecayingHistogram.from_bytes(data[_HEADER.size + cpu :])
        usage._first, usage._last = UnixTime(first), UnixTime(last)
        usage._peak, usage._peak_end, usage._samples = peak, UnixTime(peak_end), samples
        return usage

    def _observe_memory(self, value: float, time: UnixTime) -> None:
        """Only the peak of each day counts; the peak of the running day replaces itself."""
        if self._peak_end <= 0.0:
            self._peak_end = time
        if time < self._peak_end:
            if value <= self._peak:
                return
            if self._peak > 0.0:
                self._memory.subtract(self._peak, weight=1.0, time=self._peak_end)
        else:
            self._peak_end = UnixTime(self._peak_end + (math.floor((time - self._peak_end) / DAY) + 1.0) * DAY)
        self._memory.add(value, weight=1.0, time=self._peak_end)
        self._peak = value


@dataclass(frozen=True, slots=True)
class Estimate:
    """Target and bounds of one resource, in cores or bytes."""

    target: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class VpaEstimate:
    """What the Vertical Pod Autoscaler 1.2 would recommend for a container."""

    cpu: Estimate | Unknown
    memory: Estimate | Unknown


def vpa(usage: ContainerUsageHistory, *, containers: int = 1) -> VpaEstimate:
    """Estimate as the VPA does; `containers` is the number in the pod, among which the floors are divided."""
    confidence = max(usage.confidence, 1e-9)
    shares = (TARGET_SHARE, LOWER_SHARE, UPPER_SHARE)
    cpu = _estimate([usage.cpu(share) for share in shares], confidence, least=POD_LEAST_CPU / containers)
    memory = _estimate([usage.memory(share) for share in shares], confidence, least=POD_LEAST_MEMORY / containers)
    return VpaEstimate(cpu=cpu, memory=memory)


def _estimate(percentiles: list[Value], confidence: float, *, least: float) -> Estimate | Unknown:
    """Percentile, then margin, then confidence, then floor: the VPA's order."""
    known = []
    for value in percentiles:
        if isinstance(value, Unknown):
            return value
        known.append(value * (1.0 + MARGIN))
    target, lower, upper = known
    return Estimate(
        target=max(target, least),
        lower=max(lower * (1.0 + 0.001 / confidence) ** -2.0, least),
        upper=max(upper * (1.0 + 1.0 / confidence), least),
    )


def recommend(
    container: ContainerFacts,
    usage: ContainerUsageHistory,
    *,
    replicas: int = 1,
    containers: int = 1,
    model_server: bool = False,
    least_history: Seconds = LEAST_HISTORY,
) -> tuple[Proposal | Refusal, ...]:
    """Propose requests for one container: always one answer for CPU and one for memory, in this order.

    `replicas` counts the pods for the savings, `containers` those in one pod; `model_server` marks the engine's own
    container, whose memory peaks while a model is loaded and is never to be changed without a person.
    """
    estimates = vpa(usage, containers=max(1, containers))
    answers: list[Proposal | Refusal] = []
    for resource, estimate, request, limit in (
        (Resource.CPU, estimates.cpu, container.cpu_request_cores, container.cpu_limit_cores),
        (Resource.MEMORY, estimates.memory, container.memory_request_bytes, container.memory_limit_bytes),
    ):
        subject = f"containers[{container.name}].requests.{resource}"
        if isinstance(estimate, Unknown):
            text = f"{subject}: usage is not measured ({estimate.detail or estimate.reason})"
            answers.append(Refusal(RecommendationType.RESOURCES, str(UnknownReason.NOT_MEASURED), text))
        elif usage.lifespan < least_history:
            text = f"{subject}: usage is known for {usage.lifespan:.0f} s, {least_history:.0f} s are needed"
            answers.append(Refusal(RecommendationType.RESOURCES, str(UnknownReason.TOO_FEW_SAMPLES), text))
        else:
            answers.append(
                _propose(
                    resource,
                    container.name,
                    estimate,
                    usage,
                    request=request,
                    limit=limit,
                    replicas=replicas,
                    model_server=model_server,
                )
            )
    return tuple(answers)


def _propose(
    resource: Resource,
    name: str,
    estimate: Estimate,
    usage: ContainerUsageHistory,
    *,
    request: Value,
    limit: Value,
    replicas: int,
    model_server: bool,
) -> Proposal | Refusal:
    setting = f"containers[{name}].requests.{resource}"
    target, notes = estimate.target, []
    if not isinstance(limit, Unknown) and target > limit:
        target = limit
        notes.append(f"held at the limit {_quantity(resource, limit)}, which usage would exceed")
    current = 0.0 if isinstance(request, Unknown) else request
    if current > 0.0 and abs(target - current) < LEAST_CHANGE * current:
        text = (
            f"{setting}: {_quantity(resource, target)} is within {LEAST_CHANGE:.0%} of {_quantity(resource, current)}"
        )
        return Refusal(RecommendationType.RESOURCES, "SmallChange", text)
    sensitive = model_server and resource is Resource.MEMORY
    if sensitive:
        notes.append("recommendation only: loading a model may need more than serving it; watch one restart first")
    if isinstance(request, Unknown):
        reason = "RequestMissing"
    elif sensitive:
        reason = "ModelServerMemory"
    else:
        reason = "OverRequested" if target < current else "UnderRequested"
    what = "p90 of CPU use" if resource is Resource.CPU else "p90 of daily memory peaks"
    days = usage.lifespan / DAY
    text = f"{setting}: {what} over {days:.2g} days plus {MARGIN:.0%} is {_quantity(resource, target)}"
    text += f", {_quantity(resource, current)} is requested" if current > 0.0 else ", no request is set"
    freed = max(0.0, current - target) * max(0, replicas)
    trust = usage.confidence / (usage.confidence + 1.0)
    return Proposal(
        type=RecommendationType.RESOURCES,
        reason=reason,
        message="; ".join([text, *notes]),
        setting=setting,
        current=_quantity(resource, current) if current > 0.0 else "",
        proposed=_quantity(resource, target),
        lower=_quantity(resource, min(estimate.lower, target)),
        upper=_quantity(resource, max(estimate.upper, target)),
        direction=Direction.RESIZE,
        confidence=Ratio(round(trust * (0.5 if sensitive else 1.0), 3)),
        evidence=_evidence(resource, usage, request=request),
        savings=Savings(cpu_cores_freed=freed) if resource is Resource.CPU else Savings(memory_bytes_freed=freed),
        subject=name,
        patch=_patch(name, resource, _quantity(resource, target)),
    )


def _evidence(resource: Resource, usage: ContainerUsageHistory, *, request: Value) -> tuple[Evidence, ...]:
    window, unit = usage.lifespan, "cores" if resource is Resource.CPU else "bytes"
    signal = "container_cpu_usage" if resource is Resource.CPU else "container_memory_daily_peak"
    percentile = usage.cpu if resource is Resource.CPU else usage.memory
    return (
        Evidence(signal, percentile(LOWER_SHARE), unit, window, "agent", "p50"),
        Evidence(signal, percentile(TARGET_SHARE), unit, window, "agent", "p90"),
        Evidence(signal, percentile(UPPER_SHARE), unit, window, "agent", "p95"),
        Evidence("samples", float(usage.samples), "", window, "agent", "sum"),
        Evidence(f"{resource}_request", request, unit, Seconds(0.0), "kubernetes"),
    )


def _quantity(resource: Resource, value: float) -> str:
    """Write a quantity that is never below the value: millicores, mebibytes."""
    if resource is Resource.CPU:
        return f"{math.ceil(round(value * 1000.0, 6))}m"
    return f"{math.ceil(round(value / MEBIBYTE, 6))}Mi"


def _patch(container: str, resource: Resource, quantity: str) -> str:
    """Strategic-merge patch of a workload with a pod template; the name is quoted as JSON, which YAML reads."""
    return (
        "spec:\n  template:\n    spec:\n      containers:\n"
        f"      - name: {json.dumps(container)}\n        resources:\n          requests:\n"
        f"            {resource}: {json.dumps(quantity)}\n"
    )
